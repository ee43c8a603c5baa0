"""Scenarios as TOML files: the package's own, and yours (docs/scenarios.md has the members).

A file names others, recordings and calibrations, by paths beside it. What was read is kept with the
scenario as a `Definition`, so that results hold all that they were made from.
"""

from __future__ import annotations

import gzip
import io
import json
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from laps_env.catalog import list_scenarios, scenario_entries
from laps_env.sim.calibration_file import read_calibration
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace
from laps_env.traces.importers import read_arrivals
from laps_env.traces.importers.arrivals import Unit
from laps_env.traces.joined import joined
from laps_env.utils.checks import check_not_negative, check_one_of, check_positive
from laps_env.utils.documents import convert
from laps_env.utils.splits import Split
from laps_env.workloads.acceptance import ChainProfile
from laps_env.workloads.arrivals import (
    AllAtOnce,
    ArrivalProcess,
    GammaGaps,
    ModulatedPoisson,
    Poisson,
    RecordedArrivals,
    Scaling,
)
from laps_env.workloads.confidence import CONCENTRATION
from laps_env.workloads.drift import Drift
from laps_env.workloads.limits import Limits
from laps_env.workloads.requests import GeneratedRequests, RecordedRequests, RequestSource
from laps_env.workloads.scenario import Definition, Scenario

Made = TypeVar("Made")
#: Where a file is that a scenario names.
Find = Callable[[str], Path]

_ARRIVALS: dict[str, type[Any]] = {
    "poisson": Poisson,
    "gamma": GammaGaps,
    "modulated_poisson": ModulatedPoisson,
    "all_at_once": AllAtOnce,
}
#: Largest file that a definition of somebody else's may hold.
_LARGEST_BYTES = 2**30
#: Seed of the choice which recorded requests are kept for *test*.
_SPLIT_SEED = 0


class _Log(msgspec.Struct, forbid_unknown_fields=True):
    log: str
    unit: Unit | None = None
    scaling: Scaling = "half"


class _Requests(msgspec.Struct, forbid_unknown_fields=True):
    recording: str | None = None
    trace: str | list[str] | None = None
    family: str | None = None
    profiles: dict[str, dict[str, Any]] | None = None
    mix: dict[str, float] | None = None
    train_share: float | None = None
    longest_tokens: Annotated[int, Meta(ge=1, le=2**24)] | None = None
    concentration: float | None = None
    drift: dict[str, float] | None = None
    lengths: Literal["arrivals"] | None = None

    def __post_init__(self) -> None:
        kinds = ("recording", "trace", "family", "profiles")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(kinds)}, got {given or 'none'}")
        for kind, belongs in (
            ("train_share", ("trace",)),
            ("longest_tokens", ("family", "profiles")),
            ("lengths", ("family", "profiles")),
            ("concentration", ("family", "profiles")),
            ("drift", ("family", "profiles")),
        ):
            if getattr(self, kind) is not None and given[0] not in belongs:
                raise ValueError(f"{kind}: expected none beside {given[0]}")


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    server: dict[str, Any]
    costs: dict[str, Any]
    requests: _Requests
    name: str | None = None
    description: str = ""
    assumed: str = ""
    arrivals: dict[str, Any] = msgspec.field(default_factory=lambda: {"kind": "poisson"})
    limits: dict[str, dict[str, Any]] = {}
    predictor_error: float | Literal["recorded"] | None = None
    saturation_rps: dict[Split, float] = {}


def read_scenario(path: str | Path) -> Scenario:
    """Read a scenario's file; where it does not say its saturation, that is measured.

    Raises:
        ValueError: A file that is no scenario, or one that it names is not as it should be; the
            message names the file, the member, what was expected and what came.
        OSError: A file cannot be read.
    """
    path = Path(path)
    named: dict[str, Path] = {}

    def find(name: str) -> Path:
        named[name] = path.parent / name
        return named[name]

    try:
        text = path.read_text(encoding="utf-8")
        scenario = _own(text, path.stem, find)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    packed = ((name, gzip.compress(file.read_bytes(), mtime=0)) for name, file in named.items())
    return replace(scenario, definition=Definition(scenario.name, text, tuple(packed)))


@cache
def restored(definition: Definition) -> Scenario:
    """The scenario of a definition, without any of its files.

    Raises:
        ValueError: A definition that is none; it may be somebody else's.
    """
    with TemporaryDirectory() as folder:
        kept: dict[str, Path] = {}
        for number, (name, packed) in enumerate(definition.files):
            kept[name] = Path(folder) / str(number) / Path(name).name
            kept[name].parent.mkdir()
            kept[name].write_bytes(_unpacked(name, packed))

        def find(name: str) -> Path:
            check_one_of("file", name, kept)
            return kept[name]

        scenario = _own(definition.text, definition.name, find)
    return replace(scenario, definition=definition)


def _unpacked(name: str, packed: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(_LARGEST_BYTES + 1)
    except (EOFError, OSError, zlib.error) as reason:
        raise ValueError(f"file {name}: expected it gzip-compressed, got {reason}") from None
    if len(content) > _LARGEST_BYTES:
        raise ValueError(f"file {name}: expected at most {_LARGEST_BYTES} bytes, got more")
    return content


def _own(text: str, name: str, find: Find) -> Scenario:
    """A scenario of somebody's own."""
    scenario = _made(tomllib.loads(text), name, find)
    if scenario.name in list_scenarios():
        raise ValueError(f"name: expected one of its own, got {scenario.name!r} of the package")
    if not scenario.name or not scenario.name.isprintable():
        raise ValueError(f"name: expected one line, got {scenario.name!r}")
    unknown = scenario.limits.keys() - set(scenario.requests.categories)
    if unknown:
        known = ", ".join(scenario.requests.categories)
        raise ValueError(f"limits: expected categories of {known}, got {sorted(unknown)}")
    return scenario if scenario.saturation_rps else scenario.with_saturation()


@cache
def named_scenario(name: str) -> Scenario:
    """A scenario of the package; it names no file."""
    return _made(scenario_entries()[name], name, Path)


def _made(entry: dict[str, Any], name: str, find: Find) -> Scenario:
    document = convert(entry, _Document)
    arrivals = _arrivals(document.arrivals, find)
    server = {**document.server}
    if "cost" in server:
        raise ValueError("server.cost: expected none, costs are a table of their own")
    if isinstance(server.get("draft_length"), list):
        server["draft_length"] = tuple(server["draft_length"])
    for split, rate in document.saturation_rps.items():
        check_positive(f"saturation_rps.{split}", rate)
    if isinstance(document.predictor_error, float):
        check_not_negative("predictor_error", document.predictor_error)
    scenario = Scenario(
        name=document.name or name,
        description=document.description,
        server=_filled(ServerModel, "server", {"cost": _cost(document.costs, find), **server}),
        requests=_requests(document.requests, arrivals, find),
        arrivals=arrivals,
        saturation_rps={split.value: rate for split, rate in document.saturation_rps.items()},
        limits={
            category: _filled(Limits, f"limits.{category}", limits)
            for category, limits in document.limits.items()
        },
        predictor_error=document.predictor_error,
    )
    scenario.error_in_force(None)
    return scenario


def _filled(kind: type[Made], place: str, table: dict[str, Any]) -> Made:
    """A dataclass from a table of its members.

    Raises:
        ValueError: A member that is unknown, missing or wrong.
    """
    known: Any = fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in known]
    for name in table:
        check_one_of(f"member of {place}", name, names)
    missing = [f.name for f in known if f.default is MISSING and f.name not in table]
    if missing:
        raise ValueError(f"{place}: expected {', '.join(missing)}, got {', '.join(table)}")
    try:
        return kind(**table)
    except (TypeError, ValueError) as reason:
        raise ValueError(f"{place}: {reason}") from None


def _cost(table: dict[str, Any], find: Find) -> CostModel:
    """Costs by the name of a model, from a calibration, or constant by constant."""
    match table:
        case {"name": str(name), **others} if not others:
            return get_cost(name)
        case {"calibration": str(file), **others} if not others:
            return read_calibration(find(file))
    if not isinstance(table.get("source", ""), str):
        raise ValueError(f"costs.source: expected a text, got {table['source']!r}")
    return _filled(CostModel, "costs", table)


def _arrivals(table: dict[str, Any], find: Find) -> ArrivalProcess:
    """Arrivals by a law, or from a log."""
    if "log" in table:
        given = convert(table, _Log, "arrivals")
        return RecordedArrivals(read_arrivals(find(given.log), unit=given.unit), given.scaling)
    return make_arrivals(table)


def make_arrivals(table: dict[str, Any]) -> ArrivalProcess:
    """Arrival process from its data, ``{"kind": ..., parameters}``.

    Raises:
        ValueError: An unknown kind, or a parameter that is unknown, missing or wrong.
    """
    parameters = dict(table)
    kind = parameters.pop("kind", None)
    check_one_of("arrivals.kind", kind, _ARRIVALS)
    process: ArrivalProcess = _filled(_ARRIVALS[kind], "arrivals", parameters)
    return process


def _requests(given: _Requests, arrivals: ArrivalProcess, find: Find) -> RequestSource:
    if given.family is not None or given.profiles is not None:
        return _generated(given, arrivals)
    if given.recording is not None:
        names = (f"{given.recording}-{part}" for part in ("train", "test"))
        train, test = map(_package_trace, names)
        name = f"recorded {given.recording}"
    else:
        paths = [given.trace] if isinstance(given.trace, str) else given.trace or []
        if len(set(paths)) < len(paths):
            raise ValueError(f"requests.trace: expected each file once, got {', '.join(paths)}")
        trace = joined([AcceptanceTrace.load(find(path)) for path in paths])
        if (trace.prompt_tokens == 0).any():
            raise ValueError("requests.trace: expected prompt lengths, got requests without")
        share = 0.5 if given.train_share is None else given.train_share
        train, test = trace.split(_SPLIT_SEED, share)
        name = f"recorded {', '.join(Path(path).name for path in paths)}"
    if given.mix is None:
        return RecordedRequests(train, test, name=name)
    train, test = (part.of_categories(list(given.mix)) for part in (train, test))
    return RecordedRequests(train, test, name=name, weights=tuple(given.mix.values()))


def _generated(given: _Requests, arrivals: ArrivalProcess) -> GeneratedRequests:
    if given.family is not None:
        families = _data("profiles.json")["families"]
        check_one_of("requests.family", given.family, families)
        known, source = families[given.family]["categories"], families[given.family]["source"]
    else:
        known, source = given.profiles or {}, "the scenario's file"
    mix = dict.fromkeys(known, 1.0) if given.mix is None else given.mix
    profiles = {}
    for name in mix:
        check_one_of("requests.mix", name, known)
        table = {"source": source, **known[name]}
        profiles[name] = _filled(ChainProfile, f"requests.profiles.{name}", table)
    lengths = None
    if given.lengths == "arrivals":
        if not isinstance(arrivals, RecordedArrivals):
            raise ValueError("requests.lengths: expected a log of arrivals, got a law")
        lengths = arrivals
    return GeneratedRequests(
        profiles,
        tuple(mix.values()),
        4096 if given.longest_tokens is None else given.longest_tokens,
        lengths,
        family=given.family or "of its own",
        concentration=CONCENTRATION if given.concentration is None else given.concentration,
        drift=None if given.drift is None else _filled(Drift, "requests.drift", given.drift),
    )


def list_costs() -> list[str]:
    """Names of the cost models that the package carries: published ones, then measured ones."""
    measured = (files("laps_env") / "data" / "calibrations").iterdir()
    return [*_data("costs.json"), *sorted(file.name.removesuffix(".json") for file in measured)]


@cache
def get_cost(name: str) -> CostModel:
    """Cost model of the package by name.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    check_one_of("cost", name, list_costs())
    published = _data("costs.json")
    if name in published:
        return CostModel(**published[name])
    with as_file(files("laps_env") / "data" / "calibrations" / f"{name}.json") as path:
        return read_calibration(path)


@cache
def _package_trace(name: str) -> AcceptanceTrace:
    known = files("laps_env") / "data" / "traces"
    check_one_of("recording", f"{name}.safetensors", [file.name for file in known.iterdir()])
    with as_file(known / f"{name}.safetensors") as path:
        return AcceptanceTrace.load(path)


@cache
def _data(name: str) -> Any:
    return json.loads((files("laps_env") / "data" / name).read_text(encoding="utf-8"))

"""Recorded acceptances and arrivals in place of a scenario's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.traces.importers import import_spec_bench, read_arrivals
from laps_env.utils.checks import check_one_of
from laps_env.workloads.acceptance import bounded_tokens
from laps_env.workloads.arrivals import RecordedArrivals, Scaling
from laps_env.workloads.chain_fill import chain_fill
from laps_env.workloads.requests import GeneratedRequests, RecordedRequests
from laps_env.workloads.scenarios import Scenario

Lengths = Literal["acceptance", "arrivals"]


class Played(NamedTuple):
    """A scenario on recordings.

    Attributes:
        scenario: Scenario to be played.
        source: Origins of acceptance, output lengths, prompt lengths and arrivals, in words.
        filled_share: Share of the recorded acceptance that had to be filled, None without one.
    """

    scenario: Scenario
    source: dict[str, str]
    filled_share: float | None


#: Share of the recorded groups (questions) from which laws and saturation are had; *test*
#: workloads draw from the rest. One seed for the split, the filling and the drawn prompt lengths.
TRAIN_SHARE = 0.5
SEED = 0


@dataclass(frozen=True)
class Recordings:
    """Files to play back, None = the scenario's own generator.

    Attributes:
        acceptance_trace: Path of an ``.safetensors`` file, or of the reduced Spec-Bench form
            (``.jsonl``, ``.jsonl.gz``), which is read as the run of a plain draft model.
        arrival_trace: Path of a file that `laps_env.traces.importers.read_arrivals` reads.
        lengths: Origin of prompt and output lengths: the ``acceptance`` (recorded or generated) or
            the ``arrivals``' own columns, which a generated acceptance then follows.
        scaling: Stretch of recorded arrivals to a load, one for a ``half`` of the trace or one for
            each ``window`` (`laps_env.workloads.arrivals.RecordedArrivals`).
        prompts: Path of Spec-Bench's question file, from which prompt lengths are estimated where
            the acceptance trace has none; without it they are drawn from the category's profile.

    Raises:
        ValueError: Options that do not go together.
    """

    acceptance_trace: str | None = None
    arrival_trace: str | None = None
    lengths: Lengths = "acceptance"
    scaling: Scaling = "half"
    prompts: str | None = None

    def __post_init__(self) -> None:
        for name in ("acceptance_trace", "arrival_trace", "prompts"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str):
                raise ValueError(f"{name}: expected a path, got {path!r}")
        check_one_of("lengths", self.lengths, get_args(Lengths))
        check_one_of("scaling", self.scaling, get_args(Scaling))
        if self.lengths == "arrivals" and (self.arrival_trace is None or self.acceptance_trace):
            raise ValueError(
                "lengths of the arrivals: expected an arrival trace and no acceptance trace, got "
                f"arrival trace {self.arrival_trace}, acceptance trace {self.acceptance_trace}"
            )
        if self.prompts and (
            not self.acceptance_trace or self.acceptance_trace.endswith(".safetensors")
        ):
            raise ValueError(
                "prompts: expected a Spec-Bench acceptance trace beside it, "
                f"got {self.acceptance_trace}"
            )

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by the name of its field.

        Raises:
            ValueError: A path at which no file is.
        """
        named = {name: getattr(self, name) for name in ("acceptance_trace", "arrival_trace")}
        named["prompts"] = self.prompts
        for name, path in named.items():
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{name}: expected a file, got {path}, which is none")
        return {name: _sha256(path) for name, path in named.items() if path is not None}

    def apply(self, scenario: Scenario) -> Played:
        """The scenario on these recordings, and where its traffic then comes from.

        Where requests are not the scenario's own, saturation is measured anew.

        Raises:
            OSError, ValueError: A file that cannot be read, or that does not suit the scenario.
        """
        generated = scenario.requests
        source = dict.fromkeys(("acceptance", "output_lengths", "prompt_lengths"), generated.name)
        source["arrivals"] = str(scenario.arrivals)
        filled_share = None
        if self.arrival_trace is not None:
            arrivals = RecordedArrivals(
                _read_arrivals(self.arrival_trace, _sha256(self.arrival_trace)), self.scaling
            )
            scenario = scenario.with_arrivals(arrivals)
            source["arrivals"] = str(arrivals)
            if self.lengths == "arrivals":
                scenario = scenario.with_lengths_of(arrivals)
                source["output_lengths"] = source["prompt_lengths"] = source["arrivals"]
        if self.acceptance_trace is not None:
            if not isinstance(generated, GeneratedRequests):
                raise ValueError(
                    "acceptance trace: expected a scenario with generated requests to replace "
                    f"(...-8b), got {scenario.name}"
                )
            trace, prompt_source = self._acceptance(generated)
            name = f"recorded {Path(self.acceptance_trace).name}"
            scenario = scenario.with_requests(
                RecordedRequests(*trace.split(SEED, TRAIN_SHARE), name=name)
            )
            source["acceptance"] = source["output_lengths"] = name
            source["prompt_lengths"] = prompt_source
            filled_share = round(1.0 - trace.observed_share, 6)
        if not scenario.saturation_rps:
            scenario = scenario.with_saturation()
        return Played(scenario, source, filled_share)

    def _acceptance(self, requests: GeneratedRequests) -> tuple[AcceptanceTrace, str]:
        """The trace with a prompt length for every request, and where these come from."""
        path = Path(str(self.acceptance_trace))
        if path.suffix == ".safetensors":
            trace, prompt_source = AcceptanceTrace.load(path), f"recorded {path.name}"
        else:
            info = TraceInfo(drafter="draft-model", target_model="not recorded")
            trace = import_spec_bench(
                path,
                info,
                plain_draft=True,
                questions=self.prompts,
                fill=chain_fill(requests.profiles),
                seed=SEED,
            )
            prompt_source = f"estimated from {Path(str(self.prompts)).name}, characters / 4"
        missing = trace.prompt_tokens == 0
        if not missing.any():
            return trace, prompt_source
        drawn = trace.prompt_tokens.copy()
        for i in np.flatnonzero(missing):
            category = trace.categories[trace.category[i]]
            drawn[i] = _draw_prompt(requests, category, int(i))
        return replace(trace, prompt_tokens=drawn), f"drawn from {requests.name} (not recorded)"


def _draw_prompt(requests: GeneratedRequests, category: str, request: int) -> int:
    name = f"category of request {request} without a prompt length"
    check_one_of(name, category, requests.profiles)
    profile = requests.profiles[category]
    z = np.random.default_rng([SEED, request]).standard_normal()
    log_tokens = profile.prompt_log_mean + profile.prompt_log_sd * z
    return int(bounded_tokens(log_tokens, requests.longest_tokens))


@cache
def _read_arrivals(path: str, sha256: str) -> ArrivalTrace:
    """Read once for all scenarios; ``sha256`` is part of the cache's key alone."""
    return read_arrivals(path)


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

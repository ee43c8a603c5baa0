"""Results of an evaluation, one type of row for the replay and the live server, and their file.

A file may be somebody else's: it is data that is checked before anything uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta

from laps_env.evaluation.recordings import Recordings
from laps_env.utils.checks import check_positive
from laps_env.utils.documents import read_document, write_document
from laps_env.workloads.predictors import ErrorName
from laps_env.workloads.scenario import AS_RECORDED, Definition

FORMAT, VERSION = "laps-env results", 2

#: Formats of version 1, whose rows name neither simulator nor scenario nor rule by what they are.
_OLD_FORMATS = ("laps-env-results", "laps-env live results")

Positive = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=1, le=2**62)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z")]
Bounds = tuple[Positive, Positive]
"""95 % interval."""
Shares = tuple[NotNegative, NotNegative]
"""95 % interval of what may be 0."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A policy in a scenario at a load, over all workloads; None stands for "no data".

    Attributes:
        scenario: Name of the scenario.
        load: Share of saturation, or ``"recorded"``.
        policy: Name, folder or file of the policy.
        reference: Policy that ratios are relative to.
        oracle: Clairvoyant at the far end of the gap; None on a live server.
        backend: Server behind the row, ``replay`` or ``live``.
        simulator: `laps_env.sim.SIMULATOR_VERSION` that made the row.
        scenario_digest: `Scenario.digest` of the scenario on its recordings.
        policy_digest: `Policy.digest` of the policy.
        parameters: Tunable numbers of the policy by name.
        episodes: Number of workloads.
        num_requests: Requests of a workload.
        split: Split of the workloads.
        seeds: Seeds of the workloads.
        slots: Slots of the request table.
        predictor_error: Sd of log(predicted / true length), ``"recorded"``, ``"refreshed"``, or
            None on a live server, where a length model predicts.
        batch_size: Largest number of requests in a round.
        saturation_rps: Saturation in requests per second.
        source: Origins of acceptance, lengths and arrivals, or models and device, in words.
        filled_share: Share of a recording that had to be filled, None without one.
        recordings: Files that were played back.
        recording_digests: SHA-256 of each of these files by its name in ``recordings``.
        mean_latency_s: Mean latency in seconds, with its interval ``mean_latency_ci95``.
        ratio_to_reference: Summed latency over the reference's on the same workloads, with its
            interval ``ratio_ci95``.
        iqm_ratio: Interquartile mean of the workloads' own ratios, with ``iqm_ratio_ci95``.
        gap_closed: Share of the way from reference to oracle; None where that gap is too small.
        p50_latency_s: Mean over workloads of each one's percentile, as all that follow
            (docs/metrics.md); ``p99_latency_ci95`` is the interval of the last.
        category_mean_latency_s: Mean latency by category.
        p99_itl_s: Percentile 99 of the time between deliveries of tokens to a request.
        longest_stall_s: Longest such time.
        slo_attainment: Share of the requests with limits that were complete within them, None where
            none has limits; ``goodput_rps``: such requests per second; with their intervals
            ``slo_attainment_ci95``, ``goodput_rps_ci95``.
        max_slowdown: Largest latency over the time alone.
        max_idle_s: Longest time that any request waited for a round.
        scheduling_share: Scheduler's time over the rounds' on a live server, else None.
        contended_share: Share of the rounds that left somebody waiting, mean over workloads.
        load_realised: Load that the workloads bring, mean over them
            (`laps_env.workloads.load.realised_load`), with its range ``load_realised_range``; None
            on a live server, and where all requests come at once.
        episode_load_realised: The same of each workload.
        episode_mean_latency_s: Mean latency of each workload, in full precision.
        episode_p99_latency_s: Percentile 99 of each workload, in full precision.
    """

    scenario: str
    load: float | str
    policy: str
    reference: str
    oracle: str | None
    backend: Literal["replay", "live"]
    simulator: int
    scenario_digest: Digest
    policy_digest: Digest
    parameters: dict[str, float]
    episodes: Count
    num_requests: Count
    split: str
    seeds: list[int]
    slots: Count
    predictor_error: float | str | None
    batch_size: Count
    saturation_rps: Positive
    source: dict[str, str]
    filled_share: NotNegative | None
    recordings: Recordings
    recording_digests: dict[str, Digest]
    mean_latency_s: Positive
    mean_latency_ci95: Bounds | None
    ratio_to_reference: Positive
    ratio_ci95: Bounds | None
    iqm_ratio: Positive
    iqm_ratio_ci95: Bounds | None
    gap_closed: float | None
    p50_latency_s: Positive
    p95_latency_s: Positive
    p99_latency_s: Positive
    mean_ttft_s: Positive
    mean_tpot_s: NotNegative | None
    jain_fairness: Positive
    throughput_rps: Positive
    preemptions: NotNegative
    recomputed_tokens: NotNegative
    max_slowdown: Positive
    max_idle_s: NotNegative
    scheduling_share: NotNegative | None
    episode_mean_latency_s: list[Positive]
    episode_p99_latency_s: list[Positive]
    # rows before simulator version 3 have none of these
    contended_share: NotNegative | None = None
    load_realised: Positive | None = None
    load_realised_range: Bounds | None = None
    episode_load_realised: list[Positive] | None = None
    # and these were not taken down when most rows of version 3 were made
    p10_latency_s: Positive | None = None
    p25_latency_s: Positive | None = None
    p75_latency_s: Positive | None = None
    p90_latency_s: Positive | None = None
    p99_latency_ci95: Bounds | None = None
    category_mean_latency_s: dict[str, Positive] | None = None
    p50_ttft_s: Positive | None = None
    p90_ttft_s: Positive | None = None
    p99_ttft_s: Positive | None = None
    p50_tpot_s: NotNegative | None = None
    p90_tpot_s: NotNegative | None = None
    p99_tpot_s: NotNegative | None = None
    p99_itl_s: NotNegative | None = None
    longest_stall_s: NotNegative | None = None
    slo_attainment: NotNegative | None = None
    slo_attainment_ci95: Shares | None = None
    goodput_rps: NotNegative | None = None
    goodput_rps_ci95: Shares | None = None
    throughput_tps: NotNegative | None = None

    @property
    def place(self) -> str:
        """Scenario and load in words."""
        live = "live " if self.backend == "live" else ""
        return f"{live}{self.scenario}, load {self.load}"

    @property
    def family(self) -> str:
        """Origin of the acceptance, which scenarios are grouped by."""
        return self.source["acceptance"]

    def episode_of(self, seed: int) -> int:
        """Index of a seed's workload.

        Raises:
            ValueError: Unknown seed, listing those of the row.
        """
        _check_known("seed", seed, self.seeds)
        return self.seeds.index(seed)


@dataclass(frozen=True)
class Answers:
    """Texts of a live episode.

    Attributes:
        scenario, load, policy, seed: Address of the episode.
        texts: Answers, request by request.
    """

    scenario: str
    load: float | str
    policy: str
    seed: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """Content of a results file.

    Attributes:
        created: Time in UTC, ISO 8601.
        platform: Versions of Python, numpy and numba, system and machine.
        rows: One row per scenario, load and policy, the reference among the policies.
        texts: Answers of a live server, else none.
        definitions: Files of the scenarios that are not the package's own, by scenario.
    """

    created: str
    platform: dict[str, str]
    rows: Annotated[list[Row], Meta(min_length=1)]
    texts: list[Answers] = field(default_factory=list)
    definitions: dict[str, Definition] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Policy that ratios are relative to."""
        return self.rows[0].reference

    @property
    def oracle(self) -> str:
        """Clairvoyant at the far end of the gap, in words where there is none."""
        return self.rows[0].oracle or "none on a live server"

    @property
    def simulator(self) -> int:
        """Simulator version that made the rows."""
        return self.rows[0].simulator

    def find(self, scenario: str, load: float | str, policy: str) -> Row:
        """The row of a policy in a scenario at a load.

        Raises:
            ValueError: No such row, listing what there is.
        """
        rows = self.rows
        for name, value in (("scenario", scenario), ("load", load), ("policy", policy)):
            _check_known(name, value, [getattr(row, name) for row in rows])
            rows = [row for row in rows if getattr(row, name) == value]
        return rows[0]


def _check_known(name: str, value: Any, known: list[Any]) -> None:
    if value not in known:
        choices = ", ".join(map(str, dict.fromkeys(known)))
        raise ValueError(f"{name}: expected one of {choices}; got {value}")


def write_results(results: Results, path: Path) -> None:
    """Write a results file in one move.

    Raises:
        ValueError: Numbers that are not finite.
        OSError: The file cannot be written.
    """
    write_document(path, FORMAT, VERSION, msgspec.to_builtins(results))


def read_results(path: Path) -> Results:
    """The content of a results file; whether its rows can be played again, playing says.

    Raises:
        ValueError: No results file of this version, or one that contradicts itself.
        OSError: The file cannot be read.
    """
    _refuse_version_1(path)
    results = read_document(path, Results, FORMAT, VERSION)
    try:
        _check(results)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    return results


class _Head(msgspec.Struct):
    format: Any = None


def _refuse_version_1(path: Path) -> None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Head).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # whoever reads it as a document says what is wrong
    if found in _OLD_FORMATS:
        raise ValueError(
            f"{path}: expected results of version {VERSION}, got results of version 1, whose rows "
            "name no simulator version: run the evaluation again"
        )


def _check(results: Results) -> None:
    """What types cannot say."""
    _check_line("created", results.created)
    for k, row in enumerate(results.rows):
        try:
            _check_row(row)
        except ValueError as reason:
            raise ValueError(f"rows[{k}]: {reason}") from None
    for name in results.definitions:
        _check_line("definitions", name)
    for name in ("reference", "oracle", "backend", "simulator"):
        values = list(dict.fromkeys(getattr(row, name) for row in results.rows))
        if len(values) > 1:
            raise ValueError(f"rows: expected one {name} for all, got {values}")
    listed = {(row.scenario, row.load, row.policy) for row in results.rows}
    if len(listed) < len(results.rows):
        raise ValueError("rows: expected one per scenario, load and policy, got several")
    for row in results.rows:
        if (row.scenario, row.load, row.reference) not in listed:
            raise ValueError(f"rows: expected one of {row.reference} at {row.place}, got none")


def _check_row(row: Row) -> None:
    for name in ("scenario", "policy", "reference", "oracle", "split"):
        _check_line(name, getattr(row, name) or "")
    for name, text in row.source.items():
        _check_line("source", f"{name} {text}")
    if "acceptance" not in row.source:
        raise ValueError(f"source: expected where acceptance comes from, got {row.source}")
    if row.load != AS_RECORDED:
        check_positive("load", row.load)
    error = row.predictor_error
    if isinstance(error, str) and error not in get_args(ErrorName):
        words = " or ".join(map(repr, get_args(ErrorName)))
        raise ValueError(f"predictor_error: expected a number or {words}, got {error!r}")
    if len(set(row.seeds)) < len(row.seeds):
        raise ValueError(f"seeds: expected different ones, got {row.seeds}")
    _check_count("seeds", row.seeds, row.episodes)
    for name in ("mean_latency_s", "p99_latency_s", "load_realised"):
        mean, values = getattr(row, name), getattr(row, f"episode_{name}")
        if mean is values is None:
            continue
        _check_count(f"episode_{name}", values or [], row.episodes)
        if mean is None or not np.isclose(mean, np.mean(values), rtol=1e-9):
            raise ValueError(
                f"{name}: expected the mean of episode_{name}, {np.mean(values)}, got {mean}"
            )


def _check_count(name: str, values: list[Any], episodes: int) -> None:
    if len(values) != episodes:
        raise ValueError(f"{name}: expected {episodes}, one per episode, got {len(values)}")


def _check_line(name: str, text: str) -> None:
    if not text.isprintable():
        raise ValueError(f"{name}: expected a text of one line, got {text!r}")

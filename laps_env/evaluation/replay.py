"""The replay as a backend, and the same workloads again from a results row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from laps_env import policies
from laps_env.evaluation.backend import Setting
from laps_env.evaluation.episodes import evaluate_episode
from laps_env.evaluation.grid import ORACLE, Grid
from laps_env.evaluation.recordings import Played, Recordings
from laps_env.evaluation.results import Answers, Results, Row
from laps_env.policies import Policy
from laps_env.sim import SIMULATOR_VERSION
from laps_env.sim.metrics import time_alone_ns
from laps_env.sim.server_model import needs_confidence
from laps_env.workloads import Workload
from laps_env.workloads.load import realised_load
from laps_env.workloads.scenario_file import restored
from laps_env.workloads.scenarios import Scenario, get_scenario


class Replay:
    """The compiled simulator as a backend (`laps_env.evaluation.backend.Backend`)."""

    name: Literal["replay", "live"] = "replay"
    oracle: str | None = ORACLE
    one_at_a_time = False  # the kernel releases the interpreter lock

    def __init__(self) -> None:
        self.texts: list[Answers] = []

    def setting(self, grid: Grid, scenario: str | Scenario) -> Setting:
        """Make a scenario of the grid ready."""
        played = _on_recordings(grid.recordings, scenario)
        error = grid.predictor_error
        return Setting(
            scenario=played.scenario,
            policies={
                name: policies.make(name, played.scenario, predictor_error=error)
                for name in (*grid.listed, ORACLE)
            },
            predictor_error=played.scenario.error_in_force(error),  # type: ignore[arg-type]
            source=played.source,
            filled_share=played.filled_share,
        )

    def play(
        self, grid: Grid, setting: Setting, load: float | str, seed: int, names: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """Play one workload with each of these policies."""
        scenario, server = setting.scenario, setting.scenario.server
        workload = scenario.workload(
            load=load,
            num_requests=grid.num_requests,
            split=grid.split,
            seed=seed,
            predictor_error=grid.predictor_error,
            confidences=any(needs_confidence(p.draft_length) for p in setting.policies.values()),
        )
        alone = time_alone_ns(workload, server, server.reference_draft_length)
        brought = {"load_realised": realised_load(workload, server)}
        for name in names:
            metrics = evaluate_episode(
                setting.policies[name],
                workload,
                scenario,
                split=grid.split,
                slots=grid.slots,
                alone_ns=alone,
            )
            yield name, metrics | brought


def rerun(results: Results, row: Row, episode: int) -> dict[str, float]:
    """Run one workload of a results row again; its latencies equal the row's bit for bit.

    Args:
        results: Content of a results file.
        row: One of its rows.
        episode: Index into the row's ``seeds`` and ``episode_mean_latency_s``.

    Raises:
        ValueError: A row that cannot be run again, as `parts_of` says.
    """
    return evaluate_episode(*parts_of(results, row, episode), split=row.split, slots=row.slots)


def parts_of(results: Results, row: Row, episode: int) -> tuple[Policy, Workload, Scenario]:
    """Policy, workload and scenario of one workload of a results row.

    Args:
        results: Content of a results file.
        row: One of its rows.
        episode: Index into the row's ``seeds``.

    Raises:
        ValueError: A row of a live server or of another simulator version; or its scenario, policy
            or recording is not the one that the row was made from, whose name the message has.
    """
    try:
        scenario = _scenario_of(results, row)
        policy = policies.make(
            row.policy,
            scenario,
            predictor_error=row.predictor_error,  # type: ignore[arg-type]  # checked by make
            **row.parameters,  # type: ignore[arg-type]  # likewise
        )
        _check_same(f"policy {row.policy}", row.policy_digest, policy.digest)
        workload = scenario.workload(
            load=row.load,
            num_requests=row.num_requests,
            split=row.split,
            seed=row.seeds[episode],
            predictor_error=row.predictor_error,  # type: ignore[arg-type]
            confidences=needs_confidence(policy.draft_length),
        )
    except (ValueError, LookupError, TypeError) as reason:  # the row may be somebody else's
        raise ValueError(f"{row.place}, {row.policy}: cannot be run again: {reason}") from None
    return policy, workload, scenario


def _scenario_of(results: Results, row: Row) -> Scenario:
    """The scenario of a results row, on its recordings, from its definition where it has one."""
    if row.backend == "live":
        raise ValueError("expected a row of the replay, got one of a live server")
    if row.simulator != SIMULATOR_VERSION:
        raise ValueError(
            f"expected a row of simulator version {SIMULATOR_VERSION}, got one of version "
            f"{row.simulator}: evaluate again, or use the release that made it"
        )
    for name, digest in row.recordings.digests().items():
        path = getattr(row.recordings, name)
        _check_same(f"recording {path}", row.recording_digests.get(name), digest)
    definition = results.definitions.get(row.scenario)
    known = row.scenario if definition is None else restored(definition)
    scenario = _on_recordings(row.recordings, known).scenario
    named = f"scenario {row.scenario}"
    _check_same(named, row.scenario_digest, scenario.digest)
    _check_same(named, row.saturation_rps, scenario.saturation(row.split), "saturation")
    return scenario


def _check_same(what: str, expected: object, found: object, of_it: str = "digest") -> None:
    if found != expected:
        raise ValueError(f"{what} has changed: expected {of_it} {expected}, got {found}")


def _on_recordings(recordings: Recordings, scenario: str | Scenario) -> Played:
    if isinstance(scenario, Scenario):
        return recordings.apply(scenario)
    return _named_on_recordings(recordings, tuple(recordings.digests().values()), scenario)


@cache
def _named_on_recordings(recordings: Recordings, digests: tuple[str, ...], name: str) -> Played:
    """A named scenario on recordings, once for all rows; the digests are part of the key alone."""
    return recordings.apply(get_scenario(name))

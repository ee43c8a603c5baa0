"""Policies side by side on the live server, over the same requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any

from laps_env import policies
from laps_env.evaluation.grid import REFERENCE, TEST_SEEDS
from laps_env.evaluation.play import play
from laps_env.evaluation.rows import statistics_of
from laps_env.evaluation.runner import CODE
from laps_env.live.engine.loading import Pair
from laps_env.live.env import SpecDecodeLive
from laps_env.report.timeline import Timeline, TimelineRecorder
from laps_env.workloads.scenarios import get_scenario

Play = dict[str, Any]
"""The summary of an episode, ``texts`` apart."""

Place = tuple[str, float, int]
"""Scenario, load and seed of a workload."""


@dataclass(frozen=True)
class LiveGrid:
    """Policies x scenarios x loads, each on the same ``episodes`` workloads.

    Attributes:
        policies: names for `laps_env.policies.make`, none that needs the truth.
        scenarios: arrivals, batch, draft length, pool and saturation; the requests are prompts.
        loads: fractions of saturation.
        episodes: workloads per scenario and load, >= 1.
        num_requests: requests of a workload.
        first_seed: seeds are first_seed, first_seed + 1, ...
        pair: the models.
        server: further arguments of `laps_env.live.env.SpecDecodeLive`.
    """

    policies: tuple[str, ...]
    scenarios: tuple[str, ...]
    loads: tuple[float, ...]
    episodes: int
    num_requests: int
    pair: Pair
    server: dict[str, Any]
    first_seed: int = TEST_SEEDS.start

    def __post_init__(self) -> None:
        for name in self.policies:
            if policies.make(name, get_scenario(self.scenarios[0])).spec.clairvoyant:
                raise ValueError(
                    f"policies: expected rules that a live server can follow, got {name!r}, "
                    "which needs the true lengths"
                )

    @property
    def policies_to_run(self) -> tuple[str, ...]:
        """The policies, and what their rows are measured against."""
        return tuple(dict.fromkeys([*self.policies, REFERENCE]))

    def run(
        self,
        report: Callable[[str], None] = lambda done: None,
        keep: Callable[[Place, list[Timeline]], None] | None = None,
    ) -> dict[str, Any]:
        """Play everything, policies one after the other on each workload; a results file's content.

        Args:
            report: told of each finished run.
            keep: given scenario, load and seed of each workload when all policies have played it,
                and their timelines; without it none is recorded, which takes the scheduler time.
        """
        rows, texts = [], []
        seeds = range(self.first_seed, self.first_seed + self.episodes)
        for name, load in product(self.scenarios, self.loads):
            made = {p: policies.make(p, get_scenario(name)) for p in self.policies_to_run}
            plays: dict[str, list[Play]] = {policy: [] for policy in made}
            lengths = {rule.draft_length for rule in made.values()}
            servers = {length: self._server(name, load, length) for length in lengths}
            for seed in seeds:
                timelines: list[Timeline] = []
                for policy, rule in made.items():
                    server = servers[rule.draft_length]
                    recorder = TimelineRecorder(server, policy)
                    played = server if keep is None else recorder
                    summary: Play = play(rule, played, seed=seed)["summary"]
                    texts.append({"policy": policy, "seed": seed, "texts": summary.pop("texts")})
                    plays[policy].append(summary)
                    if recorder.timeline is not None:
                        timelines.append(recorder.timeline)
                    report(f"{name}, load {load}, {policy}, seed {seed}")
                if keep is not None:
                    keep((name, load, seed), timelines)
            env = next(iter(servers.values()))  # all of the same models
            rows += [self._row(env, name, load, seeds, policy, plays) for policy in self.policies]
        return {
            "format": "laps-env live results",
            "version": 1,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": CODE,
            "reference": REFERENCE,
            "oracle": "none on a live server",
            "rows": rows,
            "texts": texts,
        }

    def _server(self, scenario: str, load: float, draft_length: str | None) -> SpecDecodeLive:
        return SpecDecodeLive(
            target=self.pair,
            scenario=scenario,
            load=load,
            num_requests=self.num_requests,
            split="test",
            draft_length=draft_length,
            **self.server,
        )

    def _row(
        self,
        env: SpecDecodeLive,
        scenario: str,
        load: float,
        seeds: Sequence[int],
        policy: str,
        plays: dict[str, list[Play]],
    ) -> dict[str, Any]:
        runs, reference = plays[policy], plays[REFERENCE]
        return {
            "scenario": f"live {scenario}",
            "load": load,
            "policy": policy,
            "episodes": self.episodes,
            "num_requests": self.num_requests,
            "seeds": list(seeds),
            "source": {
                "filled_share": None,
                "acceptance": "live",
                **env.provenance(),
            },
            # without an oracle there is no gap to close
            **statistics_of(runs, reference, reference),
            "scheduling_share": sum(p["scheduling_s"] for p in runs)
            / sum(p["utilization"] * p["makespan_s"] for p in runs),
        }

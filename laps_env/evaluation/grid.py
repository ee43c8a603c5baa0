"""What an evaluation consists of: policies x scenarios x loads on shared workloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from laps_env.evaluation.recordings import Recordings
from laps_env.utils.checks import MAX_COUNT, check_count, check_positive
from laps_env.utils.splits import Split, as_split
from laps_env.workloads.predictors import RECORDED, make_predictor
from laps_env.workloads.random import make_key
from laps_env.workloads.scenarios import AS_RECORDED, get_scenario

#: The workloads that results are reported on. The split ``final`` and these seeds of it are used
#: for nothing else: laws are fitted on *train*, parameters chosen on *validation*, saturation
#: measured on *reference*. An evaluation of n episodes takes the first n, or n from ``--seed`` on.
TEST_SPLIT = Split.TEST
TEST_SEEDS = range(50)

#: Latencies are given relative to this policy's, which always runs.
REFERENCE = "laps_sd_tuned"
#: The clairvoyant at the far end of the gap, which always runs too.
ORACLE = "oracle_srpt"


@dataclass(frozen=True)
class Grid:
    """Policies x scenarios x loads, each on the same ``episodes`` workloads.

    Attributes:
        policies: names for `laps_env.policies.make`, at least one.
        scenarios: names of the package's scenarios, at least one.
        loads: fractions of saturation, > 0 and finite, or ``"recorded"`` (with recorded arrivals).
        episodes: workloads per scenario and load, >= 1.
        num_requests: requests of a workload, >= 1.
        first_seed: seeds are first_seed, first_seed + 1, ...; >= 0.
        split: set of the workloads.
        slots: rows of the request table, at least every scenario's batch size.
        predictor_error: sd of log(predicted / true length), >= 0 and finite, ``"recorded"``, or
            None (`laps_env.workloads.scenarios.Scenario.error_in_force`).
        recordings: recorded acceptances and arrivals that replace the scenarios' own.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    policies: tuple[str, ...]
    scenarios: tuple[str, ...]
    loads: tuple[float | str, ...] = (0.7, 0.9)
    episodes: int = 20
    num_requests: int = 1000
    first_seed: int = TEST_SEEDS.start
    split: str = TEST_SPLIT
    slots: int = 64
    predictor_error: float | Literal["recorded"] | None = None
    recordings: Recordings = field(default_factory=Recordings)

    def __post_init__(self) -> None:
        for name in ("policies", "scenarios", "loads"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: expected at least one, got none")
            object.__setattr__(self, name, tuple(dict.fromkeys(values)))
        for name in ("episodes", "num_requests", "slots"):
            check_count(name, getattr(self, name), most=int(MAX_COUNT))
        if self.predictor_error not in (None, RECORDED):
            make_predictor(self.predictor_error)
        make_key(as_split(self.split), self.first_seed)
        for load in self.loads:
            self._check_load(load)
        for scenario in self.scenarios:
            batch = get_scenario(scenario).server.batch_size
            if batch > self.slots:
                raise ValueError(
                    f"slots: expected at least the batch size of {scenario}, {batch}; "
                    f"got {self.slots}"
                )

    def _check_load(self, load: float | str) -> None:
        if load != AS_RECORDED:
            check_positive("load", load)
        elif self.recordings.arrival_trace is None:
            raise ValueError(f"load {AS_RECORDED!r}: expected an arrival trace, got none")

    @property
    def seeds(self) -> range:
        """One per episode."""
        return range(self.first_seed, self.first_seed + self.episodes)

    @property
    def policies_to_run(self) -> tuple[str, ...]:
        """The policies, and what their rows are measured against."""
        return tuple(dict.fromkeys([*self.policies, REFERENCE, ORACLE]))

    def conditions(self) -> dict[str, Any]:
        """What all rows share, under the names that the rows have for it."""
        return {
            "episodes": self.episodes,
            "num_requests": self.num_requests,
            "split": self.split,
            "seeds": list(self.seeds),
            "slots": self.slots,
        }

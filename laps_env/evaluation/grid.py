"""What an evaluation consists of: policies x scenarios x loads on shared workloads."""

from __future__ import annotations

from dataclasses import dataclass, field

from laps_env.evaluation.recordings import Recordings
from laps_env.utils.checks import MAX_COUNT, check_count, check_list, check_positive
from laps_env.utils.splits import Split, as_split
from laps_env.workloads.predictors import RECORDED, REFRESHED, ErrorName, make_predictor
from laps_env.workloads.random import make_key
from laps_env.workloads.scenarios import AS_RECORDED, Scenario, get_scenario, list_scenarios

#: Workloads that results are reported on. The split ``test`` and these seeds of it are used for
#: nothing else: laws are fitted on ``train``, parameters chosen on ``validation``, saturation
#: measured on ``calibration``. An evaluation of n episodes takes the first n, or n from ``--seed``.
TEST_SPLIT = Split.TEST
TEST_SEEDS = range(50)

#: Policy that latencies are given relative to, unless a grid names another one.
REFERENCE = "laps_sd_tuned"
#: Clairvoyant at the far end of the gap, which always runs on the replay.
ORACLE = "oracle_srpt"


@dataclass(frozen=True)
class Grid:
    """Policies x scenarios x loads, each on the same ``episodes`` workloads.

    Attributes:
        policies: Names for `laps_env.policies.make`, at least one.
        scenarios: Names of the package's scenarios, paths of your own (``mine.toml``), or
            `Scenario` objects with names of their own; at least one. Rows of an object of yours
            that was not read from a file cannot be run again from results.
        loads: Fractions of saturation, > 0 and finite, or ``"recorded"`` (with recorded arrivals).
        episodes: Workloads per scenario and load, >= 1.
        num_requests: Requests of a workload, >= 1.
        first_seed: Seed of the first workload, >= 0; the others count on from it.
        split: Split of the workloads.
        slots: Slots of the request table, at least every scenario's batch size.
        predictor_error: Sd of log(predicted / true length), >= 0 and finite, ``"recorded"``,
            ``"refreshed"``, or None (`laps_env.workloads.scenarios.Scenario.error_in_force`).
        recordings: Recorded acceptances and arrivals that replace the scenarios' own.
        reference: Policy that all are measured against; always played and listed.

    Raises:
        ValueError: An unknown name or a number out of range.
    """

    policies: tuple[str, ...]
    scenarios: tuple[str | Scenario, ...]
    loads: tuple[float | str, ...] = (0.7, 0.9)
    episodes: int = 20
    num_requests: int = 1000
    first_seed: int = TEST_SEEDS.start
    split: str = TEST_SPLIT
    slots: int = 64
    predictor_error: float | ErrorName | None = None
    recordings: Recordings = field(default_factory=Recordings)
    reference: str = REFERENCE

    def __post_init__(self) -> None:
        for name in ("policies", "scenarios", "loads"):
            check_list(name, getattr(self, name))
        for name in (*self.policies, self.reference):
            if not isinstance(name, str):
                raise ValueError(f"policies: expected names, got {name!r}")
        for load in self.loads:
            if load != AS_RECORDED:
                check_positive("load", load)
        for name in ("policies", "loads"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for name in ("episodes", "num_requests", "slots"):
            check_count(name, getattr(self, name), most=int(MAX_COUNT))
        if self.predictor_error not in (None, RECORDED, REFRESHED):
            make_predictor(self.predictor_error)
        make_key(as_split(self.split), self.first_seed)
        object.__setattr__(self, "scenarios", self._different_scenarios())
        if AS_RECORDED in self.loads and self.recordings.arrival_trace is None:
            for scenario in map(get_scenario, self.scenarios):
                scenario.mean_gap_s(AS_RECORDED, self.split)

    def _different_scenarios(self) -> tuple[str | Scenario, ...]:
        """Each scenario once, told by its name, which is all that results have of it."""
        named: dict[str, str | Scenario] = {}
        for given in self.scenarios:
            scenario = get_scenario(given)
            name, batch = scenario.name, scenario.server.batch_size
            if not name or not name.isprintable():
                raise ValueError(f"scenarios: expected a name of one line for each, got {name!r}")
            known = given if given in list_scenarios() else scenario
            if named.setdefault(name, known) is not known:
                raise ValueError(f"scenarios: expected different names, got {name!r} twice")
            if batch > self.slots:
                raise ValueError(
                    f"slots: expected at least the batch size of {name}, {batch}; got {self.slots}"
                )
        return tuple(named.values())

    @property
    def seeds(self) -> range:
        """Seeds of the workloads, one per episode."""
        return range(self.first_seed, self.first_seed + self.episodes)

    @property
    def listed(self) -> tuple[str, ...]:
        """Policies that have rows: those that were asked for and the reference."""
        return tuple(dict.fromkeys([*self.policies, self.reference]))

"""What a training run may be told: options, budgets and their checks, without what they start."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from importlib.resources import files
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from laps_env.catalog import check_scenarios, list_policies
from laps_env.utils.checks import (
    check_count,
    check_not_negative,
    check_one_of,
    check_positive,
    is_finite,
)
from laps_env.utils.documents import convert

if TYPE_CHECKING:
    from laps_env.workloads.predictors import PredictorError
    from laps_env.workloads.scenarios import Scenario

#: Error of length predictions: sd of log(predicted / true), as recorded, or the scenario's own.
Error = float | Literal["recorded"] | None
#: Networks of `laps_env.agents.networks.NETWORKS`.
Network = Literal["pointer", "attention", "flat"]
#: Decisions that an index is searched for.
Decides = Literal["order", "drafts", "both"]
#: What can be taken away: the action mask, or features by what they are about
#: (`laps_env.policies.networks.features.Feature.about`).
Ablation = Literal["mask", "acceptance", "category", "length", "service", "time"]


@dataclass(frozen=True)
class Traffic:
    """Scenarios, errors of the length predictions, loads: all combinations, equally often.

    Attributes:
        scenario: Names of scenarios.
        predictor_errors: Errors of the length predictions: numbers, recorded, or None for each
            scenario's own.
        loads: Shares of saturation.

    Raises:
        ValueError: One of them is empty or out of range.
    """

    scenario: tuple[str, ...] = ("mixed-serial-135m",)
    predictor_errors: tuple[Error, ...] = (None,)
    loads: tuple[float, ...] = (0.7, 0.9)

    def __post_init__(self) -> None:
        for name in ("scenario", "predictor_errors", "loads"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, got none")
        check_scenarios("scenario", self.scenario)
        for error in self.predictor_errors:
            if error not in (None, "recorded"):
                check_not_negative("predictor error", error)
        for load in self.loads:
            check_positive("loads", load)

    def sources(self) -> list[tuple[Scenario, PredictorError]]:
        """Each scenario with each error of its length predictions.

        Raises:
            ValueError: Recorded predictions of a scenario that has none.
        """
        from laps_env.workloads.scenarios import get_scenario  # compiles, which options must not

        pairs = product(map(get_scenario, self.scenario), self.predictor_errors)
        sources: list[tuple[Scenario, PredictorError]] = list(pairs)
        for scenario, error in sources:
            scenario.error_in_force(error)
        return sources

    @property
    def combinations(self) -> int:
        """Number of combinations of scenario, predictor error and load."""
        return len(self.scenario) * len(self.predictor_errors) * len(self.loads)

    def score(self, log_ratios: Sequence[float]) -> float:
        """Quantity that a run minimises, from log ratios of mean and p99 latency to LAPS-SD's."""
        return log_ratios[0]


@dataclass(frozen=True)
class PPOOptions(Traffic):
    """MaskablePPO on a mix of scenarios; every combination gets as many environments.

    Attributes:
        curriculum: Blocks over which every load rises from the lowest to its own.
        num_requests: Requests of an episode.
        slots: Rows of the request table.
        envs: Environments in all.
        action_repeat: Rounds that the picks of one stand for in training, at most
            (`laps_env.agents.action_repeat.ActionRepeat`).
        network: Kind of scorer.
        without: Parts that an ablation takes away.
        teacher: Policy that is imitated first, or "none".
        imitation_steps: Imitated steps of all environments.
        exploration: Mean entropy of the choices with which PPO begins, in nats.
        seed: Seed of all random draws; runs of different seeds share no workload.
        rollout: Steps of every environment between updates.
        rollouts: Rollouts between checkpoints.
        epochs: Passes over each rollout.
        minibatch: Steps of an update.
        learning_rate: Step size of Adam.
        clip: Largest change of a choice's probability ratio in an update.
        entropy: Weight of the entropy bonus.
        value_blocks: Blocks of PPO, the first ones, that train the value alone.
        horizon: Mean gaps between arrivals after which the future counts 1 / e.
        trace: Lambda of the advantage, per round.

    Raises:
        ValueError: A value out of range.
    """

    curriculum: int = 0
    num_requests: int = 300
    slots: int = 32
    envs: int = 128
    action_repeat: int = 50
    network: Network = "pointer"
    without: tuple[Ablation, ...] = ()
    teacher: str = "oracle_srpt"
    imitation_steps: int = 2000
    exploration: float = 0.3
    seed: int = 0
    rollout: int = 256
    rollouts: int = 10
    epochs: int = 4
    minibatch: int = 4096
    learning_rate: float = 3e-4
    clip: float = 0.2
    entropy: float = 0.0
    value_blocks: int = 1
    horizon: float = 30.0
    trace: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = "num_requests slots envs action_repeat rollout rollouts epochs minibatch"
        for name in counts.split():
            check_count(name, getattr(self, name))
        for name in ("curriculum", "imitation_steps", "value_blocks", "seed"):
            check_count(name, getattr(self, name), least=0)
        for name in ("learning_rate", "clip", "horizon", "exploration"):
            check_positive(name, getattr(self, name))
        check_not_negative("entropy", self.entropy)
        if not (is_finite(self.trace) and 0 <= self.trace <= 1):
            raise ValueError(f"trace: expected a number from 0 to 1, got {self.trace!r}")
        if self.teacher not in ("none", *list_policies()):
            raise ValueError(f"teacher: expected a policy or 'none', got {self.teacher!r}")
        if self.envs < self.combinations:
            raise ValueError(
                f"envs: expected at least one for each of {self.combinations} combinations of "
                f"scenario, load and predictor error, got {self.envs}"
            )
        check_one_of("network", self.network, get_args(Network))
        unknown = set(self.without) - set(get_args(Ablation))
        if unknown:
            raise ValueError(f"without: expected some of {get_args(Ablation)}, got {unknown}")

    def load_in(self, block: int, load: float) -> float:
        """Load of an environment in a block of the curriculum."""
        share = min(block / self.curriculum, 1.0) if self.curriculum else 1.0
        return min(self.loads) + share * (load - min(self.loads))


@dataclass(frozen=True)
class IndexOptions(Traffic):
    """CMA-ES over the weights of an index, a linear rule of few numbers.

    Attributes:
        decides: What is learned: the order; how much is drafted, in the order of
            `gittins_running`; or both (`laps_env.policies.networks.joint`).
        num_requests: Requests of a workload.
        repeats: Workloads of each scenario, error and load in a generation.
        cells: Combinations that a generation is judged on, drawn anew for each; None for all.
        tail: Weight of the log p99 latency beside that of the mean.
        seed: Seed of the search; runs of different seeds share no workload.

    Raises:
        ValueError: A value out of range.
    """

    decides: Decides = "order"
    num_requests: int = 500
    repeats: int = 2
    cells: int | None = None
    tail: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_requests", "repeats"):
            check_count(name, getattr(self, name))
        check_count("cells", self.cells, optional=True)
        check_count("seed", self.seed, least=0)
        check_not_negative("tail", self.tail)
        check_one_of("decides", self.decides, get_args(Decides))

    def score(self, log_ratios: Sequence[float]) -> float:
        """Log ratio of mean latency, and ``tail`` times that of the p99 latency."""
        return log_ratios[0] + self.tail * log_ratios[1]


Options = PPOOptions | IndexOptions
Kind = TypeVar("Kind", bound=PPOOptions | IndexOptions)

#: By the name that the command line and sweeps have for them.
ALGORITHMS: dict[str, type[Options]] = {"ppo": PPOOptions, "index": IndexOptions}


def usual_options(kind: type[Kind], **given: Any) -> Kind:
    """Options with what was given, over what the hyper-parameters say for its scenarios.

    Args:
        kind: Class of the options, which chooses the algorithm.
        **given: Options by name.

    Raises:
        ValueError: An unknown option, or one of the wrong kind or out of range.
    """
    (algorithm,) = (name for name, known in ALGORITHMS.items() if known is kind)
    for name in given:
        check_one_of(f"options of {algorithm}", name, (field.name for field in fields(kind)))
    scenarios = convert(given.get("scenario", kind().scenario), tuple[str, ...], "scenario")
    return convert(hyperparameters(algorithm, scenarios) | given, kind)


def hyperparameters(algorithm: str, scenarios: Sequence[str]) -> dict[str, Any]:
    """Options of a run of an algorithm on these scenarios, from ``agents/data``.

    Args:
        algorithm: Table of the file.
        scenarios: Names; an entry counts where its pattern matches all of them.
    """
    path = files("laps_env.agents") / "data" / "hyperparameters.toml"
    found: dict[str, Any] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get(algorithm, []):
        if all(fnmatch(name, entry["scenarios"]) for name in scenarios):
            found |= {name: as_option(v) for name, v in entry.items() if name != "scenarios"}
    return found


def as_option(value: Any) -> Any:
    """Lists as tuples and "None" as None, as the options have them."""
    if isinstance(value, list):
        return tuple(map(as_option, value))
    return None if value == "None" else value


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many minutes of work, or after so many blocks.

    Raises:
        ValueError: Not one of both, or not above 0.
    """

    minutes: float | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.blocks is None):
            raise ValueError(f"budget: expected minutes or blocks, got {self}")
        if self.minutes is not None:
            check_positive("minutes", self.minutes)
        check_count("blocks", self.blocks, optional=True)

    def spent(self, entries: Sequence[dict[str, Any]]) -> float:
        """Share that a run with these blocks has had; from 1 on it has come to its end."""
        if self.blocks is not None:
            return len(entries) / self.blocks
        assert self.minutes is not None
        return float(sum(entry["seconds"] for entry in entries) / (60 * self.minutes))

"""What a grid is played on: the replay here, real models in `laps_env.live.backend`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from laps_env.evaluation.grid import Grid
from laps_env.evaluation.results import Answers
from laps_env.policies import Policy
from laps_env.workloads.scenarios import Scenario


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A scenario of a grid made ready: recordings applied, policies fitted.

    Attributes:
        scenario: Scenario that is played.
        policies: Policies that play it by name.
        predictor_error: Error of the length predictions in force, as results rows have it.
        source: Origins of what is played, as results rows have them.
        filled_share: Share of a recording that had to be filled, None without one.
    """

    scenario: Scenario
    policies: dict[str, Policy]
    predictor_error: float | str | None
    source: dict[str, str]
    filled_share: float | None = None

    @cached_property
    def scenario_digest(self) -> str:
        """Digest of the scenario."""
        return self.scenario.digest

    @cached_property
    def policy_digests(self) -> dict[str, str]:
        """Digests of the policies."""
        return {name: policy.digest for name, policy in self.policies.items()}


class Backend(Protocol):
    """A server that policies are played on.

    Attributes:
        name: Kind of the server.
        oracle: Clairvoyant that always plays too, None where there can be none.
        one_at_a_time: Whether workloads must not be played side by side.
        texts: Answers so far, where there are texts.
    """

    name: Literal["replay", "live"]
    oracle: str | None
    one_at_a_time: bool
    texts: list[Answers]

    def setting(self, grid: Grid, scenario: str | Scenario) -> Setting:
        """Make a scenario of the grid ready.

        Raises:
            OSError, ValueError: Policies or recordings that cannot be used.
        """

    def play(
        self, grid: Grid, setting: Setting, load: float | str, seed: int, names: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """Play one workload with each of these policies; each one's metrics when it has ended."""

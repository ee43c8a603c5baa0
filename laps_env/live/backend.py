"""The live server as a backend of an evaluation: policies side by side over the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from laps_env import policies
from laps_env.evaluation.backend import Setting
from laps_env.evaluation.episodes import play
from laps_env.evaluation.grid import Grid
from laps_env.evaluation.recordings import Recordings
from laps_env.evaluation.results import Answers
from laps_env.live.engine.loading import Pair
from laps_env.live.env import SpecDecodeLive
from laps_env.report.timeline import Timeline, TimelineRecorder
from laps_env.report.write import Place
from laps_env.sim.server_model import DraftLength
from laps_env.workloads.scenarios import Scenario, get_scenario


class LiveBackend:
    """Real models behind a grid (`laps_env.evaluation.backend.Backend`); episodes happen once.

    Of a grid's scenarios it takes arrivals, batch, draft length, pool and saturation; the requests
    are prompts, unless acceptance is recorded.

    Args:
        pair: Models that serve.
        keep: Told of each workload when all policies have played it, with their timelines; without
            it none is recorded, which takes the scheduler time.
        **server: Further arguments of `laps_env.live.env.SpecDecodeLive`.

    Attributes:
        texts: Answers of the episodes so far.
    """

    name: Literal["replay", "live"] = "live"
    oracle: str | None = None
    one_at_a_time = True

    def __init__(
        self,
        pair: Pair,
        keep: Callable[[Place, list[Timeline]], None] | None = None,
        **server: Any,
    ) -> None:
        self.texts: list[Answers] = []
        self._pair, self._keep, self._server = pair, keep, server
        self._envs: dict[tuple[Any, ...], SpecDecodeLive] = {}

    def setting(self, grid: Grid, scenario: str | Scenario) -> Setting:
        """Make a scenario of the grid ready.

        Raises:
            ValueError: Recordings, a predictor error, a policy that needs the true lengths, or a
                draft length that these models cannot be asked for.
        """
        if grid.recordings != Recordings():
            raise ValueError(
                f"recordings: expected none on a live server, got {grid.recordings.digests()}"
            )
        if grid.predictor_error is not None:
            raise ValueError(
                "predictor_error: expected none on a live server, where a length model predicts, "
                f"got {grid.predictor_error!r}"
            )
        scenario = get_scenario(scenario)
        made = {name: policies.make(name, scenario) for name in grid.listed}
        for name, policy in made.items():
            if policy.spec.clairvoyant:
                raise ValueError(
                    f"policies: expected rules that a live server can follow, got {name!r}, "
                    "which needs the true lengths"
                )
        # a draft length that cannot be served is refused here, not in the midst of a grid
        envs = [
            self._env(grid, scenario, grid.loads[0], policy.draft_length)
            for policy in made.values()
        ]
        return Setting(
            scenario=scenario,
            policies=made,
            predictor_error=None,
            source=envs[0].provenance(),
        )

    def play(
        self, grid: Grid, setting: Setting, load: float | str, seed: int, names: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """Play one workload with each of these policies, one after the other."""
        scenario = setting.scenario
        timelines: list[Timeline] = []
        for name in names:
            policy = setting.policies[name]
            env = self._env(grid, scenario, load, policy.draft_length)
            recorder = TimelineRecorder(env, policy.name)
            summary = play(policy, env if self._keep is None else recorder, seed=seed)["summary"]
            texts = summary.pop("texts")
            self.texts.append(Answers(scenario.name, load, name, seed, texts))
            if recorder.timeline is not None:
                timelines.append(recorder.timeline)
            yield name, summary
        if self._keep is not None:
            self._keep((scenario.name, load, seed), timelines)

    def _env(
        self, grid: Grid, scenario: Scenario, load: float | str, draft_length: DraftLength | None
    ) -> SpecDecodeLive:
        """The environment of a scenario, load and draft-length rule; those of others are let go."""
        shared = (scenario.name, load, grid.num_requests, grid.split, grid.slots)
        key = (*shared, draft_length)
        if any(known[:-1] != shared for known in self._envs):
            self._envs.clear()  # caches of the device
        if key not in self._envs:
            self._envs[key] = SpecDecodeLive(
                target=self._pair,
                scenario=scenario,
                load=load,
                num_requests=grid.num_requests,
                split=grid.split,
                slots=grid.slots,
                draft_length=draft_length,
                **self._server,
            )
        return self._envs[key]

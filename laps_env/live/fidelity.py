"""How closely the replay predicts the live server: the experiment of `scripts/fidelity.py`.

Under the calibrated clock everything must be equal. Under the measured clock calibrations and live
episodes take turns, and the replay predicts an episode from the calibrations before and after it
alone, so that a machine that slows down for a while slows both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from laps_env.checks import check_count
from laps_env.live.agreement import Exactness, Metrics
from laps_env.live.calibration import Grid, Sample, fit, measure
from laps_env.live.engine import Stopping
from laps_env.live.loading import Pair
from laps_env.live.prompts import partition, read_questions
from laps_env.live.side_by_side import Servers, Settings, record_questions
from laps_env.physics import CostModel, ServerModel
from laps_env.traces import AcceptanceTrace

#: Timed repetitions of the grid in each calibration; their means count.
REPEATS = 2


def calibration_grid(trace: AcceptanceTrace, server: ServerModel) -> Grid:
    """A small grid around what the workload does: its batches, draft length and contexts."""
    size, n = max(server.batch_size, 2), server.reference_draft_length
    halfway = trace.prompt_tokens + trace.output_tokens // 2
    short, usual, long = np.maximum(np.quantile(halfway, (0.1, 0.5, 0.9)).astype(int), 4).tolist()
    return Grid(
        batches=tuple(sorted({1, max(size // 4, 1), size // 2, (3 * size) // 4, size})),
        draft_lengths=(n,),
        contexts=tuple(sorted({short, usual, max(long, short + 1)})),
        repeats=REPEATS,
    )


@dataclass(frozen=True)
class Repetition:
    """A live episode of every policy under the measured clock, calibrations in between.

    Attributes:
        calibrations: one before each episode and one after the last; nothing is held out.
        plays: metrics by policy, in the order of play.
    """

    calibrations: list[list[Sample]]
    plays: dict[str, Metrics]

    def costs(self) -> dict[str, CostModel]:
        """By policy, the cost model fitted to the calibrations before and after its episode."""
        around = zip(self.calibrations[:-1], self.calibrations[1:], strict=True)
        return {
            policy: fit([*before, *after]).cost_model()
            for policy, (before, after) in zip(self.plays, around, strict=True)
        }


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        corrected: positions of the recording that were near-ties of the models.
        grid: of the calibrations.
        saturation_rps: requests per second, of the replay under the first calibration.
        exact: the calibrated clock, policy by policy.
        repetitions: the measured clock, live.
        replay: by policy, metrics of each repetition (`Repetition.costs`).
    """

    corrected: int
    grid: Grid
    saturation_rps: float
    exact: list[Exactness]
    repetitions: list[Repetition]
    replay: dict[str, list[Metrics]]


def run(
    pair: Pair,
    settings: Settings,
    repetitions: int,
    *,
    done: Sequence[Repetition] = (),
    keep: Callable[[Repetition], None] = lambda repetition: None,
    report: Callable[[str], None] = lambda message: None,
) -> Findings:
    """Compare live and replay.

    The episodes under the calibrated clock come first: they also warm the live engine up.

    Args:
        pair: float32.
        settings: what is served.
        repetitions: >= 2, so that the noise is known.
        done: repetitions of an earlier run with the same settings.
        keep: is given each further one when it is finished.
        report: told of each step.

    Raises:
        ValueError: too few repetitions, or an error of `LiveRow`.
    """
    check_count("repetitions", repetitions, least=2)
    questions = read_questions(settings.prompts)
    categories = sorted({q.category for q in questions})
    report("recording the prompts")
    asked = partition(questions)["record-test"]
    trace = record_questions(pair, asked, categories, settings.max_new_tokens)
    grid = calibration_grid(trace, settings.server())
    engine = pair.engine(slots=max(grid.batches), length=grid.slot_length, stopping=Stopping())

    def calibrate(seed: int) -> list[Sample]:
        report("calibration")
        rng = np.random.default_rng(seed)
        samples = measure(lambda slots, length: engine, grid, rng, lambda repeat: None)
        return [replace(sample, held_out=False) for sample in samples]

    kept = list(done)
    first = kept[0].calibrations[0] if kept else calibrate(0)
    servers = Servers(pair, settings, trace, fit(first).cost_model())
    exact = []
    for policy in settings.policies:
        report(f"calibrated clock: {policy}")
        exact.append(servers.check(policy))
    for r in range(len(kept), repetitions):
        calibrations, plays = [calibrate(r) if r else first], {}
        for policy in rotated(settings.policies, r):
            report(f"repetition {r + 1} of {repetitions}: {policy}")
            plays[policy] = servers.play_live(policy)
            calibrations.append(calibrate(r))
        kept.append(Repetition(calibrations, plays))
        keep(kept[-1])
    costs = [repetition.costs() for repetition in kept]
    return Findings(
        corrected=trace.info.provenance["corrected_positions"],
        grid=grid,
        saturation_rps=servers.saturation_rps,
        exact=exact,
        repetitions=kept,
        replay={
            policy: [servers.play_replay(policy, cost[policy]) for cost in costs]
            for policy in settings.policies
        },
    )


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names, beginning with the one at place ``by``, around the end."""
    start = by % len(names)
    return [*names[start:], *names[:start]]

"""How closely the replay predicts the live server: the experiment of `laps-env fidelity`.

Under the calibrated clock everything must be equal. Under the measured clock the live episodes of
all policies and a calibration take turns, about a second each, and the replay predicts the episodes
from the calibration alone: a machine that slows down for a while slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from laps_env.live.engine.loading import Pair
from laps_env.live.measure.agreement import Exactness, Metrics
from laps_env.live.measure.calibration import Grid, Sample, average, time_cells
from laps_env.live.measure.fitting import fit
from laps_env.live.measure.side_by_side import (
    Servers,
    Settings,
    record_questions,
    shared_engine,
)
from laps_env.live.prompts import partition, read_questions
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace
from laps_env.utils.checks import check_count
from laps_env.workloads import Workload

#: Live episodes advance by so many seconds of their own clocks in a turn.
TURN_S = 1.0

#: Cells of the calibration's grid that are timed in a turn.
CELLS_PER_TURN = 3


def calibration_grid(asked: AcceptanceTrace | Workload, server: ServerModel) -> Grid:
    """A small grid around what the workload does: its batches, draft length and contexts."""
    size, n = max(server.batch_size, 2), server.reference_draft_length
    halfway = asked.prompt_tokens + asked.output_tokens // 2
    short, usual, long = np.maximum(np.quantile(halfway, (0.1, 0.5, 0.9)).astype(int), 4).tolist()
    return Grid(
        batches=tuple(sorted({1, max(size // 4, 1), size // 2, (3 * size) // 4, size})),
        draft_lengths=(n,),
        contexts=tuple(sorted({short, usual, max(long, short + 1)})),
        repeats=1,
    )


@dataclass(frozen=True)
class Repetition:
    """A live episode of every policy under the measured clock, and the calibration among them.

    Attributes:
        arrivals: Cost model whose saturation the load is a fraction of, equal in all.
        samples: Samples of the calibration, averaged; none is held out.
        plays: Metrics by policy.
    """

    arrivals: CostModel
    samples: list[Sample]
    plays: dict[str, Metrics]

    @property
    def cost(self) -> CostModel:
        """What the replay predicts the episodes with."""
        return fit(self.samples).cost_model()


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        corrected: Positions of the recording that were near-ties of the models; 0 where acceptance
            is recorded.
        captures: Passes of a new shape in live rounds under the measured clock; should be 0.
        grid: Grid of the calibrations.
        saturation_rps: Saturation of the replay under `Repetition.arrivals`, requests per second.
        exact: Agreement under the calibrated clock, policy by policy.
        repetitions: Live episodes under the measured clock.
        replay: Metrics by policy under each repetition's cost model.
    """

    corrected: int
    captures: int
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

    The episodes under the calibrated clock come first: they also warm the processor up.

    Args:
        pair: Pair of models; in float32 where acceptance is live.
        settings: Settings of what is served.
        repetitions: Number of repetitions, >= 2, so that the noise is known.
        done: Repetitions of an earlier run with the same settings.
        keep: Callback given each further repetition when it is finished.
        report: Callback told of each step.

    Raises:
        ValueError: Too few repetitions, or an error of `LiveServer`.
    """
    check_count("repetitions", repetitions, least=2)
    trace = None if settings.acceptance == "recorded" else _record(pair, settings, report)
    grid = calibration_grid(trace or settings.workload(), settings.server())
    engine = shared_engine(pair, settings, grid)
    engine.warm_up(grid.batches, grid.draft_lengths, grid.slot_length)

    def cells(seed: int) -> Iterator[list[Sample]]:
        return time_cells(engine, grid, np.random.default_rng(seed))

    report("first calibration")
    warming = cells(0)
    take(warming, len(grid.cells))
    first = average(take(warming, len(grid.cells)))
    kept = list(done)
    arrivals = kept[0].arrivals if kept else fit(first).cost_model()
    servers = Servers(pair, settings, trace, arrivals, engine)
    exact = []
    for policy in settings.policies:
        report(f"calibrated clock: {policy}")
        exact.append(servers.check(policy))
    for r in range(len(kept), repetitions):
        report(f"measured clock: repetition {r + 1} of {repetitions}")
        live = {policy: servers.play_live(policy) for policy in settings.policies}
        samples, plays = take_turns(live, cells(1 + r), len(grid.cells))
        kept.append(Repetition(arrivals, average(samples), plays))
        keep(kept[-1])
    return Findings(
        corrected=trace.info.provenance["corrected_positions"] if trace else 0,
        captures=servers.captures,
        grid=grid,
        saturation_rps=servers.saturation_rps,
        exact=exact,
        repetitions=kept,
        replay={
            policy: [servers.play_replay(policy, repetition.cost) for repetition in kept]
            for policy in settings.policies
        },
    )


def _record(pair: Pair, settings: Settings, report: Callable[[str], None]) -> AcceptanceTrace:
    """What the pair says to the prompts of the *test* part."""
    report("recording the prompts")
    questions = read_questions(settings.prompts)
    categories = sorted({q.category for q in questions})
    asked = partition(questions)["test"]
    return record_questions(pair, asked, categories, settings.max_new_tokens)


def take_turns(
    live: dict[str, Generator[float, None, Metrics]],
    cells: Iterator[list[Sample]],
    fewest: int,
) -> tuple[list[Sample], dict[str, Metrics]]:
    """Advance all episodes to their ends, and the calibration among them.

    Another one comes first in each turn: what follows the calibration is a little slower.

    Args:
        live: Episodes by policy; each yields its steps' seconds and returns its metrics.
        cells: Samples of cell after cell, without end.
        fewest: Number of cells that are timed at least.

    Returns:
        The samples, and the metrics by policy.
    """
    samples: list[Sample] = []
    plays: dict[str, Metrics] = {}
    clocks = dict.fromkeys(live, 0.0)
    timed = 0
    while len(plays) < len(live):
        samples += take(cells, CELLS_PER_TURN)
        timed += CELLS_PER_TURN
        turn = timed // CELLS_PER_TURN
        until = turn * TURN_S
        first = (turn - 1) % len(live)
        order = [*list(live)[first:], *list(live)[:first]]
        for policy in [policy for policy in order if policy not in plays]:
            try:
                while clocks[policy] < until:
                    clocks[policy] += next(live[policy])
            except StopIteration as end:
                plays[policy] = end.value
    samples += take(cells, max(fewest - timed, 0))
    return samples, plays


def take(cells: Iterator[list[Sample]], count: int) -> list[Sample]:
    """The samples of the next cells."""
    return list(chain.from_iterable(islice(cells, count)))

"""Rounds of a real engine, timed on a grid of batch, draft length and context.

`laps_env.live.measure.fitting` makes a cost model of the samples. What the numbers mean:

- ``overhead_ns`` is what a call of `Engine.run_round` takes beyond drafting and verification. What
  the host does inside these (building tensors, launching kernels) cannot be told from the device's
  own time: it is in ``draft_step_ns`` and ``target_pass_ns``.
- A prefill includes the drafter's own, which happens inside its first draft; an offload and a
  restoration include the drafter's cache.
- Work is counted as the replay counts it (`laps_env.sim.costs.Work`): a prefill or a swap of the
  whole context, though the engine leaves a context's last token to the round itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from typing import Literal

import numpy as np
from scipy.stats import trim_mean

from laps_env.live.engine.drafters import DraftModel
from laps_env.live.engine.engine import Engine, Generation
from laps_env.live.engine.graphs import bucket
from laps_env.live.engine.kv_slots import PREFILL_CHUNK
from laps_env.live.engine.stopping import Stopping
from laps_env.sim.costs import Work
from laps_env.utils.checks import check_count

#: One of so many cells of the grid is kept from the fit, to measure its error: of those whose
#: batch is a power of two, to which graphs pad it, and of the others.
HOLD_OUT_EVERY = 4

#: Share of the repetitions that is dropped at either end: a hiccup of a shared machine is no cost.
TRIMMED = 0.2

#: What a sample did: a round that computes, restores or finds its caches; or an offload alone.
Kind = Literal["prefill", "restore", "decode", "offload"]


@dataclass(frozen=True)
class Grid:
    """What is timed: all combinations.

    Attributes:
        batches: Numbers of requests in a round, at least two.
        draft_lengths: Numbers of tokens drafted for each, 0 may be among them.
        contexts: Mean prompt tokens, at least two, from 4 on. Half of the requests are shorter and
            half are longer, from 0.5 to 1.5 of it, as a scheduler's batch is not of one length.
        repeats: Timed repetitions of the whole grid; their means count, because what is to be
            predicted is a sum of rounds, without the fastest and the slowest fifth.

    Raises:
        ValueError: Values that cannot tell the constants apart, naming the field.
    """

    batches: tuple[int, ...]
    draft_lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    repeats: int

    def __post_init__(self) -> None:
        for name, least, fewest in (
            ("batches", 1, 2),
            ("draft_lengths", 0, 1),
            ("contexts", 4, 2),
        ):
            values = getattr(self, name)
            for value in values:
                check_count(name, value, least=least)
            if len(set(values)) < max(len(values), fewest):
                raise ValueError(
                    f"{name}: expected {fewest} or more different numbers, got {values}"
                )
        check_count("repeats", self.repeats)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """All pairs of batch and context; a cell is timed with every draft length."""
        return list(product(self.batches, self.contexts))

    @property
    def slot_length(self) -> int:
        """Tokens that a sequence may come to while a cell is timed."""
        rounds = len(self.draft_lengths) + 2
        return max(prompt_lengths(max(self.contexts), 2)) + (rounds + 1) * (
            max(self.draft_lengths) + 1
        )


def prompt_lengths(mean: int, batch: int) -> list[int]:
    """Evenly from 0.5 to 1.5 of the mean; alone, the mean itself."""
    shares = np.linspace(0.5, 1.5, batch) if batch > 1 else np.ones(1)
    return np.rint(shares * mean).astype(int).tolist()


@dataclass(frozen=True)
class Sample:
    """One thing that was timed, in nanoseconds.

    Attributes:
        batch, draft_length, context: Cell of the grid.
        work: Work that was done, as the replay counts it.
        padded: Work that was really done, with all that fills up the shapes of graphs.
        caches_ns, draft_ns, verify_ns: Parts of a round; an offload has the first only.
        round_ns: Duration of the whole call.
        held_out: Whether it is kept from the fit.
        captures: Passes of a new shape, which the times must not hold (`RoundTimes.captures`).
    """

    kind: Kind
    batch: int
    draft_length: int
    context: int
    work: Work
    padded: Work
    caches_ns: float
    draft_ns: float
    verify_ns: float
    round_ns: float
    held_out: bool = False
    captures: int = 0


def measure(
    make_engine: Callable[[int, int], Engine],
    grid: Grid,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> list[Sample]:
    """Time the grid; the first repetition warms up and does not count.

    Every repetition takes the cells in another order, so that a machine that slows down for a while
    slows them all.

    Args:
        make_engine: Maker of an engine by slots and their length.
        grid: Grid to time.
        rng: Generator that draws the prompts, the orders and the cells that are held out.
        report: Callback told of each repetition.
    """
    engine = make_engine(max(grid.batches), grid.slot_length)
    engine.warm_up(grid.batches, grid.draft_lengths, engine.target.length)
    cells = time_cells(engine, grid, rng)
    timed: list[Sample] = []
    for repetition in range(grid.repeats + 1):
        report(f"repetition {repetition} of {grid.repeats}" if repetition else "warming up")
        samples = list(chain.from_iterable(islice(cells, len(grid.cells))))
        timed += samples if repetition else []
    chosen = held_out_cells(grid, rng)
    return [
        replace(sample, held_out=(sample.batch, sample.context) in chosen)
        for sample in average(timed, TRIMMED)
    ]


def held_out_cells(grid: Grid, rng: np.random.Generator) -> set[tuple[int, int]]:
    """Cells that are kept from the fit, of full and of padded batches."""
    chosen: set[tuple[int, int]] = set()
    for padded in (False, True):
        cells = [cell for cell in grid.cells if (bucket(cell[0]) != cell[0]) == padded]
        if cells:
            count = -(-len(cells) // HOLD_OUT_EVERY)
            chosen |= {cells[k] for k in rng.choice(len(cells), count, replace=False)}
    return chosen


def time_cells(engine: Engine, grid: Grid, rng: np.random.Generator) -> Iterator[list[Sample]]:
    """Time cell after cell, without end; each time through the grid in another order.

    Args:
        engine: Engine with slots of `Grid.slot_length`; nothing of a cell is left in it.
        grid: Grid to time.
        rng: Generator that draws the prompts and the orders.
    """
    vocabulary = engine.target.model.config.get_text_config().vocab_size
    prompts = rng.integers(vocabulary, size=(max(grid.batches), grid.slot_length))
    while True:
        for k in rng.permutation(len(grid.cells)):
            batch, context = grid.cells[k]
            lengths = prompt_lengths(context, batch)
            cut = [prompts[i, :length].tolist() for i, length in enumerate(lengths)]
            yield _time_cell(engine, cut, context, grid.draft_lengths)


def average(samples: Sequence[Sample], trimmed: float = 0.0) -> list[Sample]:
    """One sample for all of a kind, batch, draft length and context: their mean.

    Args:
        samples: Samples in any order.
        trimmed: Share that is dropped at either end.
    """
    alike = defaultdict(list)
    for s in samples:
        alike[s.kind, s.batch, s.draft_length, s.context].append(s)
    return [_mean(group, trimmed) for group in alike.values()]


def _time_cell(
    engine: Engine, prompts: Sequence[list[int]], context: int, draft_lengths: Sequence[int]
) -> list[Sample]:
    """Prefill, offload, restore, then a round with each draft length."""
    longest = max(draft_lengths)
    room = engine.target.length
    running = [engine.start(p, room - len(p), stopping=Stopping()) for p in prompts]
    samples = [  # with the longest draft, so that the drafter computes its own cache too
        _time_round(engine, running, longest, context, "prefill"),
        _time_offload(engine, running, context),
        _time_round(engine, running, longest, context, "restore"),
    ]
    # Neighbours in order are read in place, but a scheduler's batch is scattered over the slots.
    running.sort(key=lambda g: g.slot or 0, reverse=True)
    # Without a draft a drafter falls behind, so that round is the last.
    samples += [
        _time_round(engine, running, n, context, "decode")
        for n in sorted(draft_lengths, reverse=True)
    ]
    for g in running:
        engine.drop(g)
    return samples


def _time_round(
    engine: Engine, running: list[Generation], draft_length: int, context: int, kind: Kind
) -> Sample:
    contexts, prefill = [len(g.text) for g in running], kind == "prefill"
    kv = sum(contexts)
    begin = time.perf_counter_ns()
    results = engine.run_round(running, draft_length)
    round_ns = time.perf_counter_ns() - begin
    drafted = [r.drafted for r in results]
    work = Work(
        verify=sum(drafted) + len(running),
        prefill=kv * prefill,
        kv=kv,
        steps=max(drafted),
        drafted=sum(drafted),
        draft_kv=sum(d * n for d, n in zip(drafted, contexts, strict=True)),
        prefills=len(running) * prefill,
        swaps=len(running) * (kind == "restore"),
        swapped=kv * (kind == "restore"),
    )
    t, cell = engine.times, (len(running), draft_length, context)
    padded = padded_work(engine, contexts, work)
    parts = (t.caches, t.draft, t.verify, round_ns)
    return Sample(kind, *cell, work, padded, *parts, captures=t.captures)


def padded_work(engine: Engine, contexts: Sequence[int], work: Work) -> Work:
    """What a round computes and reads: more than its work where passes run in fixed shapes.

    Args:
        engine: Engine that ran it.
        contexts: Tokens of each request before it.
        work: Work of the round, with as many tokens to draft for each request.
    """
    if not engine.target.graphed:
        return work
    batch, longest, tokens = len(contexts), max(contexts), work.steps + 1
    verify = engine.target.shape(batch, tokens, longest - 1 + tokens)
    padded = work._replace(verify=verify.batch * verify.tokens)
    if not engine.target.in_place:
        padded = padded._replace(kv=verify.batch * verify.visible)
    if work.prefills:
        fed = [min(PREFILL_CHUNK, n - at) for n in contexts for at in range(0, n, PREFILL_CHUNK)]
        padded = padded._replace(prefill=sum(map(bucket, fed)))
    if not isinstance(engine.drafter, DraftModel):
        return padded
    draft = engine.drafter.model
    steps = [draft.shape(batch, 1, longest + k) for k in range(work.steps)]
    padded = padded._replace(drafted=sum(step.batch for step in steps))
    if draft.in_place:
        return padded
    return padded._replace(draft_kv=sum(step.batch * step.visible for step in steps))


def _time_offload(engine: Engine, running: list[Generation], context: int) -> Sample:
    kv = sum(len(g.text) for g in running)
    moved = Work(0, 0, 0, 0, 0, 0, 0, swaps=len(running), swapped=kv)
    begin = time.perf_counter_ns()
    for g in running:
        engine.offload(g)
    ns = time.perf_counter_ns() - begin
    return Sample("offload", len(running), 0, context, moved, moved, ns, 0, 0, ns)


def _mean(repeated: Sequence[Sample], trimmed: float) -> Sample:
    """Work is the same in each repetition, save where the device's rounding is not."""
    times = [(s.caches_ns, s.draft_ns, s.verify_ns, s.round_ns) for s in repeated]
    caches, draft, verify, whole = trim_mean(times, trimmed).tolist()
    work, padded = (
        Work(*np.rint(np.mean(counts, axis=0)).astype(int).tolist())
        for counts in ([s.work for s in repeated], [s.padded for s in repeated])
    )
    return replace(
        repeated[0],
        work=work,
        padded=padded,
        caches_ns=caches,
        draft_ns=draft,
        verify_ns=verify,
        round_ns=whole,
        captures=sum(s.captures for s in repeated),
    )

"""A cost model for the device at hand: rounds of a real engine are timed, ten constants fitted.

`measure` times what the engine does on a grid of batch, draft length and context; `fit` finds the
constants of `laps_env.sim.server_model.CostModel` by non-negative least squares on relative errors;
`errors` compares them with cells of the grid that the fit has not seen. The parts of a round are
fitted, not its sum, so each constant is seen apart. What the numbers mean:

- ``overhead_ns`` is what a call of `Engine.run_round` takes beyond drafting and verification. What
  the host does inside these (building tensors, launching kernels) cannot be told from the device's
  own time: it is in ``draft_step_ns`` and ``target_pass_ns``.
- A prefill includes the drafter's own, which happens inside its first draft; an offload and a
  restoration include the drafter's cache.
- Work is counted as the replay counts it (`laps_env.sim.costs.Work`): a prefill or a swap of the
  whole context, though the engine leaves a context's last token to the round itself.
- The formula has one ``target_token_ns`` for prefilled and verified tokens. `fit` can hold them
  apart, to see what that costs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import trim_mean

from laps_env.live.engine.engine import Engine, Generation
from laps_env.sim.costs import CostModel, Work
from laps_env.utils.checks import check_count

#: One of so many cells of the grid is kept from the fit, to measure its error.
HOLD_OUT_EVERY = 4

#: Share of the repetitions that is dropped at either end: a hiccup of a shared machine is no cost.
TRIMMED = 0.2

#: What a sample did: a round that computes, restores or finds its caches; or an offload alone.
Kind = Literal["prefill", "restore", "decode", "offload"]

Floats = NDArray[np.float64]


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
        caches_ns, draft_ns, verify_ns: Parts of a round; an offload has the first only.
        round_ns: Duration of the whole call.
        held_out: Whether it is kept from the fit.
    """

    kind: Kind
    batch: int
    draft_length: int
    context: int
    work: Work
    caches_ns: float
    draft_ns: float
    verify_ns: float
    round_ns: float
    held_out: bool = False


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
        make_engine: Maker of an engine by slots and their length, one that only the limit stops.
        grid: Grid to time.
        rng: Generator that draws the prompts, the orders and the cells that are held out.
        report: Callback told of each repetition.
    """
    engine = make_engine(max(grid.batches), grid.slot_length)
    cells = time_cells(engine, grid, rng)
    timed: list[Sample] = []
    for repetition in range(grid.repeats + 1):
        report(f"repetition {repetition} of {grid.repeats}" if repetition else "warming up")
        samples = list(chain.from_iterable(islice(cells, len(grid.cells))))
        timed += samples if repetition else []
    held_out = len(grid.cells) // HOLD_OUT_EVERY
    chosen = {grid.cells[k] for k in rng.choice(len(grid.cells), held_out, replace=False)}
    return [
        replace(sample, held_out=(sample.batch, sample.context) in chosen)
        for sample in average(timed, TRIMMED)
    ]


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
    running = [engine.start(p, engine.target.length - len(p)) for p in prompts]
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
    t, size = engine.times, len(running)
    return Sample(kind, size, draft_length, context, work, t.caches, t.draft, t.verify, round_ns)


def _time_offload(engine: Engine, running: list[Generation], context: int) -> Sample:
    kv = sum(len(g.text) for g in running)
    work = Work(0, 0, 0, 0, 0, 0, 0, swaps=len(running), swapped=kv)
    begin = time.perf_counter_ns()
    for g in running:
        engine.offload(g)
    ns = time.perf_counter_ns() - begin
    return Sample("offload", len(running), 0, context, work, ns, 0, 0, ns)


def _mean(repeated: Sequence[Sample], trimmed: float) -> Sample:
    """Work is the same in each repetition, save where the device's rounding is not."""
    times = [(s.caches_ns, s.draft_ns, s.verify_ns, s.round_ns) for s in repeated]
    caches, draft, verify, whole = trim_mean(times, trimmed).tolist()
    work = Work(*np.rint(np.mean([s.work for s in repeated], axis=0)).astype(int).tolist())
    first = replace(repeated[0], work=work, caches_ns=caches)
    return replace(first, draft_ns=draft, verify_ns=verify, round_ns=whole)


class Rates(NamedTuple):
    """Nanoseconds per unit of work: a cost model with two kinds of target tokens."""

    overhead: float
    target_pass: float
    verify: float
    prefill: float
    kv: float
    steps: float
    drafted: float
    draft_kv: float
    prefills: float
    swaps: float
    swapped: float

    def cost_model(self) -> CostModel:
        """The cost model; for rates that were fitted with one token rate."""
        return CostModel(
            overhead_ns=self.overhead,
            target_pass_ns=self.target_pass,
            target_token_ns=self.verify,
            target_kv_token_ns=self.kv,
            draft_step_ns=self.steps,
            draft_token_ns=self.drafted,
            draft_kv_token_ns=self.draft_kv,
            prefill_request_ns=self.prefills,
            swap_request_ns=self.swaps,
            swap_token_ns=self.swapped,
        )


class Term(NamedTuple):
    """A part of some samples: which, its time, and the rates that make it up."""

    kinds: tuple[Kind, ...]
    times: tuple[str, ...]
    rates: tuple[str, ...]


DRAFT = ("steps", "drafted", "draft_kv")
SWAP = ("swaps", "swapped")
TERMS = {
    "prefill": Term(("prefill",), ("caches_ns", "draft_ns"), ("prefill", "prefills", *DRAFT)),
    "draft": Term(("decode",), ("draft_ns",), DRAFT),
    "verify": Term(("decode",), ("verify_ns",), ("target_pass", "verify", "kv")),
    "restore": Term(("restore",), ("caches_ns",), SWAP),
    "offload": Term(("offload",), ("caches_ns",), SWAP),
    "round": Term(("prefill", "restore", "decode"), ("round_ns",), Rates._fields),
}


def _counts(samples: Sequence[Sample], term: Term) -> tuple[Floats, Floats]:
    """Counts of work [samples, rates] and times [samples] of a term, where there was work."""
    counts, times = [], []
    for s in samples:
        known = {"overhead": 1, "target_pass": 1, **s.work._asdict()}
        row = [known[name] if name in term.rates else 0 for name in Rates._fields]
        if s.kind in term.kinds and any(row):
            counts.append(row)
            times.append(sum(getattr(s, name) for name in term.times))
    return np.array(counts, np.float64).reshape(-1, len(Rates._fields)), np.array(times, np.float64)


def fit(samples: Sequence[Sample], *, one_token_rate: bool = True) -> Rates:
    """Rates >= 0 with the least sum of squared relative errors over the parts of rounds.

    Args:
        samples: Samples; those held out are not looked at.
        one_token_rate: Whether verified and prefilled tokens cost the same, as in the cost model.
    """
    seen = [s for s in samples if not s.held_out]
    parts = [_counts(seen, term) for name, term in TERMS.items() if name != "round"]
    design = np.concatenate([counts / times[:, None] for counts, times in parts])
    columns = np.eye(len(Rates._fields))
    if one_token_rate:
        verify, prefill = Rates._fields.index("verify"), Rates._fields.index("prefill")
        columns[prefill] = columns[verify]  # one column counts both
    design = design @ columns
    # counts differ by orders of magnitude: without a common scale the solver loses digits
    scale = np.maximum(np.linalg.norm(design, axis=0), np.finfo(np.float64).tiny)
    solution, _ = nnls(design / scale, np.ones(len(design)))
    beyond = [s.round_ns - s.draft_ns - s.verify_ns for s in seen if s.kind == "decode"]
    rates = Rates(*(columns @ (solution / scale)).tolist())
    return rates._replace(overhead=float(np.median(beyond)))


def compare(samples: Sequence[Sample], rates: Rates) -> dict[str, tuple[Floats, Floats]]:
    """Measured and fitted nanoseconds of each term that was seen at work."""
    pairs = {name: _counts(samples, term) for name, term in TERMS.items()}
    return {name: (times, counts @ rates) for name, (counts, times) in pairs.items() if len(times)}


def errors(samples: Sequence[Sample], rates: Rates) -> dict[str, dict[str, float]]:
    """Absolute relative error of each term on the held-out samples: mean, 90th percentile."""
    pairs = compare([s for s in samples if s.held_out], rates)
    relative = {name: np.abs(fitted / measured - 1) for name, (measured, fitted) in pairs.items()}
    return {
        name: {"mean": float(e.mean()), "p90": float(np.quantile(e, 0.9)), "samples": len(e)}
        for name, e in relative.items()
    }

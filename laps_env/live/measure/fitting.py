"""The constants of a cost model from samples, and how far it misses others.

The parts of a round are fitted, not its sum, so each constant is seen apart. The formula has one
``target_token_ns`` for prefilled and verified tokens; `fit` can hold them apart, to see what that
costs. On a GPU passes are padded to a few shapes, of which the replay knows nothing: `with_padding`
has the padded work counted, to see what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from laps_env.live.measure.calibration import Kind, Sample
from laps_env.live.measure.least_squares import Floats, fit_rates, relative_error
from laps_env.sim.costs import CostModel


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


def with_padding(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with their padded work as their work."""
    return [replace(s, work=s.padded) for s in samples]


def fit(samples: Sequence[Sample], *, one_token_rate: bool = True) -> Rates:
    """Rates >= 0 with the least sum of squared relative errors over the parts of rounds.

    Args:
        samples: Samples; those held out are not looked at.
        one_token_rate: Whether verified and prefilled tokens cost the same, as in the cost model.
    """
    seen = [s for s in samples if not s.held_out]
    parts = [_counts(seen, term) for name, term in TERMS.items() if name != "round"]
    counts, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns = np.eye(len(Rates._fields))
    if one_token_rate:
        verify, prefill = Rates._fields.index("verify"), Rates._fields.index("prefill")
        columns[prefill] = columns[verify]  # one column counts both
    beyond = [s.round_ns - s.draft_ns - s.verify_ns for s in seen if s.kind == "decode"]
    rates = Rates(*(columns @ fit_rates(counts @ columns, times)).tolist())
    return rates._replace(overhead=float(np.median(beyond)))


def compare(samples: Sequence[Sample], rates: Rates) -> dict[str, tuple[Floats, Floats]]:
    """Measured and fitted nanoseconds of each term that was seen at work."""
    pairs = {name: _counts(samples, term) for name, term in TERMS.items()}
    return {name: (times, counts @ rates) for name, (counts, times) in pairs.items() if len(times)}


def errors(samples: Sequence[Sample], rates: Rates) -> dict[str, dict[str, float]]:
    """Absolute relative error of each term on the held-out samples: mean, 90th percentile."""
    pairs = compare([s for s in samples if s.held_out], rates)
    return {name: relative_error(*pair) for name, pair in pairs.items()}

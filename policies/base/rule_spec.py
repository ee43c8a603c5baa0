"""What a file with a rule exports: the rule, its parameters, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laps_env.utils.checks import check_count, is_finite
from laps_env.utils.jit import no_preparation, prepare, rule

Floats = npt.NDArray[np.float64]


class Parameter(NamedTuple):
    """Number that a rule leaves open: its default, and the range in which it is tuned.

    ``source`` is ``"published"`` where the rule's own paper gives the default, else ``"assumed"``.
    """

    name: str
    default: float
    low: float
    high: float
    meaning: str
    source: str = "assumed"
    log: bool = False
    integer: bool = False


@dataclass(frozen=True)
class RuleSpec:
    """A rule and what it needs.

    Attributes:
        name: Name that the field has for it.
        title: Line for lists and tables.
        rule: Function that scores a request, under the decorator `laps_env.policies.rule`.
        parameters: Tunable numbers, ``params[0]``, ``params[1]``, ... of the rule.
        cells: Number of float64 cells of memory per request.
        prepare: Function that looks at the whole table first, under `laps_env.policies.prepare`.
        shared: Number of float32 cells that it leaves to the rule behind the columns of ``server``.
        shared_per_slot: Number of such cells for each slot.
        keeps: Whether it finds there what it left when it was last called, zero at first; else what
            it finds is of no meaning.
        slots: Slots of the table that the rule is made for, None for any.
        fitted: Function from the traffic model of the *train* split
            (`laps_env.policies.base.traffic_model.TrafficModel`) to the constants that follow the
            parameters in ``params``; None for a rule that needs none.
        by_category: Whether the fitted constants are per task category, so that the rule serves
            only traffic of the categories that it was fitted on.
        clairvoyant: Whether the rule finds the true remaining rounds in its first cell.
        drafts: Whether the rule also decides drafts: it leaves the most tokens to draft for a
            request, 0..16, in its last cell but one, and in the last the product of the draft's
            confidences below which drafting stops (`laps_env.sim.confidence`). The draft length of
            its policies is "policy"; where a server has its own, it decides the order alone.

    Raises:
        ValueError: A member is of the wrong kind; the message names it, what was expected and what
            came.
    """

    name: str
    title: str
    rule: rule
    parameters: tuple[Parameter, ...] = ()
    cells: int = 1
    prepare: prepare = no_preparation
    shared: int = 0
    shared_per_slot: int = 0
    keeps: bool = False
    slots: int | None = None
    fitted: Callable[[Any], Floats] | None = None
    by_category: bool = False
    clairvoyant: bool = False
    drafts: bool = False

    def __post_init__(self) -> None:
        kinds: dict[str, tuple[type, str]] = {
            "name": (str, "a text"),
            "title": (str, "a text"),
            "rule": (rule, "a function under the decorator rule"),
            "prepare": (prepare, "a function under the decorator prepare"),
            "parameters": (tuple, "a tuple of Parameter"),
        }
        for member, (kind, expected) in kinds.items():
            self._check(member, isinstance(getattr(self, member), kind), expected)
        self._check_parameters()
        fits = self.fitted is None or callable(self.fitted)
        self._check("fitted", fits, "a function of the traffic model, or None")
        check_count(f"{self.name}: slots", self.slots, optional=True)
        check_count(f"{self.name}: cells", self.cells, least=2 if self.drafts else 1)
        for member in ("shared", "shared_per_slot"):
            check_count(f"{self.name}: {member}", getattr(self, member), least=0)

    def _check_parameters(self) -> None:
        named = all(isinstance(p, Parameter) and isinstance(p.name, str) for p in self.parameters)
        self._check("parameters", named, "a tuple of Parameter with names")
        different = len({p.name for p in self.parameters}) == len(self.parameters)
        self._check("parameters", different, "different names")
        for p in self.parameters:
            finite = all(map(is_finite, (p.default, p.low, p.high)))
            expected = f"{p.name} with finite numbers, low <= high"
            self._check("parameters", finite and p.low <= p.high, expected)

    def _check(self, member: str, fine: bool, expected: str) -> None:
        if not fine:
            value = getattr(self, member)
            raise ValueError(f"{self.name}: {member}: expected {expected}, got {value!r:.80}")

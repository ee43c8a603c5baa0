"""The page of an advice, Markdown: today's decision, the best ones, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator

from laps_env.evaluation.advice import COST_GROUPS, OBJECTIVES, WINDOW, Advice, Judged
from laps_env.evaluation.statistics import Interval
from laps_env.report.tables import markdown_table
from laps_env.report.verdict import told
from laps_env.workloads.arrivals import RecordedArrivals
from laps_env.workloads.requests import RecordedRequests

#: Objectives in words.
WORDS = {
    "mean_latency_s": "mean latency",
    "p99_latency_s": "99th percentile of latency",
    "slo_attainment": "share of requests within their limits",
}


def advice_page(advice: Advice) -> str:
    """The page."""
    question, scenario = advice.question, advice.question.scenario
    loads = advice.loads
    lines = [
        f"# What {scenario.name} could decide",
        "",
        f"{scenario.description or scenario.name}; requests: {scenario.requests.name}; arrivals: "
        f"{scenario.arrivals}; load {question.load}: {sum(loads) / len(loads):.2f} "
        f"({min(loads):.2f} to {max(loads):.2f}) of what today's server can do.",
        "",
        f"{advice.screened} decisions were screened on other arrivals than those that judge them: "
        f"{len(loads)} workloads of {WINDOW:,} requests, paired with today's; in brackets 95 % "
        "intervals over the workloads.",
        "",
        _table(advice),
        "",
    ]
    for objective in advice.best:
        lines += [f"## For the {WORDS[objective]}", "", *_about(advice, objective), ""]
    return "\n".join([*lines, *_costs(advice)]) + "\n"


def _table(advice: Advice) -> str:
    """Today's decision and the best of each objective."""
    names = list(advice.best)
    shown = {"today": advice.today, **{f"best {WORDS[n]}": advice.best[n] for n in names}}
    rows = []
    for title, judged in shown.items():
        cells = [_value(judged, name) for name in names]
        rows.append([title, judged.decision, *cells])
    return markdown_table(["", "decision", *(WORDS[name] for name in names)], rows)


def _value(judged: Judged, objective: str) -> str:
    value = float(judged.values[objective].mean())
    if OBJECTIVES[objective]:
        return f"{value:.1%}, {_change(objective, judged.change[objective])}"
    return f"{value:.3g} s, {_change(objective, judged.change[objective])}"


def _change(objective: str, change: tuple[float, Interval]) -> str:
    """A change from today's in words."""
    value, interval = change
    if not OBJECTIVES[objective]:
        return f"x {told(value, interval)}"
    bounds = "" if interval is None else f" ({interval[0] * 100:+.1f} to {interval[1] * 100:+.1f})"
    return f"{value * 100:+.1f}{bounds} points"


def _about(advice: Advice, objective: str) -> Iterator[str]:
    best = advice.best[objective]
    if best.decision == advice.today.decision:
        yield "Today's decision is the best of those that were screened."
    else:
        said = _change(objective, best.change[objective])
        yield f"**{best.decision}**: {said} of today's ({advice.today.decision})."
        if parts := advice.parts[objective]:
            each = (
                f"{part.decision}: {_change(objective, part.change[objective])}" for part in parts
            )
            yield ""
            yield f"Its changes one by one: {'; '.join(each)}."
    yield ""
    if equals := advice.equals[objective]:
        names = "; ".join(str(judged.decision) for judged in equals)
        yield f"Not told to be worse: {names}."
    else:
        yield "All rivals that were judged beside it are told to be worse."


def _costs(advice: Advice) -> Iterator[str]:
    scenario = advice.question.scenario
    cost = scenario.server.cost
    yield "## How sure this is"
    yield ""
    yield f"Costs: {cost.source.rstrip('.') or 'constants of the file'}."
    if not any(getattr(cost, name) for name in COST_GROUPS["drafting"]):
        yield ""
        yield (
            "These costs have no price for drafting: what a longer draft takes is not known, only "
            "what verifying it takes."
        )
    requests = scenario.requests
    if isinstance(requests, RecordedRequests):
        observed = min(requests.train.observed_share, requests.test.observed_share)
        if observed < 1:
            yield ""
            yield (
                f"{observed:.0%} of the positions' acceptance is recorded, the rest is filled by a "
                "model: longer drafts than the recorded ones meet mostly that."
            )
    largest = max(judged.decision.batch_size for judged in advice.best.values())
    if largest > scenario.server.batch_size:
        yield ""
        yield (
            f"Batches of {largest} are larger than today's: unless they were measured, their costs "
            "are those of the linear model beyond what it was fitted to."
        )
    arrivals = scenario.arrivals
    judges = WINDOW * len(advice.loads)
    if isinstance(arrivals, RecordedArrivals) and arrivals.trace.arrival_ns.size < 2 * judges:
        yield ""
        yield (
            f"The log has {arrivals.trace.arrival_ns.size:,} arrivals, of which the second half "
            f"comes again and again in the {judges:,} requests that judge: the intervals are "
            "of this recording, and narrower than those of other days."
        )
    for objective, found in advice.if_costs_differ.items():
        cases = "; ".join(f"{name}: {_change(objective, off)}" for name, off in found.items())
        yield ""
        yield f"If costs are off, the best for the {WORDS[objective]} against today's: {cases}."

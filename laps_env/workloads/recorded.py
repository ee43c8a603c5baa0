"""The scenario of a server whose requests were recorded and whose costs were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.traces import AcceptanceTrace
from laps_env.workloads.arrivals import Poisson
from laps_env.workloads.requests import RecordedRequests
from laps_env.workloads.scenarios import Scenario

#: Category of requests that say none, or one that is not known.
OTHER = "other"


def recorded_scenario(
    trace: AcceptanceTrace,
    cost: CostModel,
    *,
    batch_size: int | None = None,
    draft_length: int | None = None,
    pool_tokens: int = ServerModel.pool_tokens,
) -> Scenario:
    """A recorded server with its saturation; no request is kept apart for *test*.

    It has one category more, `OTHER`, without requests: what is fitted for it is of all requests.

    Args:
        trace: Recorded requests.
        cost: Costs of the server's rounds.
        batch_size: Most requests in a round; None = as the trace's provenance says.
        draft_length: Most tokens drafted for a request; None = likewise.
        pool_tokens: Capacity of the key-value pool in tokens.

    Raises:
        ValueError: A value out of range, or one that is given neither here nor in the trace.
    """

    def known(name: str, value: int | None) -> int:
        if value is None and name not in trace.info.provenance:
            raise ValueError(f"{name}: expected a number, which {trace.source} does not say")
        return int(trace.info.provenance[name] if value is None else value)

    name = f"{trace.num_requests} requests of {Path(trace.source).name}"
    server = ServerModel(
        cost,
        batch_size=known("batch_size", batch_size),
        draft_length=known("draft_length", draft_length),
        pool_tokens=pool_tokens,
    )
    if OTHER not in trace.categories:
        trace = replace(trace, categories=(*trace.categories, OTHER))
    requests = RecordedRequests(trace, trace, name=name)
    return Scenario("recorded", name, server, requests, Poisson()).with_saturation()

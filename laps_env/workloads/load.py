"""How much work requests are to a server: its saturation, and the load that a workload brings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from laps_env.sim.loops import run_in_order
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.sim.workload import Workload
from laps_env.utils.splits import Split
from laps_env.workloads.arrivals import AllAtOnce
from laps_env.workloads.generator import draw_workload
from laps_env.workloads.predictors import make_predictor
from laps_env.workloads.requests import RequestSource

#: Requests of the workload that measures a split's saturation, and its seed, which is reserved.
SATURATION_REQUESTS = 10_000
SATURATION_SEED = 2**62


def busy_time_s(workload: Workload, server: ServerModel) -> float:
    """Seconds that first come first served needs with all requests present at time 0."""
    simulation = Simulation(server, slots=max(64, server.batch_size))
    simulation.start(0, replace(workload, arrival_ns=np.zeros_like(workload.arrival_ns)))
    run_in_order(simulation.constants, simulation.state, np.zeros(simulation.slots))
    return float(simulation.state.servers[0]["now"] * 1e-9)


def realised_load(workload: Workload, server: ServerModel) -> float:
    """`busy_time_s` over the time from the first arrival to the last; infinite where that is 0."""
    span_s = float(workload.arrival_ns[-1] - workload.arrival_ns[0]) * 1e-9
    return busy_time_s(workload, server) / span_s if span_s > 0 else np.inf


def scaled_to_load(workload: Workload, server: ServerModel, load: float) -> Workload:
    """Same requests, their arrivals stretched so that they bring this load."""
    stretch = realised_load(workload, server) / load
    if not np.isfinite(stretch):
        return workload
    return replace(workload, arrival_ns=np.rint(workload.arrival_ns * stretch).astype(np.int64))


def measure_saturation(requests: RequestSource, server: ServerModel) -> dict[str, float]:
    """Saturation throughput in requests per second of every split, on its reserved seed."""
    asks = server.needs_confidence
    return {
        split.value: SATURATION_REQUESTS / busy_time_s(_saturating(requests, split, asks), server)
        for split in Split
    }


def _saturating(requests: RequestSource, split: Split, confidences: bool) -> Workload:
    return draw_workload(
        requests,
        AllAtOnce(),
        make_predictor(0.0),
        split=split,
        seed=SATURATION_SEED,
        episode=0,
        num_requests=SATURATION_REQUESTS,
        mean_gap_s=0.0,
        confidences=confidences,
    )

"""One policy on one workload: whole rounds inside the kernel, or an environment step by step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from laps_env.policies import Policy
from laps_env.sim.draft_length import POLICY
from laps_env.sim.metrics import summarize, time_alone_ns
from laps_env.sim.simulation import Simulation, limit_ns
from laps_env.utils.splits import Split
from laps_env.workloads import Workload
from laps_env.workloads.scenarios import Scenario


def serve(
    policy: Policy,
    workload: Workload,
    scenario: Scenario,
    *,
    split: str = Split.TEST,
    slots: int = 64,
    time_limit_s: float | None = None,
) -> Simulation:
    """Serve a workload to its end with a policy; returns the simulation for inspection.

    Args:
        policy: Policy whose rule runs inside the kernel.
        workload: Requests to serve.
        scenario: Scenario whose server runs them, with the policy's draft-length rule where it has
            one.
        split: Split whose saturation the observed load estimate is relative to.
        slots: Slots of the request table.
        time_limit_s: Time after the first arrival at which the episode is cut, by default never.

    Raises:
        ValueError: A request that does not fit the key-value pool, a policy that was fitted on
            other task categories, or a rule that fails (`Policy.run`).
    """
    policy.check_categories(workload)
    server = scenario.server
    if policy.draft_length is not None:
        server = server.with_changes(draft_length=policy.draft_length)
    simulation = Simulation(
        server,
        slots=max(slots, server.batch_size),
        saturation_rps=scenario.saturation(split),
        time_limit_ns=limit_ns(time_limit_s),
    )
    simulation.start(0, workload)
    if policy.spec.clairvoyant:
        policy = policy.with_oracle(workload, scenario.server)
    policy.run(simulation)
    return simulation


def evaluate_episode(
    policy: Policy,
    workload: Workload,
    scenario: Scenario,
    *,
    split: str = Split.TEST,
    slots: int = 64,
    time_limit_s: float | None = None,
    alone_ns: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Metrics that `laps_env.sim.metrics.summarize` has of a policy; arguments as `serve`."""
    simulation = serve(
        policy, workload, scenario, split=split, slots=slots, time_limit_s=time_limit_s
    )
    if alone_ns is None:
        reference = scenario.server.reference_draft_length
        alone_ns = time_alone_ns(workload, scenario.server, reference)
    state = simulation.state
    return summarize(
        simulation.requests(), state.servers[0], state.gaps[0], alone_ns, workload.categories
    )


def play(policy: Policy, env: gym.Env[Any, Any], **reset: Any) -> dict[str, Any]:
    """The last ``info`` of an episode that a policy plays step by step, with the drafts it asks.

    Args:
        policy: Policy that acts; a clairvoyant one is told the workload.
        env: Any environment of this package.
        **reset: Arguments of its ``reset``.
    """
    observation, info = env.reset(**reset)
    inner: Any = env.unwrapped
    asks = policy.spec.drafts and inner.options.server.draft_length == POLICY
    if policy.spec.clairvoyant:
        policy = policy.with_oracle(inner.workload(), inner.options.server)
    state, ended = None, False
    while not ended:
        action, state = policy.predict(observation, state)
        if asks:
            longest, threshold = policy.asked(state, inner.options.slots)
            inner.ask_drafts(longest[0], threshold[0])
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return info

"""The native vector environment equals single environments side by side, bit for bit."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import laps_env
from laps_env.envs.replay import SpecDecodeReplay
from laps_env.envs.vector import SpecDecodeReplayVectorEnv

ENVS, SLOTS, SEED = 3, 4, 100

VARIANTS: dict[str, dict[str, Any]] = {
    "serial": {"batch_size": 1, "num_requests": 2},
    "batched": {"batch_size": 3, "num_requests": 5, "load": 4.0},
    "one request": {"batch_size": 1, "num_requests": 1},
    "step limit": {"batch_size": 2, "num_requests": 3, "load": 4.0, "max_episode_steps": 25},
    "limits": {
        "batch_size": 1,
        "num_requests": 6,
        "load": 6.0,
        "queue_limit": 2,
        "time_limit_s": 20.0,
    },
    "smartspec": {"batch_size": 2, "num_requests": 3, "draft_length": "smartspec"},
    "refreshed": {"batch_size": 2, "num_requests": 3, "predictor_error": "refreshed"},
}


def arguments(variant: str, interface: str) -> dict[str, Any]:
    shared = {"scenario": "code-batch8-8b", "slots": SLOTS, "interface": interface}
    return shared | VARIANTS[variant]


def random_actions(
    rng: np.random.Generator, native: SpecDecodeReplayVectorEnv, masks: npt.NDArray[np.bool_]
) -> npt.NDArray[Any]:
    """Scores, or picks of which one in ten is any action, masked or not."""
    if native.options.interface == "scores":
        return rng.uniform(-1, 1, (ENVS, SLOTS)).astype(np.float32)
    actions = rng.integers(SLOTS + 1, size=ENVS)
    for row, mask in enumerate(masks):
        if mask.any() and rng.random() < 0.9:
            actions[row] = rng.choice(np.flatnonzero(mask))
    return actions


def assert_same(native: Any, singles: Any, what: str) -> None:
    same = data_equivalence(_copy(native), _copy(singles), exact=True)
    assert same, f"{what}: {native} != {singles}"


@pytest.mark.parametrize("interface", ["sequential", "scores"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equals_single_environments(mode: AutoresetMode, variant: str, interface: str) -> None:
    kwargs = arguments(variant, interface)
    native = SpecDecodeReplayVectorEnv(ENVS, autoreset_mode=mode, **kwargs)
    singles = SyncVectorEnv([lambda: SpecDecodeReplay(**kwargs)] * ENVS, autoreset_mode=mode)
    for space in ("observation_space", "action_space", "single_action_space"):
        assert getattr(native, space) == getattr(singles, space)
    # a window is for a single environment
    assert native.metadata == singles.metadata | {"render_modes": ["ansi", "rgb_array"]}
    rng = np.random.default_rng(0)
    assert_same(native.reset(seed=SEED), singles.reset(seed=SEED), "reset")
    episodes = np.zeros(ENVS, int)
    kept: list[tuple[Any, Any]] = []  # observations, and copies made when they were new
    for step in range(1500):
        actions = random_actions(rng, native, native.action_masks())
        result, expected = native.step(actions), singles.step(actions)
        assert_same(result, expected, f"step {step}")
        ended = result[2] | result[3]
        episodes += ended
        if mode == AutoresetMode.DISABLED and ended.any():
            seeds: list[int | None] = [int(rng.integers(99)) for _ in range(ENVS)]
            for seed in (None, seeds):
                options = {"reset_mask": ended.copy()}
                fresh = native.reset(seed=seed, options=dict(options))
                assert_same(fresh, singles.reset(seed=seed, options=dict(options)), "masked reset")
                if rng.random() < 0.5:
                    break
        kept = [*kept[-3:], (result, _copy(result))]
        if (episodes >= 3).all():
            break
    assert (episodes >= 3).all(), f"only {episodes} episodes"
    assert all(data_equivalence(was, _copy(now), exact=True) for now, was in kept)


def _copy(result: Any) -> Any:
    """A copy in which no data equals no data: -1 for NaN."""
    if isinstance(result, dict):
        return {name: _copy(part) for name, part in result.items()}
    if isinstance(result, tuple):
        return tuple(_copy(part) for part in result)
    if isinstance(result, np.ndarray):
        floats = result.dtype.kind == "f"
        return (
            np.where(np.isnan(result), result.dtype.type(-1), result) if floats else result.copy()
        )
    return -1.0 if isinstance(result, float) and np.isnan(result) else result


def test_the_variants_end_in_both_ways() -> None:
    """The comparison above covers terminations and truncations (and so summaries of both)."""
    ends = set()
    for variant in VARIANTS:
        native = SpecDecodeReplayVectorEnv(ENVS, **arguments(variant, "sequential"))
        native.reset(seed=SEED)
        rng = np.random.default_rng(0)
        for _ in range(600):
            result = native.step(random_actions(rng, native, native.action_masks()))
            ends |= {"terminated"} if result[2].any() else set()
            ends |= {f"truncated {variant}"} if result[3].any() else set()
    assert ends >= {"terminated", "truncated step limit", "truncated limits"}


def test_row_i_with_seed_s_is_the_single_environment_with_seed_s_plus_i() -> None:
    native = SpecDecodeReplayVectorEnv(ENVS, num_requests=5)
    native.reset(seed=SEED)
    single = SpecDecodeReplay(num_requests=5)
    for row in range(ENVS):
        single.reset(seed=SEED + row)
        assert native.workload(row).equals(single.workload())
    native.reset(seed=[7, None, 9])
    single.reset(seed=7)
    assert native.workload(0).equals(single.workload())
    single.reset(seed=SEED + 1)
    single.reset()
    assert native.workload(1).equals(single.workload())


@pytest.mark.parametrize("env_id", laps_env.REPLAY_IDS)
def test_make_vec_picks_the_native_class(env_id: str) -> None:
    envs = gym.make_vec(env_id, num_envs=2, num_requests=3, slots=SLOTS, max_episode_steps=7)
    assert isinstance(envs.unwrapped, SpecDecodeReplayVectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    for _ in range(7):
        *_, truncated, _ = envs.step(envs.action_space.sample())
    assert truncated.all()
    for mode in AutoresetMode:
        assert gym.make_vec(env_id, autoreset_mode=mode).metadata["autoreset_mode"] == mode
    assert gym.make_vec(env_id, vectorization_mode="sync", num_envs=2).num_envs == 2


def test_an_episode_that_ends_at_the_step_limit_is_terminated_not_truncated() -> None:
    kwargs: dict[str, Any] = {"num_requests": 2, "batch_size": 1, "slots": SLOTS}
    envs = SpecDecodeReplayVectorEnv(1, **kwargs)
    envs.reset(seed=0)
    steps = 1
    while not envs.step(np.array([0]))[2].all():
        steps += 1
    for limit, expected in ((steps, (True, False)), (steps - 1, (False, True))):
        limited = SpecDecodeReplayVectorEnv(1, max_episode_steps=limit, **kwargs)
        limited.reset(seed=0)
        for _ in range(limit):
            *_, terminated, truncated, info = limited.step(np.array([0]))
        assert (terminated[0], truncated[0]) == expected
        assert info["summary"]["finished"][0] == 2 - truncated[0]


def test_rendering_gives_a_text_per_row() -> None:
    envs = SpecDecodeReplayVectorEnv(2, num_requests=3, slots=SLOTS, render_mode="ansi")
    envs.reset(seed=0)
    texts = envs.render()
    assert texts is not None
    assert [type(text) for text in texts] == [str, str]


def test_workloads_of_one_row_do_not_reach_another() -> None:
    """Rows with and without the optional arrays, and of several lengths, share the flat arrays."""
    from kernel_pairs import NOT_COPIED, make_server, make_workload
    from random_instances import random_server, random_workload

    from laps_env.sim.loops import step_sequential
    from laps_env.sim.simulation import Simulation

    def run(simulation: Simulation, rows: int) -> list[Any]:
        actions = np.random.default_rng(1).integers(SLOTS + 1, size=(3000, rows))
        servers = simulation.state.servers
        for step in actions:
            ended = servers["finished"] == servers["requests"]
            if ended.all():
                break
            step_sequential(simulation.constants, 1.0, simulation.state, step, ended, NOT_COPIED)
        assert (servers["finished"] == servers["requests"]).all()
        return [simulation.requests(row).copy() for row in range(rows)]

    rng = np.random.default_rng(3)
    fields = [random_workload(rng) for _ in range(8)]
    assert {w["max_draft"] is None for w in fields} == {True, False}
    assert {w["draft_schedule"] is None for w in fields} == {True, False}
    server = make_server(random_server(rng, fields[0]), SLOTS).with_changes(pool_tokens=2000)
    together = Simulation(server, num_envs=8, slots=SLOTS)
    for row, workload in enumerate(fields):
        together.start(row, make_workload(fields[-1 - row]))  # something else was there before
        together.start(row, make_workload(workload))
    results = run(together, 8)
    for row, workload in enumerate(fields):
        alone = Simulation(server, num_envs=8, slots=SLOTS)
        alone.state.servers["finished"] = alone.state.servers["requests"]
        alone.start(row, make_workload(workload))
        given = run(alone, 8)[row]
        for name in given.dtype.names:
            if "offset" not in name:
                np.testing.assert_array_equal(results[row][name], given[name])


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_step_needs_a_reset(mode: AutoresetMode) -> None:
    envs = SpecDecodeReplayVectorEnv(2, num_requests=1, slots=SLOTS, autoreset_mode=mode)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.array([0, 0]))
    with pytest.raises(gym.error.ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.array([0, 0]))
    envs.reset(seed=0)
    while not (ended := np.logical_or(*envs.step(np.array([0, 0]))[2:4])).any():
        pass
    if mode == AutoresetMode.DISABLED:
        with pytest.raises(gym.error.ResetNeeded, match=str(np.flatnonzero(ended).tolist())[1:-1]):
            envs.step(np.array([0, 0]))
        envs.reset(options={"reset_mask": ended})
    envs.step(np.array([0, 0]))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0], r"actions: expected shape \(2,\), got \(1,\)"),
        ([[0, 0]], r"actions: expected shape \(2,\), got \(1, 2\)"),
        ([0, SLOTS + 1], rf"actions: expected 0\.\.{SLOTS}, got {SLOTS + 1}"),
        ([-1, 0], rf"actions: expected 0\.\.{SLOTS}, got -1"),
        ([0.0, 1.0], "actions: expected integers, got float64"),
    ],
)
def test_bad_actions_move_no_row(actions: list[Any], message: str) -> None:
    envs = SpecDecodeReplayVectorEnv(2, num_requests=3, slots=SLOTS)
    envs.reset(seed=0)
    before = envs.simulation.state.servers.copy()
    with pytest.raises(ValueError, match=message):
        envs.step(np.array(actions))
    assert (envs.simulation.state.servers == before).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"reset_mask": np.array([1, 0])}}, r"reset_mask: expected bool \[2\]"),
        ({"options": {"reset_mask": np.array([True])}}, r"reset_mask: expected bool \[2\]"),
        ({"options": {"reset_mask": np.zeros(2, bool)}}, r"reset_mask: expected .* with a True"),
        ({"options": {"resetmask": None}}, r"reset options: expected only .*got \['resetmask'\]"),
        ({"seed": [1, 2, 3]}, "seed: expected 2 seeds, got 3"),
        ({"seed": [1, -2]}, "seed: expected an integer >= 0, got -2"),
    ],
)
def test_bad_resets_change_no_row(arguments: dict[str, Any], message: str) -> None:
    envs = SpecDecodeReplayVectorEnv(2, num_requests=3, slots=SLOTS)
    envs.reset(seed=0)
    before, workloads = envs.simulation.state.servers.copy(), list(envs.simulation.workloads)
    with pytest.raises(ValueError, match=message):
        envs.reset(**arguments)
    assert (envs.simulation.state.servers == before).all()
    assert envs.simulation.workloads == workloads
    after = SpecDecodeReplayVectorEnv(2, num_requests=3, slots=SLOTS)
    after.reset(seed=0)
    assert_same(envs.reset(), after.reset(), "the next episode")


def test_num_envs_is_checked() -> None:
    with pytest.raises(ValueError, match="num_envs: expected an integer >= 1, got 0"):
        SpecDecodeReplayVectorEnv(0)
    with pytest.raises(ValueError, match=r"'sometimes' is not a valid"):
        SpecDecodeReplayVectorEnv(1, autoreset_mode="sometimes")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(("interface", "batch"), [("sequential", 1), ("scores", 2)])
def test_threads_and_copies_change_no_bit(mode: str, interface: str, batch: int) -> None:
    """Also where episodes end and workloads grow the arrays."""
    made: dict[str, Any] = {"num_requests": 6, "slots": 4, "load": 2.0, "batch_size": batch}
    made |= {"interface": interface, "autoreset_mode": mode}
    options: list[dict[str, Any]] = [{}, {"num_threads": 2}, {"copy": False, "num_threads": 3}]
    every = [SpecDecodeReplayVectorEnv(5, **made, **given) for given in options]
    every.append(pickle.loads(pickle.dumps(every[1])))  # noqa: S301
    seen: list[Any] = [envs.reset(seed=0) for envs in every]
    rng, ended = np.random.default_rng(0), 0
    for _ in range(1200):
        first = seen[0]
        for other in seen[1:]:
            assert data_equivalence(other, first, exact=True)
        if interface == "sequential":
            actions = first[1 if len(first) == 2 else 4]["action_mask"].argmax(axis=1)
        else:
            actions = rng.uniform(-1, 1, (5, 4)).astype(np.float32)
        seen = [envs.step(actions) for envs in every]
        ended += int((seen[0][2]).sum())
    assert ended > 5


def test_without_a_copy_the_arrays_are_the_environments_own() -> None:
    envs = SpecDecodeReplayVectorEnv(2, copy=False, num_requests=3)
    first, info = envs.reset(seed=0)
    second, *_ = envs.step(info["action_mask"].argmax(axis=1))
    assert second["queue"] is first["queue"]
    fresh = SpecDecodeReplayVectorEnv(2, num_requests=3)
    first, info = fresh.reset(seed=0)
    second, *_ = fresh.step(info["action_mask"].argmax(axis=1))
    assert not np.shares_memory(second["queue"], first["queue"])

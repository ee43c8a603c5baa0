"""Speed of environments of others, in the interpreter that has them: `make bench PEERS=python`.

Needs jax with gymnax or jumanji, nothing of ours. Prints a JSON object: steps per second of 256
environments on one core, compiled as a whole (a scan, the way their users train), random actions.

    pip install jax gymnax jumanji six
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

ENVS, STEPS, REPEATS = 256, 500, 3

#: A step of every environment: states, keys -> states.
Step = Callable[[Any, Any], Any]


def rate(states: Any, step: Step) -> float:
    """Median environment steps per second of a compiled scan, after one that compiles."""

    @jax.jit
    def run(states: Any, key: Any) -> Any:
        def advance(states: Any, key: Any) -> tuple[Any, None]:
            return step(states, jax.random.split(key, ENVS)), None

        return jax.lax.scan(advance, states, jax.random.split(key, STEPS))[0]

    key = jax.random.key(0)
    states = jax.block_until_ready(run(states, key))
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        states = jax.block_until_ready(run(states, key))
        rates.append(ENVS * STEPS / (time.perf_counter() - start))
    return sorted(rates)[REPEATS // 2]


def gymnax_cartpole() -> float:
    """CartPole: four numbers by Euler's rule."""
    import gymnax

    env, params = gymnax.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(1), ENVS)
    _, states = jax.vmap(env.reset, in_axes=(0, None))(keys, params)

    def step(states: Any, keys: Any) -> Any:
        actions = jax.vmap(lambda key: jax.random.randint(key, (), 0, 2))(keys)
        return jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, states, actions, params)[1]

    return rate(states, step)


def jumanji_job_shop() -> float:
    """Job shop: 20 jobs of up to 8 operations on 10 machines, a valid job for each machine."""
    import jumanji

    env = jumanji.make("JobShop-v0")
    reset: Any = jax.vmap(env.reset)
    states, timestep = reset(jax.random.split(jax.random.key(1), ENVS))

    def choose(mask: Any, key: Any) -> Any:
        return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf), axis=-1)

    def step(carried: Any, keys: Any) -> Any:
        states, timestep = carried
        actions = jax.vmap(choose)(timestep.observation.action_mask, keys)
        return jax.vmap(env.step)(states, actions)

    return rate((states, timestep), step)


PEERS = {"gymnax": gymnax_cartpole, "jumanji": jumanji_job_shop}


def main() -> None:
    """Measure those that are there."""
    found = {}
    for module, measure in PEERS.items():
        if importlib.util.find_spec(module) is not None:
            found[f"{measure.__name__}_steps_per_s_{ENVS}"] = measure()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

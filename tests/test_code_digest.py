"""Digests are the same whoever computes them."""

import gc
from concurrent.futures import ThreadPoolExecutor

from laps_env import policies


def test_digests_in_threads() -> None:
    """Python 3.11 raises SystemError where a collection switches threads inside `ast.parse`."""
    threshold = gc.get_threshold()

    def switch(phase: str, info: dict[str, int]) -> None:
        sum(range(50))

    gc.callbacks.append(switch)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: policies.make("laps_sd").digest, range(100)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(switch)
    assert digests == {policies.make("laps_sd").digest}

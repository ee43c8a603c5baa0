"""Counter-based random numbers: a draw depends on its address alone, not on earlier draws.

The address is (split, seed) as the key and (stream, episode, request, block) as the counter, so a
workload cannot depend on actions, on the number of environments, or on another request.
Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.utils.checks import check_count
from laps_env.utils.jit import jit
from laps_env.utils.splits import Split

#: What a draw is for, so that e.g. another arrival process leaves the lengths as they are.
(
    ARRIVALS,
    ATTRIBUTES,
    ACCEPTANCE,
    PREDICTION,
    CONFIDENCE,
    DRIFT,
    REFRESH,
    SAMPLING,
) = range(8)

Key = npt.NDArray[np.uint64]

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def make_key(split: Split, seed: int) -> Key:
    """Two-word Philox key of a split and a seed.

    Args:
        split: Part of all traffic that the workload is of.
        seed: Integer >= 0 (and at most 2**62).

    Raises:
        ValueError: The seed is out of range.
    """
    check_count("seed", seed, least=0)
    sequence = np.random.SeedSequence([list(Split).index(split), seed])
    return sequence.generate_state(2, np.uint32).astype(np.uint64)


@jit
def philox(k0: Any, k1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10: four 32-bit words from a two-word key and a four-word counter."""
    k0, k1 = np.uint64(k0), np.uint64(k1)
    c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ k0,
            p1 & _MASK,
            (p0 >> _SHIFT) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK
    return c0, c1, c2, c3


@jit
def uniforms(key: Key, stream: int, episode: int, request: int, block: int) -> tuple[float, float]:
    """Two independent uniforms strictly inside (0, 1)."""
    a, b, c, d = philox(key[0], key[1], block, request, episode, stream)
    # 52 bits, centred: adding 1/2 to a 53-bit integer would round up to 1.0 at the very end
    first = ((a << np.uint64(20)) ^ (b >> np.uint64(12))) * 1.0 + 0.5
    second = ((c << np.uint64(20)) ^ (d >> np.uint64(12))) * 1.0 + 0.5
    return first * 2.0**-52, second * 2.0**-52


@jit
def normals(key: Key, stream: int, episode: int, request: int, block: int) -> tuple[float, float]:
    """Two independent standard normals (Box and Muller)."""
    u, v = uniforms(key, stream, episode, request, block)
    radius = math.sqrt(-2.0 * math.log(u))
    return radius * math.cos(2.0 * math.pi * v), radius * math.sin(2.0 * math.pi * v)

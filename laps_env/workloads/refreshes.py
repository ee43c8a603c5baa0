"""Refreshed predictions of generated requests, whose text nobody has (assumed).

TRAIL (arXiv 2410.01035) reads the rest of an answer off the target's hidden states while it
decodes: published for the 8B family is a mean absolute error of 46 tokens from the prompt and 34
while decoding, for answers of up to 512 tokens. Here what is left after every 32 tokens is told as

    rest * exp(sd * z), at least one token

with the deviation of the prompt's prediction, 0.5, times 34/46. One z a request for all of its
refreshes: their errors are the same, the least favourable assumption, since nothing averages out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laps_env.sim.refreshes import refresh_offset, tokens_when_told
from laps_env.sim.workload import LARGEST_PREDICTION
from laps_env.utils.jit import jit
from laps_env.workloads.random import REFRESH, Key, normals

#: Tokens between refreshes (assumed).
REFRESH_EVERY = 32

#: Deviation of log(told / true) of what is left: as much below a prompt's as TRAIL's errors.
REFRESH_ERROR = 0.5 * 34 / 46


def draw_refreshes(
    key: Key, episode: int, output_tokens: npt.NDArray[np.int64], error: float
) -> npt.NDArray[np.float64]:
    """Total lengths as they are told after every `REFRESH_EVERY` tokens, float64 [F].

    Args:
        key: Key of the workload.
        episode: Number of the episode.
        output_tokens: Output lengths, int64 [R].
        error: Deviation of log(told / true) of what is left, >= 0.
    """
    noise = np.empty(output_tokens.size)
    _draw_noise(key, episode, noise)
    offset = refresh_offset(output_tokens, REFRESH_EVERY)
    generated, counts = tokens_when_told(offset, REFRESH_EVERY), np.diff(offset)
    rest = np.repeat(output_tokens, counts) - generated
    with np.errstate(over="ignore"):
        told = rest * np.repeat(np.exp(error * noise), counts)
    return np.asarray(generated + np.clip(told, 1.0, LARGEST_PREDICTION - generated))


@jit
def _draw_noise(key: Key, episode: int, noise: npt.NDArray[np.float64]) -> None:
    for i in range(noise.size):
        noise[i], _ = normals(key, REFRESH, episode, i, 0)

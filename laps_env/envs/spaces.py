"""Observation and action spaces, and the check of what comes in as an action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from laps_env.sim.draft_length import MAX_DRAFT_LENGTH
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS


def observation_space(slots: int) -> gym.spaces.Dict:
    """Space of observations: ``queue`` [slots, 24] and ``server`` [8], in physical units."""
    queue_low, queue_high = (
        np.tile(np.array(bounds, np.float32), (slots, 1))
        for bounds in zip(*((c.low, c.high) for c in QUEUE_COLUMNS), strict=True)
    )
    server_high = np.array([c.high for c in SERVER_COLUMNS], np.float32)
    return gym.spaces.Dict(
        queue=gym.spaces.Box(queue_low, queue_high, dtype=np.float32),
        server=gym.spaces.Box(np.zeros_like(server_high), server_high, dtype=np.float32),
    )


def action_space(interface: str, slots: int) -> gym.Space[Any]:
    """Space of actions: a pick, a pick with its draft length, or scores of all slots."""
    if interface == "sequential":
        return gym.spaces.Discrete(slots + 1)
    if interface == "drafts":
        return gym.spaces.MultiDiscrete([slots + 1, MAX_DRAFT_LENGTH + 1])
    return gym.spaces.Box(-1.0, 1.0, (slots,), np.float32)


def check_actions(
    name: str, actions: Any, space: gym.Space[Any], interface: str, slots: int
) -> npt.NDArray[Any]:
    """Actions as the kernel takes them, C-contiguous: int64 picks or float64 scores.

    Args:
        name: Name of what is checked, for messages.
        actions: One action, or a batch of them.
        space: Space that they are of.
        interface: Kind of action.
        slots: Number of slots.

    Raises:
        ValueError: The shape or type is another, or a value is outside the space.
    """
    try:
        actions = np.asarray(actions)
    except ValueError:  # lists of different lengths
        raise ValueError(f"{name}: expected shape {space.shape}, got {actions!r:.80}") from None
    if actions.shape != space.shape:
        raise ValueError(f"{name}: expected shape {space.shape}, got {actions.shape}")
    scores = interface == "scores"
    if actions.dtype.kind not in ("iuf" if scores else "iu"):
        raise ValueError(
            f"{name}: expected {'numbers' if scores else 'integers'}, got {actions.dtype}"
        )
    if interface == "drafts":
        _check_range(f"{name}, pick", actions[..., 0], 0, slots)
        _check_range(f"{name}, draft length", actions[..., 1], 0, MAX_DRAFT_LENGTH)
    else:
        _check_range(name, actions, *((-1, 1) if scores else (0, slots)))
    return np.asarray(actions, np.float64 if scores else np.int64, order="C")


def _check_range(name: str, values: Any, low: int, high: int) -> None:
    least, most = (values, values) if values.ndim == 0 else (values.min(), values.max())
    if not (least >= low and most <= high):  # also catches NaN
        bad = values[~((values >= low) & (values <= high))].flat[0]
        raise ValueError(f"{name}: expected {low}..{high}, got {bad}")


def check_allowed(
    actions: npt.NDArray[np.int64], mask: npt.NDArray[np.int8], skip: npt.NDArray[np.bool_]
) -> None:
    """Whether picks [E] are those that a mask [E, N + 1] allows, but where they are skipped [E].

    Raises:
        ValueError: One is not; the message names its environment.
    """
    fine = skip | (mask[np.arange(actions.size), actions] != 0)
    if not fine.all():
        index = int(np.argmin(fine))
        raise ValueError(
            f"actions: expected one that info['action_mask'] allows, got {actions[index]} in "
            f"environment {index}"
        )

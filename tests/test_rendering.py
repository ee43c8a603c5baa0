"""Pictures: what they show, in a window and in a video; nothing is drawn unless asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import laps_env
from laps_env.envs.view import View
from laps_env.sim import observation as layout
from laps_env.sim.state import REQUEST

pytest.importorskip("pygame")

from laps_env import picture_view
from laps_env.envs.picture import HEIGHT, WIDTH, PictureView

SMALL: dict[str, Any] = {"scenario": "chat-batch8-135m", "num_requests": 6, "load": 2.0}


def view(**changes: float) -> View:
    """One request, 3 s after its arrival, half of its predicted output done."""
    row = np.zeros(len(layout.QUEUE_COLUMNS), np.float32)
    values = {"occupied": 1, "waiting_s": 3, "prompt_tokens": 10, "predicted_tokens": 100}
    values |= {"generated_tokens": 50, "rounds": 20, "drafted": 80, "accepted": 60, "cached": 1}
    for name, value in (values | changes).items():
        row[[column.name for column in layout.QUEUE_COLUMNS].index(name)] = value
    server = np.zeros(len(layout.SERVER_COLUMNS), np.float32)
    server[layout.FREE_CACHE_TOKENS] = 40
    requests = np.zeros(2, REQUEST)
    requests["arrival_ns"] = [2e9, 9e9]
    return View(row[None], server, requests, 5.0, 1, 0, ("any",), 100, "by hand")


def width_of(frame: np.ndarray, color: tuple[int, int, int], top: int, columns: slice) -> int:
    """Pixels of a colour on one line."""
    return int((frame[top, columns] == color).all(axis=-1).sum())


def test_bars_are_as_long_as_what_they_mean() -> None:
    frame = PictureView(fps=4).frame(view())
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    top, everywhere = picture_view._TOP + 15, slice(picture_view._OUTPUT, WIDTH)  # below the text
    wide = picture_view._OUTPUT_WIDE
    assert width_of(frame, picture_view._DONE, top, everywhere) == wide / 2
    assert width_of(frame, picture_view._TO_COME, top, everywhere) == wide / 2
    rate = 60 / 80 * picture_view._RATE_WIDE
    assert width_of(frame, picture_view._GOOD, top, everywhere) == rate
    pool = HEIGHT - 56 + 5
    assert width_of(frame, picture_view._DONE, pool, slice(0, 500)) == 300 * 0.6


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"picked": 1}, "picked"),
        ({"ran": 1}, "ran"),
        ({}, "pre-empted"),
        ({"cached": 0}, "evicted"),
        ({"rounds": 0, "cached": 0}, "waits"),
    ],
)
def test_a_request_is_in_one_state(changes: dict[str, float], state: str) -> None:
    assert picture_view._state_of(view(**changes).queue[0])[0] == state


def test_the_latency_so_far_counts_the_unfinished() -> None:
    shown = view()
    assert shown.mean_latency_s == 3.0  # 5 - 2; the second request has not arrived
    shown.requests["completion_ns"][0] = 4e9
    assert shown.mean_latency_s == 2.0


def test_what_runs_is_shown_where_not_all_fit() -> None:
    many = np.repeat(view().queue, 40, axis=0)
    many[:, layout.ARRIVAL_NUMBER] = range(40)
    many[39, layout.RAN] = 1
    rows, hidden = picture_view._rows_to_show(view()._replace(queue=many))
    assert [row[layout.ARRIVAL_NUMBER] for row in rows] == [*range(18), 39]
    assert hidden == 21


@pytest.mark.parametrize("env_id", laps_env.REPLAY_IDS)
def test_frames_of_an_episode_differ(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    before: Any = env.render()
    for _ in range(9):
        env.step(env.unwrapped.action_space.sample())
    after: Any = env.render()
    assert before.shape == after.shape == (HEIGHT, WIDTH, 3)
    assert (before != after).any()


def test_a_vector_environment_gives_a_frame_per_row() -> None:
    envs = gym.make_vec(laps_env.REPLAY_IDS[0], num_envs=2, render_mode="rgb_array", **SMALL)
    envs.reset(seed=0)
    frames: Any = envs.render()
    assert len(frames) == 2
    assert (frames[0] != frames[1]).any()


def test_a_window_opens_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(laps_env.REPLAY_IDS[0], render_mode="human", **SMALL)
    env.reset(seed=0)
    window = pygame.display.get_surface()
    assert window is not None
    before = pygame.surfarray.array3d(window)
    for _ in range(9):
        env.step(env.action_space.sample())
    assert (pygame.surfarray.array3d(window) != before).any()
    assert env.render() is None
    env.close()
    assert not pygame.display.get_init()


def test_a_video_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    from gymnasium.wrappers import RecordVideo

    env = gym.make(laps_env.REPLAY_IDS[0], render_mode="rgb_array", **SMALL)
    env = RecordVideo(env, str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    for _ in range(12):
        env.step(env.action_space.sample())
    env.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 1000


def test_nothing_is_imported_unless_something_is_drawn() -> None:
    code = (
        "import sys, gymnasium, laps_env\n"
        f"gymnasium.make({laps_env.REPLAY_IDS[0]!r}, num_requests=3).reset(seed=0)\n"
        "assert not {'pygame', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pygame_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match=r"expected pygame .extra 'render' of laps-env"):
        PictureView(fps=4)

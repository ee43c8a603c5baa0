"""`render_mode="rgb_array"` and ``"human"``: the server drawn with pygame.

pygame is imported when the first frame is drawn (the extra ``render``).
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.envs.rendering import View
from laps_env.sim.observation import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    BACKLOG,
    CACHED,
    CATEGORY,
    DRAFTED,
    FREE_CACHE_TOKENS,
    GENERATED_TOKENS,
    OCCUPIED,
    PICKED,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    RAN,
    ROUNDS,
    WAITING_S,
)

WIDTH, HEIGHT = 960, 640

#: Rows of the table that fit, their height and where the first one is.
_ROWS, _ROW, _TOP = 19, 24, 92
#: Left edges and widths of the columns.
_NAME, _PROMPT, _OUTPUT, _RATE, _LATENCY, _STATE = 16, 150, 240, 610, 726, 806
_PROMPT_WIDE, _OUTPUT_WIDE, _RATE_WIDE = 70, 350, 60
#: Frames that the curve of the queue goes back.
_HISTORY = 240

_PAPER, _INK, _PALE = (255, 255, 255), (40, 44, 52), (140, 146, 156)
_GROUND, _RUNNING = (233, 236, 240), (226, 240, 226)
_PROMPT_INK, _DONE, _TO_COME = (160, 168, 180), (66, 120, 190), (190, 210, 236)
_GOOD, _WARNING = (76, 152, 84), (206, 122, 40)

Color = tuple[int, int, int]


class Picture:
    """Draws `View` after `View`; remembers how long the queue was.

    Args:
        fps: Most frames a second in a window.

    Raises:
        ImportError: The library pygame is not installed.
    """

    def __init__(self, fps: int) -> None:
        # Drawing needs no screen; pygame greets on import unless told not to.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError:
            raise ImportError(
                "render_mode: expected pygame (extra 'render' of laps-env), got none"
            ) from None
        pygame.font.init()
        self._pygame = pygame
        self._fps = fps
        self._font = pygame.font.Font(None, 20)
        self._large = pygame.font.Font(None, 26)
        self._surface = pygame.Surface((WIDTH, HEIGHT))
        self._window: Any = None
        self._lengths: deque[int] = deque(maxlen=_HISTORY)
        self._drawn_at = 0.0

    def frame(self, view: View) -> npt.NDArray[np.uint8]:
        """The picture, uint8 [640, 960, 3]."""
        self._draw(view)
        pixels = self._pygame.surfarray.array3d(self._surface)
        return np.ascontiguousarray(pixels.transpose(1, 0, 2))

    def show(self, view: View) -> None:
        """The picture in a window, no faster than its frames a second."""
        if self._window is None:
            self._pygame.display.init()
            self._pygame.display.set_caption("laps_env")
            self._window = self._pygame.display.set_mode((WIDTH, HEIGHT))
            self._clock = self._pygame.time.Clock()
        self._draw(view)
        self._window.blit(self._surface, (0, 0))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._pygame.display.quit()
            self._window = None

    def _draw(self, view: View) -> None:
        if view.now_s < self._drawn_at:  # another episode
            self._lengths.clear()
        self._drawn_at = view.now_s
        self._lengths.append(view.arrived - view.finished)
        self._surface.fill(_PAPER)
        self._draw_head(view)
        rows, hidden = _rows_to_show(view)
        longest = max([1.0, *(max(r[PREDICTED_TOKENS], r[GENERATED_TOKENS]) for r in rows)])
        largest = max([1.0, *(row[PROMPT_TOKENS] for row in rows)])
        for place, row in enumerate(rows):
            self._draw_request(view, row, _TOP + place * _ROW, longest, largest)
        waiting = hidden + int(view.server[BACKLOG])
        if waiting:
            self._text(f"and {waiting} more", (_NAME, _TOP + _ROWS * _ROW + 4), _PALE)
        self._draw_foot(view)

    def _draw_head(self, view: View) -> None:
        self._text(view.title, (_NAME, 12), _INK, self._large)
        figures = (
            f"t = {view.now_s:.2f} s",
            f"finished {view.finished} of {len(view.requests)}",
            f"in the system {view.arrived - view.finished}",
            f"mean latency so far {view.mean_latency_s:.2f} s",
            f"pre-emptions {view.requests['preemptions'].sum()}",
        )
        self._text("     ".join(figures), (_NAME, 40), _INK)
        for name, left in (
            ("request", _NAME),
            ("prompt", _PROMPT),
            ("output: generated, and as predicted", _OUTPUT),
            ("acceptance", _RATE),
            ("latency", _LATENCY),
            ("now", _STATE),
        ):
            self._text(name, (left, _TOP - 22), _PALE)

    def _draw_request(
        self, view: View, row: npt.NDArray[np.float32], top: int, longest: float, largest: float
    ) -> None:
        state, color = _state_of(row)
        if row[RAN] or row[PICKED]:
            self._box((_NAME - 6, top - 3, WIDTH - 2 * _NAME + 12, _ROW - 2), _RUNNING)
        category = view.categories[int(row[CATEGORY])]
        self._text(f"{row[ARRIVAL_NUMBER]:.0f} {category}"[:18], (_NAME, top), _INK)
        self._bar(_PROMPT, top, _PROMPT_WIDE, row[PROMPT_TOKENS] / largest, _PROMPT_INK)
        self._text(f"{row[PROMPT_TOKENS]:.0f}", (_PROMPT + 4, top), _INK)
        predicted, done = row[PREDICTED_TOKENS] / longest, row[GENERATED_TOKENS] / longest
        self._bar(_OUTPUT, top, _OUTPUT_WIDE, predicted, _TO_COME)
        self._box((_OUTPUT, top, round(_OUTPUT_WIDE * done), _ROW - 8), _DONE)
        if row[DRAFTED]:
            rate = row[ACCEPTED] / row[DRAFTED]
            self._bar(_RATE, top, _RATE_WIDE, rate, _GOOD)
            self._text(f"{rate:.2f}", (_RATE + _RATE_WIDE + 6, top), _INK)
        self._text(f"{row[WAITING_S]:.2f} s", (_LATENCY, top), _INK)
        self._text(state, (_STATE, top), color)

    def _draw_foot(self, view: View) -> None:
        top = HEIGHT - 56
        used = view.pool_tokens - view.server[FREE_CACHE_TOKENS]
        share = float(np.clip(used / view.pool_tokens, 0, 1))
        self._text("cache pool", (_NAME, top + 4), _PALE)
        self._bar(_PROMPT, top, 300, share, _WARNING if share > 0.9 else _DONE)
        self._text(f"{used:.0f} of {view.pool_tokens} tokens", (_PROMPT, top + 22), _INK)
        self._text("in the system", (_RATE - 110, top + 4), _PALE)
        most = max(1, *self._lengths)
        points = [
            (_RATE + k, top + 40 - round(40 * length / most))
            for k, length in enumerate(self._lengths)
        ]
        if len(points) > 1:
            self._pygame.draw.lines(self._surface, _DONE, False, points, 2)
        self._text(f"frames drawn, at most {most}", (_RATE + _HISTORY + 10, top + 4), _PALE)

    def _bar(self, left: int, top: int, width: int, share: float, color: Color) -> None:
        self._box((left, top, width, _ROW - 8), _GROUND)
        self._box((left, top, round(width * share), _ROW - 8), color)

    def _box(self, place: tuple[int, int, int, int], color: Color) -> None:
        self._pygame.draw.rect(self._surface, color, place)

    def _text(self, text: str, place: tuple[int, int], color: Color, font: Any = None) -> None:
        self._surface.blit((font or self._font).render(text, True, color), place)


def _rows_to_show(view: View) -> tuple[list[npt.NDArray[np.float32]], int]:
    """Requests in the order of arrival, and how many had no place: those that run come first."""
    rows = view.queue[view.queue[:, OCCUPIED] == 1]
    running = (rows[:, RAN] == 1) | (rows[:, PICKED] == 1)
    first = np.lexsort((rows[:, ARRIVAL_NUMBER], ~running))[:_ROWS]
    shown = rows[first]
    return list(shown[np.argsort(shown[:, ARRIVAL_NUMBER])]), len(rows) - len(shown)


def _state_of(row: npt.NDArray[np.float32]) -> tuple[str, Color]:
    """What happens to a request, in a word, and its colour."""
    if row[PICKED]:
        return "picked", _GOOD
    if row[RAN]:
        return "ran", _GOOD
    if not row[ROUNDS]:
        return "waits", _PALE
    return ("pre-empted", _WARNING) if row[CACHED] else ("evicted", _WARNING)

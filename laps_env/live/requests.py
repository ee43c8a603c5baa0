"""Requests with real prompts: which question each one asks, and what a scheduler is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laps_env.live.prompts import RECORDED_PARTS, Question, encode, partition
from laps_env.sim.confidence import CERTAIN
from laps_env.utils.splits import Split
from laps_env.workloads.length_model import LengthModel
from laps_env.workloads.random import Key
from laps_env.workloads.requests import Requests, draw_rows


@dataclass(frozen=True)
class Prompt:
    """A question as the target reads it.

    Attributes:
        question: Question it comes from.
        tokens: Token ids of the first turn in the model's chat form.
    """

    question: Question
    tokens: list[int]


class PromptRequests:
    """A source of requests drawn from prompt files; nobody knows their lengths or acceptance.

    *Test* workloads draw from the *test* questions, all others from *train*. Output
    lengths are the limit until the server has run a request.

    Args:
        questions: Questions of all parts (`laps_env.live.prompts.partition`).
        tokenizer: Tokenizer of the target, with a chat template or without.
        limit: Most output tokens.
        context: Number of tokens that the target can read.
        length_model: Model that predicts output lengths from the prompts.

    Raises:
        ValueError: No question of a recorded part, or a prompt that leaves no room for an output.
    """

    has_predictions = True
    has_refreshes = False

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Any,
        *,
        limit: int,
        context: int,
        length_model: LengthModel,
    ) -> None:
        parts = partition(questions)
        self.categories = tuple(sorted({q.category for q in questions}))
        self.limit = limit
        self.name = f"prompts of {len(questions)} questions"
        self._prompts: dict[bool, list[Prompt]] = {}  # whether of the test split
        self._predicted: dict[bool, npt.NDArray[np.float64]] = {}
        for part in RECORDED_PARTS:
            prompts = [Prompt(q, encode(tokenizer, q.turns[:1])) for q in parts[part]]
            if not prompts:
                raise ValueError(
                    f"prompts: expected a question for the part {part}, got none among "
                    f"{len(questions)} questions"
                )
            longest = max(prompts, key=lambda prompt: len(prompt.tokens))
            if len(longest.tokens) + limit > context:
                raise ValueError(
                    f"prompt {longest.question.name}: expected at most {context - limit} tokens, "
                    f"the context of {context} less {limit} of output, got {len(longest.tokens)}"
                )
            self._prompts[part == "test"] = prompts
            self._predicted[part == "test"] = length_model.predict(
                [prompt.question.category for prompt in prompts],
                np.array([len(prompt.tokens) for prompt in prompts], np.int64),
                [prompt.question.turns[0] for prompt in prompts],
                limit,
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.tokens) for own in self._prompts.values() for prompt in own)

    def prompts(self, split: Split) -> list[Prompt]:
        """Those that the *test* split draws from, or those of all other splits."""
        return self._prompts[split == Split.TEST]

    def draw(
        self,
        key: Key,
        episode: int,
        count: int,
        split: Split,
        *,
        confidences: bool = False,
        refreshes: bool = False,
    ) -> Requests:
        """``count`` requests, whose drafts are certain until the server has run them."""
        prompts = self.prompts(split)
        rows = draw_rows(key, episode, count, len(prompts))
        chosen = [prompts[row] for row in rows]
        tokens = np.array([len(prompt.tokens) for prompt in chosen], np.int64)
        names = [prompt.question.category for prompt in chosen]
        return Requests(
            prompt_tokens=tokens,
            output_tokens=np.full(count, self.limit, np.int64),
            category=np.array([self.categories.index(name) for name in names], np.int64),
            accepted_length=np.zeros(count * self.limit, np.uint8),
            max_draft=np.full(count * self.limit, 255, np.uint8),
            predicted_tokens=self._predicted[split == Split.TEST][rows],
            confidence=np.full(count * self.limit, CERTAIN, np.uint8) if confidences else None,
            source_index=rows,
        )

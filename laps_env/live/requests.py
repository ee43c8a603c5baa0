"""Requests with real prompts: which question each one asks, and what a scheduler is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from laps_env.live.prompts import Question, encode, partition
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
        self.train, self.test = (
            [Prompt(q, encode(tokenizer, q.turns[:1])) for q in parts[part]]
            for part in ("train", "test")
        )
        for part, prompts in (("train", self.train), ("test", self.test)):
            if not prompts:
                raise ValueError(
                    f"prompts: expected a question for the part {part}, got none among "
                    f"{len(questions)} questions"
                )
        for prompt in (*self.train, *self.test):
            if len(prompt.tokens) + limit > context:
                raise ValueError(
                    f"prompt {prompt.question.name}: expected at most {context - limit} tokens, "
                    f"the context of {context} less {limit} of output, got {len(prompt.tokens)}"
                )

        self._predicted = {
            name: length_model.predict(
                [prompt.question.category for prompt in prompts],
                np.array([len(prompt.tokens) for prompt in prompts], np.int64),
                [prompt.question.turns[0] for prompt in prompts],
                limit,
            )
            for name, prompts in (("train", self.train), ("test", self.test))
        }

    def prompts(self, split: Split) -> list[Prompt]:
        """Those that the *test* split draws from, or those of all other sets."""
        return self.test if split == Split.TEST else self.train

    def draw(self, key: Key, episode: int, count: int, split: Split) -> Requests:
        """``count`` requests."""
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
            predicted_tokens=self._predicted["test" if split == Split.TEST else "train"][rows],
            source_index=rows,
        )

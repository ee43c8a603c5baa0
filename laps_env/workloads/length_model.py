"""Predicting output lengths from prompts: what a real scheduler has instead of the true length.

Ridge regression of the logarithm of the output length on what is known at arrival, the words
hashed into buckets. Digits, lines and sentences lowered the error in cross-validation on public
runs of Spec-Bench (vicuna-7b); question marks, code marks and the number of words did not.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from laps_env.utils.checks import check_positive, is_finite
from laps_env.utils.files import read_json, write_beside

FORMAT = "laps-env length model"
VERSION = 1

#: The model that comes with the package.
DEFAULT = Path(str(files("laps_env") / "data" / "length_model.json"))

#: log(1 + prompt tokens, digits, lines, sentences), after the categories and before the words.
PLAIN_FEATURES = 4
#: Signed sums of words with the same hash, as a share of all words of the text.
WORD_BUCKETS = 256

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LengthModel:
    """log(output tokens) = intercept + features . weights.

    Attributes:
        categories: those it was fitted on; a prompt of another one has the average of them.
        intercept: log(tokens).
        weights: float64 [categories + PLAIN_FEATURES + WORD_BUCKETS], log(tokens) per feature.
    """

    categories: tuple[str, ...]
    intercept: float
    weights: Floats

    @classmethod
    def fit(
        cls,
        categories: Sequence[str],
        prompt_tokens: Integers,
        texts: Sequence[str],
        output_tokens: Integers,
        penalty: float,
    ) -> LengthModel:
        """The model of R answered prompts; a larger penalty, > 0, keeps the weights smaller."""
        check_positive("penalty", penalty)
        known = tuple(sorted({*categories}))
        features = _features(known, categories, prompt_tokens, texts)
        target = np.log(output_tokens)
        # centred, so that the penalty is on the weights alone
        centre = features.mean(axis=0)
        x = features - centre
        gram = x.T @ x + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ (target - target.mean()))
        return cls(known, float(target.mean() - centre @ weights), weights)

    def predict(
        self,
        categories: Sequence[str],
        prompt_tokens: Integers,
        texts: Sequence[str],
        limit: int,
    ) -> Floats:
        """Predicted output lengths [R] in tokens, 1 .. ``limit``; texts are the user's own."""
        features = _features(self.categories, categories, prompt_tokens, texts)
        # summed row by row: a matrix product rounds by how many prompts are predicted together
        logs = self.intercept + (features * self.weights).sum(axis=1)
        with np.errstate(over="ignore"):
            return np.clip(np.exp(logs), 1, limit)

    def save(self, path: Path, card: dict[str, Any]) -> None:
        """Write the model in one move, with a card (plain JSON values) of where it comes from."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "card": card,
            "categories": self.categories,
            "intercept": self.intercept,
            "weights": self.weights.tolist(),
        }
        write_beside(path, [(json.dumps(document, indent=1, allow_nan=False) + "\n").encode()])

    @classmethod
    def load(cls, path: Path | None = None) -> LengthModel:
        """Read a model; without a path the one that comes with the package.

        Raises:
            ValueError: naming the file, the field, what was expected and what came.
            OSError: the file cannot be read.
        """
        return read_json(path or DEFAULT, _read)


def _features(
    known: tuple[str, ...],
    categories: Sequence[str],
    prompt_tokens: Integers,
    texts: Sequence[str],
) -> Floats:
    """[R, known categories + PLAIN_FEATURES + WORD_BUCKETS]."""
    features = np.zeros((len(texts), len(known) + PLAIN_FEATURES + WORD_BUCKETS))
    prompts = zip(features, categories, prompt_tokens, texts, strict=True)
    for row, category, tokens, text in prompts:
        if category in known:
            row[known.index(category)] = 1
        digits, lines = sum(map(str.isdigit, text)), text.count("\n")
        sentences = len(_SENTENCE_END.findall(text))
        row[len(known) : -WORD_BUCKETS] = np.log1p([tokens, digits, lines, sentences])
        words = _WORD.findall(text.lower())
        for word in words:
            hashed = zlib.crc32(word.encode())
            row[hashed % WORD_BUCKETS - WORD_BUCKETS] += (1 - 2 * (hashed >> 31)) / len(words)
    return features


def _read(document: Any) -> LengthModel:
    """The model in a file's document."""
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {document!r:.80}")
    for name, value in (("format", FORMAT), ("version", VERSION)):
        found = _field(document, name)
        if type(found) is not type(value) or found != value:
            _fail(name, repr(value), found)
    if not isinstance(card := _field(document, "card"), dict):
        _fail("card", "an object", card)
    categories = _field(document, "categories")
    if not isinstance(categories, list) or not all(isinstance(c, str) for c in categories):
        _fail("categories", "a list of names", categories)
    if len({*categories}) < len(categories):
        _fail("categories", "distinct names", categories)
    if not is_finite(intercept := _field(document, "intercept")):
        _fail("intercept", "a finite number", intercept)
    size = len(categories) + PLAIN_FEATURES + WORD_BUCKETS
    weights = _field(document, "weights")
    if not isinstance(weights, list):
        _fail("weights", "a list of numbers", weights)
    if len(weights) != size:
        _fail("weights", f"{size} numbers", len(weights))
    for k, weight in enumerate(weights):
        if not is_finite(weight):
            _fail(f"weights[{k}]", "a finite number", weight)
    return LengthModel(tuple(categories), float(intercept), np.array(weights, np.float64))


def _field(document: dict[str, Any], name: str) -> Any:
    if name not in document:
        raise ValueError(f"{name}: expected a value, got none")
    return document[name]


def _fail(name: str, expected: str, actual: object) -> NoReturn:
    raise ValueError(f"{name}: expected {expected}, got {actual!r:.80}")

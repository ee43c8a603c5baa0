"""Fit the length predictor on recorded lengths, and write its predictions into the traces.

The traces are those of `laps-env record`. The model is fitted on *train* alone,
with the penalty that is best in cross-validation there. *train* gets the predictions of
models that did not see the request's question, *test* those of the final model: in both they
are off by as much as they would be on new prompts.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from laps_env.live.prompts import Part, Question, partition, read_questions
from laps_env.traces import AcceptanceTrace
from laps_env.utils.files import check_output
from laps_env.workloads.length_model import DEFAULT, LengthModel

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 10


@dataclass(frozen=True, eq=False)
class Answered:
    """R requests, what the user had said, and the tokens of the answers, ``limit`` at most.

    The requests of one question share a group.
    """

    categories: list[str]
    prompt_tokens: np.ndarray
    texts: list[str]
    output_tokens: np.ndarray
    groups: np.ndarray
    limit: int

    def select(self, rows: np.ndarray) -> Answered:
        return Answered(
            [self.categories[i] for i in rows],
            self.prompt_tokens[rows],
            [self.texts[i] for i in rows],
            self.output_tokens[rows],
            self.groups[rows],
            self.limit,
        )

    def fit(self, penalty: float) -> LengthModel:
        return LengthModel.fit(
            self.categories, self.prompt_tokens, self.texts, self.output_tokens, penalty
        )


@dataclass(frozen=True)
class Errors:
    """How far predictions are off.

    log_sd and log_mean are of log(predicted / true), absolute_tokens is the mean distance in
    tokens, within_1_5 the share of predictions within a factor of 1.5.
    """

    log_sd: float
    log_mean: float
    absolute_tokens: float
    within_1_5: float

    @classmethod
    def of(cls, predicted: np.ndarray, true: np.ndarray) -> Errors:
        log_ratio = np.log(predicted / true)
        return cls(
            log_sd=float(log_ratio.std()),
            log_mean=float(log_ratio.mean()),
            absolute_tokens=float(np.abs(predicted - true).mean()),
            within_1_5=float((np.abs(log_ratio) <= np.log(1.5)).mean()),
        )

    def __str__(self) -> str:
        return (
            f"log error {self.log_mean:+.3f} +- {self.log_sd:.3f}, {self.absolute_tokens:.1f} "
            f"tokens, {self.within_1_5:.0%} within a factor of 1.5"
        )


Predictions = dict[str, np.ndarray]


def predict(model: LengthModel, seen: Answered, new: Answered) -> Predictions:
    """Output tokens [R] of the new requests by the model and by two baselines.

    The geometric means of the seen answers, by category and of all, show what more the model knows.
    """
    overall = geometric_mean(seen.output_tokens)
    means = {
        name: geometric_mean(seen.output_tokens[[c == name for c in seen.categories]])
        for name in {*seen.categories}
    }
    return {
        "model": model.predict(new.categories, new.prompt_tokens, new.texts, new.limit),
        "category_mean": np.array([means.get(name, overall) for name in new.categories]),
        "global_mean": np.full(len(new.texts), overall),
    }


def geometric_mean(tokens: np.ndarray) -> float:
    return float(np.exp(np.log(tokens).mean()))


def cross_validate(data: Answered, penalty: float) -> Predictions:
    """Predict every request from the other folds; all of a group lies in one fold."""
    groups, group = np.unique(data.groups, return_inverse=True)
    if len(groups) < 2:
        raise ValueError(f"groups: expected at least 2, got {len(groups)}")
    fold = (np.random.default_rng(0).permutation(len(groups)) % FOLDS)[group]
    predicted: Predictions = defaultdict(lambda: np.empty(len(fold)))
    for k in np.unique(fold):
        held_out = np.flatnonzero(fold == k)
        seen = data.select(np.flatnonzero(fold != k))
        for name, own in predict(seen.fit(penalty), seen, data.select(held_out)).items():
            predicted[name][held_out] = own
    return dict(predicted)


def errors(predicted: Predictions, data: Answered) -> dict[str, Errors]:
    return {name: Errors.of(own, data.output_tokens) for name, own in predicted.items()}


def read_answered(trace: AcceptanceTrace, questions: list[Question], part: Part) -> Answered:
    """The requests of a trace of this part, whose questions a request's group is the index of."""

    def fail(name: str, expected: object, actual: object) -> NoReturn:
        raise ValueError(f"{trace.source}: {name}: expected {expected}, got {actual}")

    if (recorded := trace.info.provenance.get("part")) != part:
        fail("info.provenance.part", repr(part), repr(recorded))
    limit = trace.info.decoding.get("max_new_tokens")
    if type(limit) is not int or limit < trace.output_tokens.max():
        longest = trace.output_tokens.max()
        fail("info.decoding.max_new_tokens", f"an integer >= the outputs ({longest})", repr(limit))
    if trace.group is None:
        fail("group", "the question of every request", "none")
    categories = [trace.categories[k] for k in trace.category]
    numbered, turns, texts = dict(enumerate(questions)), Counter[int](), []
    for category, group in zip(categories, trace.group.tolist(), strict=True):
        turns[group] += 1
        question = numbered.get(group)
        if question is None or question.category != category or len(question.turns) < turns[group]:
            wanted = f"{category!r} with {turns[group]} turns (are these the recorded prompts?)"
            fail(f"group {group}", wanted, f"{question!r:.120}")
        texts.append("\n".join(question.turns[: turns[group]]))
    return Answered(categories, trace.prompt_tokens, texts, trace.output_tokens, trace.group, limit)


def fit_lengths(train_path: Path, test_path: Path, prompts: list[str], out: Path) -> None:
    """Fit, report, and write the model and both traces."""
    parts = partition(read_questions(prompts))
    train_trace, test_trace = AcceptanceTrace.load(train_path), AcceptanceTrace.load(test_path)
    train = read_answered(train_trace, parts["train"], "train")
    test = read_answered(test_trace, parts["test"], "test")
    found = {penalty: cross_validate(train, penalty) for penalty in PENALTIES}
    penalty = min(found, key=lambda p: Errors.of(found[p]["model"], train.output_tokens).log_sd)
    model = train.fit(penalty)
    tested = predict(model, train, test)
    card: dict[str, Any] = {
        "made_by": "scripts/fit_lengths.py",
        "date": datetime.now(UTC).date().isoformat(),
        "target": train_trace.info.target_model,
        "traces": {"train": train_path.name, "test": test_path.name},
        "requests": {"train": len(train.texts), "test": len(test.texts)},
        "limit": train.limit,
        "penalty": penalty,
    }
    for title, found_errors in (
        ("cross_validation", errors(found[penalty], train)),
        ("test", errors(tested, test)),
    ):
        card[title] = {name: asdict(own) for name, own in found_errors.items()}
        for name, own in found_errors.items():
            print(f"{title:17} {name:14} {own}")
    model.save(out, card)
    replace(train_trace, predicted_tokens=found[penalty]["model"]).save(train_path)
    replace(test_trace, predicted_tokens=tested["model"]).save(test_path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace-train", type=Path, required=True, help="of train")
    parser.add_argument("--trace-test", type=Path, required=True, help="of test")
    parser.add_argument("--prompts", nargs="+", required=True, help="the recording's prompt files")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="the model")
    options = parser.parse_args()
    try:
        check_output(options.out)
        fit_lengths(options.trace_train, options.trace_test, options.prompts, options.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()

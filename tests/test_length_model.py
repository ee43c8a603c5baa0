"""The length predictor: it learns from prompts alone, and never from the answer it predicts."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env.live.prompts import RECORDED_PARTS, Part, partition, read_questions
from laps_env.traces import AcceptanceTrace, TraceInfo
from laps_env.workloads.length_model import PLAIN_FEATURES, WORD_BUCKETS, LengthModel

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("list", "explain", "short", "story", "number", "why")
LIMIT = 4096


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "fit_lengths", ROOT / "scripts" / "fit_lengths.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look there
    spec.loader.exec_module(script)
    return script


script = load_script()


def planted(count: int, seed: int = 0) -> Any:
    """Answers whose log length is linear in category, prompt length and the share of two words."""
    rng = np.random.default_rng(seed)
    categories = [("code", "qa")[k] for k in rng.integers(0, 2, count)]
    prompt_tokens = rng.integers(10, 1000, count)
    said = rng.choice(WORDS, (count, 8))
    logs = (
        np.where(np.array(categories) == "code", 4.5, 3.5)
        + 0.3 * np.log1p(prompt_tokens)
        + 3.0 * (said == "story").mean(axis=1)
        - 3.0 * (said == "short").mean(axis=1)
    )
    return script.Answered(
        categories=categories,
        prompt_tokens=prompt_tokens,
        texts=[" ".join(words) for words in said],
        output_tokens=np.exp(logs).round().astype(np.int64).clip(1, LIMIT),
        groups=np.arange(count) // 2,
        limit=LIMIT,
    )


def predict(model: LengthModel, data: Any, limit: int = LIMIT) -> np.ndarray:
    return model.predict(data.categories, data.prompt_tokens, data.texts, limit)


def test_a_planted_law_is_found_out_of_fold() -> None:
    data = planted(400)
    found = script.errors(script.cross_validate(data, 0.01), data)
    assert found["model"].log_sd < 0.05
    assert abs(found["model"].log_mean) < 0.01
    assert found["model"].within_1_5 == 1
    assert 0.3 < found["category_mean"].log_sd < found["global_mean"].log_sd
    assert found["model"].absolute_tokens < found["category_mean"].absolute_tokens / 5


def test_the_errors_are_those_of_a_hand_calculation() -> None:
    found = script.Errors.of(np.array([200.0, 50.0, 100.0]), np.array([100, 100, 100]))
    assert found.log_mean == pytest.approx(0)
    assert found.log_sd == pytest.approx(np.log(2) * (2 / 3) ** 0.5)
    assert found.absolute_tokens == pytest.approx(50)
    assert found.within_1_5 == pytest.approx(1 / 3)


def test_no_answer_of_a_group_helps_to_predict_the_group() -> None:
    """Both turns of a question have a word of their own, which tells the length to who saw it."""
    rng = np.random.default_rng(0)
    lengths = np.repeat(rng.integers(10, 4000, 60), 2)
    words = np.repeat([f"word{k}" for k in range(60)], 2)

    def validated(lengths: np.ndarray) -> tuple[np.ndarray, Any]:
        groups = np.arange(120) // 2
        data = script.Answered(
            ["qa"] * 120, np.full(120, 50), words.tolist(), lengths, groups, LIMIT
        )
        return script.cross_validate(data, 1e-3)["model"], data

    predicted, data = validated(lengths)
    seen = predict(data.fit(1e-3), data)
    assert np.std(np.log(seen / lengths)) < 0.7 * np.std(np.log(lengths))
    assert np.std(np.log(predicted / lengths)) >= np.std(np.log(lengths))
    changed = lengths.copy()
    changed[:2] = 1
    assert (validated(changed)[0][:2] == predicted[:2]).all()
    assert (validated(changed)[0] != predicted).any()


def test_one_group_cannot_be_cross_validated() -> None:
    data = planted(2)
    with pytest.raises(ValueError, match="groups: expected at least 2, got 1"):
        script.cross_validate(data, 1.0)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    data, new = planted(100), planted(50, seed=1)
    model = data.fit(1.0)
    model.save(tmp_path / "model.json", {"date": "2026-01-02"})
    again = LengthModel.load(tmp_path / "model.json")
    assert again.categories == model.categories
    assert (predict(again, new) == predict(model, new)).all()
    assert json.loads((tmp_path / "model.json").read_text())["card"] == {"date": "2026-01-02"}


def test_a_prediction_does_not_depend_on_the_other_prompts() -> None:
    data = planted(100)
    model = data.fit(1.0)
    alone = [predict(model, data.select(np.array([i])))[0] for i in range(100)]
    assert alone == predict(model, data).tolist()


def test_predictions_stay_between_one_token_and_the_limit() -> None:
    size = 1 + PLAIN_FEATURES + WORD_BUCKETS
    for intercept, expected in ((1e4, 320.0), (-1e4, 1.0), (np.log(100), 100.0)):
        model = LengthModel(("qa",), intercept, np.zeros(size))
        predicted = model.predict(["qa", "code"], np.array([5, 0]), ["", "a b"], 320)
        assert predicted.dtype == np.float64
        assert predicted.tolist() == pytest.approx([expected, expected])
        assert 1 <= predicted.min() <= predicted.max() <= 320


def test_an_unknown_category_counts_as_none() -> None:
    data = planted(200)
    model = data.fit(1e-3)
    known = [model.predict([c], np.array([50]), ["why"], LIMIT)[0] for c in ("code", "qa")]
    unknown = model.predict(["poems"], np.array([50]), ["why"], LIMIT)[0]
    assert unknown == pytest.approx(np.sqrt(known[0] * known[1]))


def test_prompts_of_different_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        planted(50).fit(1.0).predict(["qa"], np.array([5, 6]), ["a", "b"], LIMIT)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_a_penalty_that_is_not_positive_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="penalty: expected a finite number > 0"):
        planted(10).fit(penalty)


SIZE = 2 + PLAIN_FEATURES + WORD_BUCKETS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "other", "format: expected 'laps-env length model', got 'other'"),
        ("version", 2, "version: expected 1, got 2"),
        ("version", True, "version: expected 1, got True"),
        ("card", [], "card: expected an object, got []"),
        ("intercept", None, "intercept: expected a value, got none"),
        ("intercept", float("nan"), "expected JSON, got"),
        ("categories", "code", "categories: expected a list, got 'code'"),
        ("categories", ["code", 1], "categories[1]: expected a text, got 1"),
        ("categories", ["code", "code"], "categories: expected distinct names"),
        ("categories", ["code"], f"weights: expected {SIZE - 1} numbers, got {SIZE}"),
        ("weights", None, "weights: expected a value, got none"),
        ("weights", 3, "weights: expected a list, got 3"),
        ("weights", [0.0] * 7, f"weights: expected {SIZE} numbers, got 7"),
        ("weights", [0.0, float("nan")] * (SIZE // 2), "expected JSON, got"),
        (
            "weights",
            [0.0, 10**400] * (SIZE // 2),
            "weights[1]: expected another value (number out of range), got 1000",
        ),
        ("weights", ["0"] * SIZE, "weights[0]: expected a number, got '0'"),
    ],
)
def test_a_bad_model_file_is_refused(tmp_path: Path, field: str, value: Any, message: str) -> None:
    path = tmp_path / "model.json"
    planted(50).fit(1.0).save(path, {})
    changed = json.loads(path.read_text())
    if value is None:
        del changed[field]
    else:
        changed[field] = value
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="expected") as error:
        LengthModel.load(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3", "\x00"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected") as error:
        LengthModel.load(path)
    assert str(path) in str(error.value)


def write_prompts(path: Path) -> Path:
    """Questions of two categories, every third with a second turn."""
    lines = []
    for k in range(120):
        turns = [f"{WORDS[k % len(WORDS)]} number {k}", f"again {k}"][: 2 if k % 3 == 0 else 1]
        category = "math_reasoning" if k % 2 else "qa"
        lines.append(json.dumps({"turns": turns, "category": category}) + "\n")
    path.write_text("".join(lines))
    return path


def record(prompts: Path, part: Part) -> AcceptanceTrace:
    """A trace of the part with its last question left out; every answer has 5 .. 60 tokens."""
    questions = partition(read_questions([prompts]))[part][:-1]
    asked = [(k, q) for k, q in enumerate(questions) for _ in q.turns]
    output_tokens = np.array([5 + 11 * (k % 6) for k, _ in asked])
    return AcceptanceTrace(
        accepted_length=np.zeros(output_tokens.sum(), np.uint8),
        offset=np.concatenate([[0], np.cumsum(output_tokens)]),
        output_tokens=output_tokens,
        prompt_tokens=np.array([10 + k for k, _ in asked]),
        category=np.array([int(q.category == "qa") for _, q in asked]),
        categories=("math", "qa"),
        info=TraceInfo(
            drafter="draft-model",
            target_model="by hand",
            decoding={"max_new_tokens": 320},
            provenance={"part": part},
        ),
        group=np.array([k for k, _ in asked]),
    )


def paths(folder: Path) -> dict[str, Any]:
    """Prompts, both traces, and where the model goes."""
    prompts = write_prompts(folder / "prompts.jsonl")
    for part in RECORDED_PARTS:
        record(prompts, part).save(folder / f"{part}.safetensors")
    return {
        "train_path": folder / "train.safetensors",
        "test_path": folder / "test.safetensors",
        "prompts": [str(prompts)],
        "out": folder / "model.json",
    }


def test_the_script_writes_the_model_and_both_traces(tmp_path: Path) -> None:
    where = paths(tmp_path)
    script.fit_lengths(**where)
    model = LengthModel.load(where["out"])
    card = json.loads(where["out"].read_text())["card"]
    parts = partition(read_questions(where["prompts"]))
    both: tuple[Part, ...] = ("train", "test")
    for part in both:
        trace = AcceptanceTrace.load(where[f"{part}_path"])
        assert trace.predicted_tokens is not None
        assert card["requests"][part] == trace.num_requests
        data = script.read_answered(trace, parts[part], part)
        if part == "test":
            assert (predict(model, data, 320) == trace.predicted_tokens).all()
            expected, errors = trace.predicted_tokens, card["test"]
        else:
            expected = script.cross_validate(data, card["penalty"])["model"]
            errors = card["cross_validation"]
        assert (trace.predicted_tokens == expected).all()
        own = script.Errors.of(expected, trace.output_tokens)
        assert errors["model"]["log_sd"] == pytest.approx(own.log_sd)
        assert {*errors} == {"model", "category_mean", "global_mean"}


def test_a_second_turn_is_the_text_of_both(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    trace = record(prompts, "train")
    questions = partition(read_questions([prompts]))["train"]
    data = script.read_answered(trace, questions, "train")
    expected = [
        "\n".join(question.turns[:turn])
        for question in questions[:-1]
        for turn in range(1, len(question.turns) + 1)
    ]
    assert data.texts == expected
    assert any("\n" in text for text in expected)


def test_the_script_names_what_does_not_fit(tmp_path: Path) -> None:
    where = paths(tmp_path)
    swapped = where | {"train_path": where["test_path"], "test_path": where["train_path"]}
    with pytest.raises(ValueError, match=r"test\.safetensors: info\.provenance\.part: expected"):
        script.fit_lengths(**swapped)
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "why", "category": "poems"}\n')
    with pytest.raises(ValueError, match=r"train\.safetensors: group 0: expected '(math|qa)'"):
        script.fit_lengths(**(where | {"prompts": [str(other)]}))
    assert AcceptanceTrace.load(where["train_path"]).predicted_tokens is None

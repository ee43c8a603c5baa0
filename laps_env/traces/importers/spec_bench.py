"""Spec-Bench and EAGLE answer files, and their reduced form.

Answer file (github.com/hemingkx/Spec-Bench, evaluation/eval.py; EAGLE writes the same): JSONL with
`question_id`, `category` and `choices`; of `choices[0]` this reads `new_tokens` (one per turn) and
`accept_lengths` (tokens committed per round, accepted + 1, *one flat list over all turns*). The
sums of `accept_lengths` meet `new_tokens` exactly, which is how the turns are told apart;
`decoding_steps`, or `idxs` in older files (rounds, or the index of the last round), must agree.
The draft length per round is not in these files: give it as `draft_length`, or add a flat list
`draft_lengths` to `choices[0]`.

Reduced form: JSONL, a turn a line: `q` question, `turn`, `cat` category, `n` new tokens, `a`
tokens committed per round, `g` draft tokens proposed per round.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from laps_env.traces import AcceptanceTrace, TraceError, TraceInfo
from laps_env.traces.importers.records import Record, Sieve, read_records
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.schema import MAX_RUN
from laps_env.utils.checks import check_count

CHARACTERS_PER_TOKEN = 4  # assumed, for English; used only to estimate prompt lengths

MAX_COMMITTED = 255  # what a trace can hold per round

DraftLength = int | Literal["heuristic"]


def import_spec_bench(
    path: str | Path,
    info: TraceInfo,
    *,
    plain_draft: bool,
    draft_length: DraftLength | None = None,
    questions: str | Path | None = None,
    fill: Fill = bernoulli_fill,
    seed: int = 0,
    sieve: Sieve | None = None,
) -> AcceptanceTrace:
    """Read an answer file or its reduced form, plain or gzip.

    plain_draft: the drafter is a model of its own, decoded greedily (Spec-Bench's "sps"), so the
        bits of every position a round passed are known. False for EAGLE, Medusa, lookahead, n-gram.
    draft_length: for rounds without a recorded draft length; 0 .. 255, or "heuristic" for the
        schedule of transformers' assisted generation (5; +2 after a full acceptance, else -1, at
        least 1).
    questions: the question file (`question_id`, `turns`), to *estimate* prompt lengths by
        characters / 4 plus the earlier turns. Without it prompt_tokens is 0, not recorded.
    sieve: what becomes of bad lines; the first is an error by default.

    Raises TraceError naming the file, the line, the turn and the field; ValueError for another
    draft_length.
    """
    if draft_length not in (None, "heuristic"):
        check_count("draft_length", draft_length, least=0, most=MAX_RUN)
    path = Path(path)
    prompts = _Prompts(None if questions is None else Path(questions))
    requests: list[RecordedRequest] = []
    sieve = sieve or Sieve()
    for record in read_records(path, sieve):
        read = _answer if "choices" in record.values else _reduced
        try:
            requests += read(record, draft_length, prompts)
        except TraceError as error:
            sieve.bad(error)
    if questions is not None:
        note = f"estimated: characters / {CHARACTERS_PER_TOKEN} plus the earlier answers"
        info = replace(info, provenance={**info.provenance, "prompt_tokens": note})
    return build_trace(requests, info, plain_draft=plain_draft, fill=fill, seed=seed, path=path)


class _Prompts:
    """Estimates of the prompt lengths, from the question file and the answers read so far."""

    def __init__(self, path: Path | None) -> None:
        self._turns: dict[int, list[str]] | None = None
        self._answered: dict[int, int] = {}
        if path is None:
            return
        self._turns = {}
        for record in read_records(path):
            turns = record.get("turns")
            if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
                record.fail("turns", "a list of strings", turns)
            self._turns[record.integer("question_id", 0)] = turns

    def tokens(self, record: Record, question: int, turn: int, new_tokens: int) -> int:
        """Length of the prompt of this turn, which follows the earlier turns and their answers."""
        if self._turns is None:
            return 0
        turns = self._turns.get(question, [])
        if turn >= len(turns):
            record.fail("turn", f"a turn of question {question} in the question file", turn)
        characters = sum(len(text) for text in turns[: turn + 1])
        earlier = self._answered.get(question, 0)
        self._answered[question] = earlier + new_tokens
        return max(-(-characters // CHARACTERS_PER_TOKEN), 1) + earlier


def _reduced(
    record: Record, draft_length: DraftLength | None, prompts: _Prompts
) -> list[RecordedRequest]:
    question, turn, tokens = (record.integer(*key) for key in (("q", 0), ("turn", 0), ("n", 1)))
    committed = record.integers("a", 1, MAX_COMMITTED)
    if committed.sum() != tokens:
        record.fail("a", f"a sum of n = {tokens}", int(committed.sum()))
    given = record.integers("g", 0, MAX_RUN) if "g" in record.values else None
    request = RecordedRequest(
        category=record.text("cat"),
        group=question,
        prompt_tokens=prompts.tokens(record, question, turn, tokens),
        committed=committed,
        drafted=_drafted(record, "g", committed, given, draft_length),
    )
    return [request]


def _answer(
    record: Record, draft_length: DraftLength | None, prompts: _Prompts
) -> list[RecordedRequest]:
    question, category = record.integer("question_id", 0), record.text("category")
    choices = record.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        record.fail("choices", "a list of objects", choices)
    choice = Record(choices[0], f"{record.place}, choices[0]")
    tokens = choice.integers("new_tokens", 1, 2**31)
    accept_lengths = choice.integers("accept_lengths", 1, MAX_COMMITTED)
    drafts: NDArray[np.int64] | None = None
    if "draft_lengths" in choice.values:
        drafts = choice.integers("draft_lengths", 0, MAX_RUN)
        if len(drafts) != len(accept_lengths):
            choice.fail("draft_lengths", f"{len(accept_lengths)} rounds", len(drafts))
    total = np.cumsum(accept_lengths)
    requests = []
    first = 0
    for turn, boundary in enumerate(np.cumsum(tokens)):
        last = int(np.searchsorted(total, boundary))
        if last == len(total) or total[last] != boundary:
            place = f"accept_lengths, turn {turn}"
            choice.fail(
                place, f"rounds that sum to {boundary}", int(total[min(last, len(total) - 1)])
            )
        _check_steps(choice, turn, last + 1 - first)
        committed = accept_lengths[first : last + 1]
        given = None if drafts is None else drafts[first : last + 1]
        request = RecordedRequest(
            category=category,
            group=question,
            prompt_tokens=prompts.tokens(choice, question, turn, int(tokens[turn])),
            committed=committed,
            drafted=_drafted(choice, f"turn {turn}, draft_lengths", committed, given, draft_length),
        )
        requests.append(request)
        first = last + 1
    if first != len(accept_lengths):
        choice.fail("accept_lengths", f"{first} rounds by new_tokens", len(accept_lengths))
    return requests


def _check_steps(choice: Record, turn: int, rounds: int) -> None:
    """`decoding_steps` counts rounds; `idxs` counts them or, in EAGLE's files, is one less."""
    for name, slack in (("decoding_steps", 0), ("idxs", 1)):
        if name in choice.values:
            steps = choice.integers(name, 0, 2**31)
            if turn >= len(steps) or not rounds - slack <= steps[turn] <= rounds:
                choice.fail(
                    f"{name}, turn {turn}", f"{rounds} rounds by new_tokens", steps.tolist()
                )


def _drafted(
    record: Record,
    name: str,
    committed: NDArray[np.int64],
    given: NDArray[np.int64] | None,
    draft_length: DraftLength | None,
) -> NDArray[np.int64]:
    """[rounds] draft lengths, recorded or as `draft_length` says; none below what was accepted."""
    if given is not None:
        drafted = given
        if len(drafted) != len(committed):
            record.fail(name, f"{len(committed)} rounds", len(drafted))
    elif draft_length is None:
        record.fail(name, "draft lengths in the file, or the argument draft_length", None)
    elif draft_length == "heuristic":
        drafted = _heuristic(committed)
    else:
        drafted = np.full(len(committed), draft_length)
    if (excess := committed - 1 > drafted).any():
        k = int(np.argmax(excess))
        record.fail(name, f"at least {committed[k] - 1} drafted in round {k}", int(drafted[k]))
    return drafted


def _heuristic(committed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draft lengths of transformers' assisted generation (num_assistant_tokens_schedule)."""
    drafted = np.empty(len(committed), np.int64)
    length = 5
    for k, accepted in enumerate(committed - 1):
        drafted[k] = length
        length = min(length + 2, MAX_RUN) if accepted == length else max(length - 1, 1)
    return drafted

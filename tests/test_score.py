"""The scorer: it agrees with an evaluation, and a rule that it is given can only compute."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laps_env.cli import main
from laps_env.policies.base.closed_rule import check_closed

RULE = """
from laps_env.policies import GENERATED_TOKENS, PREDICTED_TOKENS, Parameter, RuleSpec, inlined, rule

OFFSET = 1.0

@inlined
def left(row):
    return max(row[PREDICTED_TOKENS] - row[GENERATED_TOKENS], OFFSET)

@rule
def mine(row, server, params, memory):
    memory[0] += 1
    return params[0] * left(row)

SPEC = RuleSpec("mine", "mine", mine, (Parameter("w", 1.0, 0.5, 2.0, "weight"),))
"""
SMALL = ("--scenario", "limits-batch8-8b", "--episodes", "2", "--requests", "60")


def test_a_score_is_that_of_the_evaluation_on_the_same_workloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RULE)
    main(["score", "mine.py:SPEC", *SMALL])
    found = json.loads(capsys.readouterr().out)
    low, high = found["score_ci95"]
    assert low <= found["score"] == found["mean_latency"] <= high
    (place,) = found["places"].values()
    assert place == pytest.approx(found["score"])
    main(["score", "mine.py:SPEC", *SMALL, "--goal", "slo_attainment"])
    missed = json.loads(capsys.readouterr().out)
    assert missed["score"] == 1 - found["slo_attainment"]
    main(["score", "mine.py:SPEC", *SMALL, "--seed", "7"])
    assert json.loads(capsys.readouterr().out)["score"] != found["score"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (RULE + "\nwhile True:\n    OFFSET = 2.0\n", ["--seconds", "4"], "an end within 4 s"),
        (RULE, ["--scenario", "chat-serial-8b", "--goal", "slo_attainment"], "scenarios with lim"),
        (RULE + "\nimport os\n", [], "expected a rule that only computes, got import os"),
        (RULE.replace("left(row)\n\nSPEC", "left(row) / 0 * 0\n\nSPEC"), [], "finite priority"),
    ],
)
def test_why_there_is_no_score(
    text: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["score", "mine.py:SPEC", *SMALL, *options])
    assert stopped.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert found["score"] is None
    assert message in found["error"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from laps_env.policies import make", "import of make from laps_env.policies"),
        ("from laps_env.sim import state", "import of state from laps_env.sim"),
        ("import numpy.ctypeslib", "import numpy.ctypeslib"),
        ("import numpy as np\nX = np.load('x')", "the attribute load"),
        ("import math as m\nX = m.__loader__", "the attribute __loader__"),
        ("X = open('x')", "the name open"),
        ("X = __builtins__", "the name __builtins__"),
        ("X = getattr(RuleSpec, 'x')", "the name getattr"),
        ("X = RuleSpec.__subclasses__()", "the attribute __subclasses__"),
        ("X = [y for y in (1, 2)]", "ListComp"),
        ("X = lambda: 0", "Lambda"),
        ("class X: pass", "ClassDef"),
        ("def plain(x): return x", "the function plain without one decorator"),
        ("X = RuleSpec('x', 'x', mine, clairvoyant=True)", "the argument clairvoyant"),
        ("X = RuleSpec('x', 'x', mine, fitted=left)", "the argument fitted"),
        ("X = RuleSpec(**OFFSET)", "the argument **"),
        ("@rule\ndef x(row, server, p, m):\n    row[0] = 1\n    return 0.0", "a change of row"),
        ("@rule\ndef x(a, b, c, d):\n    d = a\n    d[0] = 1\n    return 0.0", "value for d"),
        ("@inlined\ndef x(row):\n    row[0] += 1", "a change of row"),
        ("@rule\ndef x(a, b, c, d):\n    a[0:1].fill(1)\n    return 0.0", "the attribute fill"),
        ("@rule\ndef x(a, b, c, d):\n    global OFFSET\n    return 0.0", "Global"),
        ("if OFFSET < 0.0:\n    open = 1.0\nX = open('x')", "the name open"),
        ("rule = inlined", "the name rule"),
        ("from laps_env.policies import inlined as rule", "import of inlined"),
        ("import math as rule", "import math"),
        ("@inlined\ndef rule(x):\n    return x", "the name rule"),
        ("(", "expected a rule's file"),
    ],
)
def test_a_closed_rule_can_only_compute(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RULE)
    check_closed(path)
    path.write_text(RULE + line + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        check_closed(path)

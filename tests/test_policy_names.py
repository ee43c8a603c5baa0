"""Parameters in a policy's name: read everywhere alike, kept in results, played again from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from laps_env import policies
from laps_env.cli import main
from laps_env.evaluation.results import read_results
from laps_env.policies._registry import tuned_settings
from laps_env.serving.settings import Settings
from laps_env.utils.policy_names import list_names

RULE = """
from laps_env.policies import WAITING_S, Parameter, RuleSpec, rule

@rule
def longest_wait(row, server, params, memory):
    return -params[0] * row[WAITING_S]

patience = Parameter("patience_s", 1, 0.1, 10, "weight")
spec = RuleSpec("mine", "longest wait first", longest_wait, (patience,))
"""


def test_a_name_gives_parameters_over_the_default_and_the_tuned_ones() -> None:
    default = policies.make("laps_sd").settings
    named = policies.make("laps_sd:tolerance=0.2,queues=4")
    assert named.name == "laps_sd:tolerance=0.2,queues=4"
    assert named.settings == default | {"tolerance": 0.2, "queues": 4}
    tuned = policies.make("laps_sd_tuned+smartspec:tolerance=2e-1", "chat-serial-8b")
    assert tuned.settings == tuned_settings("laps_sd", "chat-serial-8b") | {"tolerance": 0.2}
    assert tuned.draft_length == "smartspec"
    elsewhere = Settings.of({"policy": "laps_sd:queues=4", "parameters": {"tolerance": 0.2}})
    assert elsewhere.make_policy(None).settings == named.settings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("laps_sd:patience=5", r"laps_sd:patience=5: expected parameters \[.*got \['patience'\]"),
        ("laps_sd:queues=four", "laps_sd: queues: expected a finite number, got 'four'"),
        ("laps_sd:queues=1e999", "queues: expected a finite number, got '1e999'"),
        ("laps_sd:queues=", "queues: expected a finite number, got ''"),
        ("laps_sd:queues=4,queues=4", "queues: expected one value, got a second, '4'"),
        ("laps_sd:queues=4,5", "laps_sd: expected PARAMETER=NUMBER, got '5'"),
        ("laps_sd:queues", "policy: expected one of .*got 'laps_sd:queues'"),
        ("best:queues=4", "policy: expected one of .*got 'best'"),
    ],
)
def test_what_is_no_parameter_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policies.make(name)


def test_a_name_is_not_contradicted_in_silence() -> None:
    assert policies.make("las:queues=4", queues=4).settings["queues"] == 4
    with pytest.raises(ValueError, match="queues: expected the value of the name, got 5"):
        policies.make("las:queues=4", queues=5)


@pytest.mark.parametrize(
    ("pieces", "names"),
    [
        ("fcfs,las:queues=4,growth=2,sjf", ["fcfs", "las:queues=4,growth=2", "sjf"]),
        ("fcfs,seed=1,rule.py:spec:a=1,b=2", ["fcfs", "seed=1", "rule.py:spec:a=1,b=2"]),
        ("las:queues=4,runs/lr=0.1", ["las:queues=4", "runs/lr=0.1"]),
        (
            "las:queues=4/8,growth=2/3,sjf",
            [*(f"las:queues={q},growth={g}" for q in (4, 8) for g in (2, 3)), "sjf"],
        ),
    ],
)
def test_lists_keep_names_whole_and_write_sweeps_out(pieces: str, names: list[str]) -> None:
    assert list(list_names(pieces.split(","))) == names


def test_results_with_parameters_in_names_are_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RULE, encoding="utf-8")
    names = ["laps_sd:tolerance=0.05,queues=4", "laps_sd:tolerance=0.2,queues=4"]
    names.append("mine.py:spec:patience_s=5")
    grid = "--quick --scenario chat-serial-8b --episodes 2 --requests 30 --json rows.json"
    asked = "laps_sd:tolerance=0.05/0.2,queues=4,mine.py:spec:patience_s=5"
    main(["evaluate", *grid.split(), "--policies", asked])
    rows = read_results(Path("rows.json")).rows
    assert [row.policy for row in rows] == [*names, "laps_sd_tuned"]
    assert [row.parameters.get("tolerance") for row in rows[:2]] == [0.05, 0.2]
    assert rows[2].parameters == {"patience_s": 5}
    main(["check", "rows.json", "--sample", "8"])
    assert "8 of 8 workloads that were run again hold" in capsys.readouterr().out

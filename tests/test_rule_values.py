"""Policies are values: they can be sent, copied and told apart by what decides their choices."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laps_env import policies
from laps_env.evaluation.episodes import serve
from laps_env.workloads.scenarios import get_scenario

#: Reads a constant from another file and a helper from a third one; laws of the traffic, too.
RULE = """
import json
from pathlib import Path

from helpers_of_test import weighted
from laps_env.policies import PREDICTED_TOKENS, RuleSpec, rule

SIGN = json.loads(Path(__file__).with_name("sign.json").read_text())


@rule
def signed(row, server, params, memory):
    \"\"\"Shortest or longest prediction first.\"\"\"
    return SIGN * weighted(row[PREDICTED_TOKENS])


def no_laws(traffic):
    return traffic.variance * 0


spec = RuleSpec("signed", "by a sign", signed, fitted=no_laws)
"""
HELPER = """
from laps_env.policies import inlined


@inlined
def weighted(tokens):
    return {weight} * tokens
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rule_of_test.py").write_text(RULE)
    write(tmp_path, sign=1, weight=1.0)
    return tmp_path


def write(folder: Path, sign: int, weight: float) -> None:
    """Constant and helper, in files that the rule's own file does not change with."""
    (folder / "sign.json").write_text(str(sign))
    (folder / "helpers_of_test.py").write_text(HELPER.format(weight=weight))


def order_in_another_process(folder: Path) -> tuple[str, str]:
    """Digest of the rule, and digest of what it did, as a new process finds them."""
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from laps_env import policies\n"
        "from laps_env.evaluation.episodes import serve\n"
        "from laps_env.workloads.scenarios import get_scenario\n"
        "scenario = get_scenario('mixed-serial-8b')\n"
        "policy = policies.make(sys.argv[1] + '/rule_of_test.py:spec', scenario)\n"
        "workload = scenario.workload(load=2.0, num_requests=12)\n"
        "done = serve(policy, workload, scenario).requests()['completion_ns']\n"
        "print(policy.digest, hashlib.sha256(done.tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    digest, results = done.stdout.split()
    return digest, results


@pytest.mark.parametrize("name", [*policies.list_policies(), "laps_sd_tuned+smartspec"])
def test_every_policy_comes_through_pickle_and_copy(name: str) -> None:
    policy = policies.make(name)
    for other in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):  # noqa: S301
        assert other.digest == policy.digest
        assert (other.name, other.settings) == (policy.name, policy.settings)
        np.testing.assert_array_equal(other.params, policy.params)


def test_your_own_rule_is_unpickled_by_a_process_that_does_not_know_its_file(folder: Path) -> None:
    policy = policies.make(f"{folder}/rule_of_test.py:spec")
    file = folder / "policy.pickle"
    file.write_bytes(pickle.dumps(policy))
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[2])\n"
        "print(pickle.load(open(sys.argv[1], 'rb')).digest)"
    )
    arguments = [sys.executable, "-c", code, str(file), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == policy.digest


def test_a_rule_is_compiled_again_when_a_constant_or_a_helper_elsewhere_changes(
    folder: Path,
) -> None:
    found = {"first": order_in_another_process(folder)}
    write(folder, sign=-1, weight=1.0)
    found["constant"] = order_in_another_process(folder)
    write(folder, sign=1, weight=-1.0)
    found["helper"] = order_in_another_process(folder)
    write(folder, sign=1, weight=1.0)
    assert order_in_another_process(folder) == found["first"]
    assert found["constant"][1] == found["helper"][1] != found["first"][1]
    assert len({digest for digest, _ in found.values()}) == 3


def test_comments_docstrings_and_layout_do_not_change_a_digest(folder: Path) -> None:
    first = policies.make(f"{folder}/rule_of_test.py:spec").digest
    text = RULE.replace("Shortest or longest", "Another").replace(
        "def no_laws", "# more\n\ndef no_laws"
    )
    (folder / "rule_of_test.py").write_text(text)
    assert policies.make(f"{folder}/rule_of_test.py:spec").digest == first
    (folder / "rule_of_test.py").write_text(text.replace("variance * 0", "variance * 1"))
    assert policies.make(f"{folder}/rule_of_test.py:spec").digest != first


def test_weights_are_in_the_digest_of_a_learned_policy() -> None:
    digests = {policies.make("learned_index", name).digest for name in ("demo", "mixed-serial-8b")}
    assert len(digests) == 2  # it has weights of its own for the latter


def test_the_digest_of_a_scenario_is_of_numbers_not_of_prose() -> None:
    scenario: Any = get_scenario("mixed-serial-135m")
    assert scenario.digest == get_scenario("mixed-serial-135m").digest
    assert replace(scenario, description="another").digest == scenario.digest
    server = scenario.server.with_changes(draft_length=3)
    assert replace(scenario, server=server).digest != scenario.digest


def test_a_policy_from_a_script_serves_after_a_copy() -> None:
    scenario = get_scenario("demo")
    workload = scenario.workload(load=2.0, num_requests=6)
    policy = policies.make("gittins", scenario)
    one, other = (
        serve(p, workload, scenario).requests()["completion_ns"]
        for p in (policy, copy.deepcopy(policy))
    )
    np.testing.assert_array_equal(one, other)

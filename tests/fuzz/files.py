"""Doors of files: what is prepared once in a folder, and what one damaged file does there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damaged_arrays, damaged_bytes, damaged_json, damaged_lines, text_of

Attack = Callable[[Random], object]
"""One case, decided by the generator; it raises what the door raises."""


def calibration(folder: Path) -> Attack:
    """`laps-env calibrate`'s file."""
    from test_calibration import document

    from laps_env.sim.calibration_file import read_calibration, write_calibration

    path = folder / "calibration.json"
    write_calibration(path, document())
    valid = json.loads(path.read_text())
    return lambda rng: read_calibration(_written(path, damaged_json(valid, rng)))


def acceptance_trace(folder: Path) -> Attack:
    """A trace of acceptances, in safetensors."""
    from laps_env.traces import AcceptanceTrace, TraceInfo
    from laps_env.traces.importers import import_spec_bench

    path, info = folder / "trace.safetensors", TraceInfo("draft-model", "big", "small")
    lines = _written(folder / "runs.jsonl", _lines([ROUNDS, ROUNDS | {"q": 6}]))
    import_spec_bench(lines, info, plain_draft=True).save(path)
    valid = path.read_bytes()

    def attack(rng: Random) -> None:
        trace = AcceptanceTrace.load(_written(path, damaged_arrays(valid, rng)))
        trace.replay()

    return attack


#: Arrivals in CSV: Azure's, BurstGPT's, Vidur's.
CSV = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    b"2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n",
    b"arrived_at,num_prefill_tokens,num_decode_tokens\n5.2e-05,374.0,44.0\n2.5,396.0,109.0\n",
)

#: And in JSON: Mooncake's and its kin, AIPerf's, vLLM's benchmark.
LENGTHS = {"input_length": 521, "output_length": 132}
PROFILE = {
    "metadata": {"x_request_id": "a", "request_start_ns": 1_759_813_207_532_900_363},
    "metrics": {"input_sequence_length": {"value": 550}, "output_sequence_length": {"value": 9}},
    "error": None,
}
JSON: tuple[list[Any], ...] = (
    [{"timestamp": 1000 * k, **LENGTHS, "hash_ids": [k, 2]} for k in range(2)],
    [{"timestamp": 3.5 * k, **LENGTHS, "chat_id": k} for k in range(2)],
    [{"session_id": "a", **LENGTHS, **when} for when in ({"timestamp": 5}, {"delay": 2.5})],
    [PROFILE, PROFILE | {"metadata": {"request_start_ns": 5}}],
    [
        {
            "input_lens": [100, 200],
            "output_lens": [3, 2],
            "start_times": [5011.5, 5010.0],
            "errors": ["", "refused"],
        }
    ],
)


def arrivals(folder: Path) -> Attack:
    """Arrival traces of every form."""
    from laps_env.traces.importers import read_arrivals

    names = {"arrival": "TIMESTAMP", "prompt": "ContextTokens", "output": "GeneratedTokens"}

    def attack(rng: Random) -> None:
        if rng.random() < 0.5:
            content = damaged_bytes(rng.choice(CSV), rng)
        elif rng.random() < 0.7:
            content = damaged_lines(rng.choice(JSON), rng)
        else:
            content = damaged_bytes(text_of(rng.choice(JSON)), rng)
        if rng.random() < 0.2:
            content = damaged_bytes(gzip.compress(content), rng)
        read_arrivals(
            _written(folder / "a", content),
            columns=names if rng.random() < 0.2 else None,
            unit=rng.choice((None, None, "s", "ms", "us", "ns")),  # type: ignore[arg-type]
            sort=rng.random() < 0.5,
            on_error=rng.choice(("raise", "skip")),
            on_failed="skip",
        )

    return attack


def counted(folder: Path) -> Attack:
    """SGLang's responses and AIPerf's records, which count rounds."""
    from laps_env.traces import TraceInfo
    from laps_env.traces.importers import import_aiperf, import_sglang

    meta_info = {"prompt_tokens": 11, "completion_tokens": 30, "spec_verify_ct": 9}
    responses = [{"meta_info": meta_info}, {"choices": [{"meta_info": meta_info}]}]
    acceptance = {"num_spec_steps": 4, "num_accepted_draft_tokens": 4, "num_spec_tokens": 5}
    steps = {"spec_decode_steps": {"value": 4}, "spec_decode_accepted_draft_tokens": {"value": 4}}
    records = [
        PROFILE | {"spec_decode_acceptance": acceptance},
        PROFILE | {"metrics": PROFILE["metrics"] | steps},  # type: ignore[operator]
    ]
    info = TraceInfo("eagle", "big", "small")

    def attack(rng: Random) -> None:
        door, lines = rng.choice(((import_sglang, responses), (import_aiperf, records)))
        path = _written(folder / "a.jsonl", damaged_lines(lines, rng))
        door(path, info, draft_length=5, on_error=rng.choice(("raise", "skip")))

    return attack


ROUNDS = {"q": 5, "turn": 0, "cat": "qa", "n": 7, "a": [2, 3, 2], "g": [2, 2, 3]}


ANSWER = {
    "question_id": 81,
    "category": "writing",
    "choices": [
        {
            "index": 0,
            "turns": ["x", "y"],
            "idxs": [1, 1],
            "new_tokens": [5, 3],
            "wall_time": [1.0, 1.0],
            "accept_lengths": [3, 2, 1, 2],
            "draft_lengths": [4, 4, 4, 4],
        }
    ],
}


def spec_bench(folder: Path) -> Attack:
    """Spec-Bench's answers and their reduced form, with or without the questions."""
    from laps_env.traces import TraceInfo
    from laps_env.traces.importers import import_spec_bench

    info = TraceInfo("draft-model", "big", "small")
    questions = [{"question_id": 81, "category": "writing", "turns": ["a" * 9, "b" * 4]}]

    def attack(rng: Random) -> None:
        answers = rng.choice(([ROUNDS, ROUNDS], [ANSWER, ANSWER | {"question_id": 82}]))
        asked = damaged_lines(questions, rng) if rng.random() < 0.3 else _lines(questions)
        import_spec_bench(
            _written(folder / "a.jsonl", damaged_lines(answers, rng)),
            info,
            plain_draft=rng.random() < 0.5,
            questions=_written(folder / "q.jsonl", asked) if rng.random() < 0.5 else None,
            on_error=rng.choice(("raise", "skip")),
        )

    return attack


def specdecode_bench(folder: Path) -> Attack:
    """SpecDecode-Bench's records."""
    from laps_env.traces import TraceInfo
    from laps_env.traces.importers import import_specdecode_bench

    record = {
        "id": 3,
        "prompt_token_ids": [1, 2],
        "generated_token_ids": [5, 6, 7],
        "acc_eagle": {"acc_len": [1, 3, 2]},
    }
    info = TraceInfo("eagle", "big", "small")
    return lambda rng: import_specdecode_bench(
        _written(folder / "a.jsonl", damaged_lines([record, record | {"id": 4}], rng)),
        info,
        category="chat",
        on_error=rng.choice(("raise", "skip")),
    )


def eagle(folder: Path) -> Attack:
    """EAGLE's answers, in one file or two."""
    from laps_env.traces import TraceInfo
    from laps_env.traces.importers import import_eagle

    turns = {"idxs": [4, 2], "new_tokens": [9, 3], "wall_time": [1.0, 1.0], "turns": ["x", "y"]}
    answer = {"question_id": 81, "choices": [{"index": 0, **turns}]}
    info = TraceInfo("eagle", "big", "small")

    def attack(rng: Random) -> None:
        lines = damaged_lines([answer, answer | {"question_id": 82}], rng)
        paths = [_written(folder / "a.jsonl", lines)]
        if rng.random() < 0.3:
            paths.append(_written(folder / "b.jsonl", _lines([answer | {"question_id": 83}])))
        import_eagle(paths, info, draft_length=5, on_error=rng.choice(("raise", "skip")))

    return attack


def vllm(folder: Path) -> Attack:
    """vLLM's responses."""
    from laps_env.traces import TraceInfo
    from laps_env.traces.importers import import_vllm

    speculation = {"num_spec_tokens": 3, "per_step_accepted": [2, 0], "per_step_drafted": [3, 3]}
    response = {
        "usage": {"prompt_tokens": 9, "completion_tokens": 5},
        "metrics": {"speculative_decoding": speculation},
        "category": "qa",
        "group": 1,
    }
    info = TraceInfo("draft-model", "big", "small")
    return lambda rng: import_vllm(
        _written(folder / "a.jsonl", damaged_lines([response, response], rng)),
        info,
        plain_draft=rng.random() < 0.5,
        on_error=rng.choice(("raise", "skip")),
    )


def step_log(folder: Path) -> Attack:
    """A server's step log: its requests, its arrivals, its costs."""
    from import_files import STEPS_HEADER, left, step

    from laps_env.live.measure.log_costs import fit_log
    from laps_env.traces.importers import import_steps, read_arrivals
    from laps_env.traces.importers.step_lines import read_steps

    shares = [("a", 0, 6, 0, 1), ("a", 6, 4, 3, 3), ("a", 9, 1, 0, 1), ("a", 10, 4, 3, 2)]
    steps = [step(10.0 + k, 0.05 + 0.01 * k, share) for k, share in enumerate(shares)]
    valid = [STEPS_HEADER, *steps, left("a", 9.0, output_tokens=7, predicted_tokens=8.0)]

    def attack(rng: Random) -> None:
        path = _written(folder / "steps.jsonl", damaged_lines(valid, rng))
        errors: Any = {"on_error": rng.choice(("raise", "skip"))}
        door = rng.choice((import_steps, read_arrivals, read_steps))
        if door is not read_steps:
            door(path, **errors)
        else:
            fit_log(read_steps(path)[1] * 20)

    return attack


def traffic(folder: Path) -> Attack:
    """`laps-env fit-traffic`'s file, from which policies are then made."""
    from laps_env import policies
    from laps_env.policies.base.traffic_file import fit_traffic, read_traffic, write_traffic
    from laps_env.workloads.scenarios import get_scenario

    path = folder / "traffic.json"
    write_traffic(path, fit_traffic(get_scenario("mixed-batch8-135m")))
    valid = json.loads(path.read_text())

    def attack(rng: Random) -> None:
        read = read_traffic(_written(path, damaged_json(valid, rng)))
        for name in ("gittins", "fastserve", "tie"):
            policies.make(name, traffic=read)

    return attack


def prompts(folder: Path) -> Attack:
    """Prompt files of a live server."""
    from laps_env.live.prompts import partition, read_questions

    records: list[dict[str, Any]] = [
        {"turns": ["a", "b"], "category": "writing"},
        {"question": "1 + 1?"},
        {"text": "Add.", "test_list": ["assert add(1, 1) == 2"]},
        {"task_id": "HumanEval/0", "prompt": "def f():"},
        {"prompt": "Say it.", "category": "chat"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]},
    ]
    path = folder / "prompts.jsonl"

    def attack(rng: Random) -> None:
        lines = rng.random() < 0.7
        damaged = damaged_lines(records, rng) if lines else damaged_bytes(text_of(records), rng)
        partition(read_questions([_written(path, damaged)]))

    return attack


def results(folder: Path) -> Attack:
    """Somebody's results: shown, ranked, run again."""
    from test_evaluation import run

    from laps_env.evaluation.check import check_results
    from laps_env.evaluation.grid import Grid
    from laps_env.evaluation.results import read_results, write_results
    from laps_env.report.leaderboard import leaderboard, leaderboard_table
    from laps_env.report.tables import results_page, results_text

    grid = Grid(("fcfs",), ("mixed-batch8-135m",), (0.9,), episodes=2, num_requests=4)
    path = folder / "results.json"
    write_results(run(grid), path)
    valid = json.loads(path.read_text())

    def attack(rng: Random) -> None:
        read = read_results(_written(path, damaged_json(valid, rng)))
        text = results_text(read) + leaderboard_table(leaderboard([read])) + results_page(read)
        assert text.replace("\n", "").isprintable(), text
        if max(row.num_requests for row in read.rows) < 100:
            list(check_results(path, count=1))

    return attack


def journal(folder: Path) -> Attack:
    """The journal from which an evaluation goes on."""
    from laps_env.evaluation.grid import Grid
    from laps_env.evaluation.runner import Evaluation, open_journal

    grid = Grid(("fcfs",), ("mixed-batch8-135m",), (0.9,), episodes=1, num_requests=4)
    path = folder / "results.json.journal"
    with open_journal(path, grid) as opened:
        Evaluation(grid, opened).run(jobs=1)
    valid = [json.loads(line) for line in path.read_bytes().splitlines()]

    def attack(rng: Random) -> None:
        _written(path, damaged_lines(valid, rng))
        with open_journal(path, grid) as opened:
            evaluation = Evaluation(grid, opened)
            evaluation.run(jobs=1)
            evaluation.results()

    return attack


def model(folder: Path) -> Attack:
    """The folder of a trained model."""
    from laps_env import policies
    from laps_env.policies._registry import load_rule
    from laps_env.policies.networks.model_file import CARD, WEIGHTS

    shipped = Path(policies.__file__).parent / "data" / "learned_index"
    card, weights = json.loads((shipped / CARD).read_text()), (shipped / WEIGHTS).read_bytes()

    def attack(rng: Random) -> None:
        in_card = rng.random() < 0.5
        _written(folder / CARD, damaged_json(card, rng) if in_card else text_of(card))
        _written(folder / WEIGHTS, weights if in_card else damaged_arrays(weights, rng))
        load_rule("mine", str(folder), "mixed-batch8-135m")

    return attack


SWEEP = b"""
[[train]]
name = "index"
algorithm = "index"
seeds = [0, 1]
blocks = 1
scenario = ["chat-batch8-8b"]
loads = [0.9]
repeats = 1

[[evaluate]]
models = ["index-*"]
policies = ["fcfs"]
scenarios = ["chat-batch8-8b"]
loads = [0.8]
predictor_errors = ["None", 0.3]
episodes = 2
"""


def sweep(folder: Path) -> Attack:
    """A sweep's TOML."""
    from laps_env.agents.sweep import read_sweep

    path = folder / "sweep.toml"
    return lambda rng: read_sweep(_written(path, damaged_bytes(SWEEP, rng)))


def checkpoint(folder: Path) -> Attack:
    """The checkpoint of a training run."""
    from test_training import TINY

    from laps_env.agents.checkpoint import NAME, load_checkpoint, save_checkpoint
    from laps_env.agents.options import PPOOptions
    from laps_env.agents.ppo import law_table
    from laps_env.agents.queue_policy import QueuePolicy
    from laps_env.envs.vector import SpecDecodeReplayVectorEnv

    envs = SpecDecodeReplayVectorEnv(1, num_requests=4, slots=8)
    spaces = (envs.single_observation_space, envs.single_action_space)
    laws, _ = law_table(PPOOptions(**TINY))
    policy = QueuePolicy(*spaces, lambda _: 1e-3, laws=laws)
    save_checkpoint(folder, policy, 1, {"steps": 3})
    path = next(folder.glob("*.safetensors"))
    document, tensors = json.loads((folder / NAME).read_text()), path.read_bytes()

    def attack(rng: Random) -> None:
        in_document = rng.random() < 0.5
        _written(folder / NAME, damaged_json(document, rng) if in_document else text_of(document))
        _written(path, tensors if in_document else damaged_arrays(tensors, rng))
        load_checkpoint(folder, policy)

    return attack


def _lines(records: list[Any]) -> bytes:
    return b"\n".join(map(text_of, records)) + b"\n"


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

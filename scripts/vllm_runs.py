"""Serve the same requests under several policies inside one vLLM engine, and note what happened.

    python scripts/vllm_runs.py --drafter ngram --out runs/vllm-ngram
    python scripts/vllm_runs.py --drafter ngram --clock virtual --out runs/vllm-ngram-virtual

Runs in vLLM's environment (docs/vllm.md). First the engine's saturation is measured, a run is
recorded, and a calibration and a traffic file are made of the record, as a user would. Then comes
repetition after repetition; in each every policy serves the same requests at the same times, one
after the other in an order that turns, so that a machine that slows down does so for all. The
texts are compared token by token. A shared machine's speed drifts by tens of per cents between
runs, which at this load changes a latency more than any policy: a run whose steps took, in sum,
more than `drift` off what the calibration says of them is played again. The journal in the folder
is what `scripts/vllm_page.py` reads; the same command goes on from there.

Prompts are questions, of parts that share none; lengths are drawn from those of public runs
(scenario `mixed-batch8-8b`), a sixteenth of them so that a CPU gets through, and each request
generates exactly so many tokens. Predictions are off by a log-normal factor. With the virtual clock
a step takes what the calibration says: the engine and its tokens are real, the machine's noise is
left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from vllm_engine import ENVIRONMENT, Request, Server

from laps_env.utils.journal import Journal

POLICIES = ("fcfs", "sjf", "las", "laps_sd", "gittins", "learned_index", "learned")
#: Times that a run is played at most until the machine's speed was right; the last one counts.
ATTEMPTS = 3
#: Scenario whose lengths and categories are drawn, and how many times shorter they are here.
SCENARIO, SHORTER = "mixed-batch8-8b", 16
#: Category of the questions that stand for one of the scenario's.
QUESTIONS_OF = {"chat": "chat", "code": "code", "math": "math", "news": "qa"}
LONGEST_PROMPT = 256

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Options:
    """What is played.

    Attributes:
        out: Folder of the journal, the step logs and what is made of them.
        drafter: Speculation, of `SPECULATION`.
        policies: Policies that serve.
        repetitions: Number of repetitions, each with requests of its own.
        requests: Requests of a repetition.
        load: Arrival rate over the engine's measured saturation.
        batch_size: Most requests in a step.
        places: Most requests that hold a cache.
        longest: Most output tokens.
        predictor_error: Deviation of log(predicted / true length).
        drift: Largest |time of all steps / calibrated time - 1| of a run that counts.
        clock: The machine's, or a virtual one that a step advances by its calibrated cost.
        calibration: Costs of the virtual clock (by default those of this folder).
        prompts: Question files.
        target: Folder of the target model.
    """

    out: Path
    drafter: Literal["ngram", "draft_model", "head"] = "ngram"
    policies: tuple[str, ...] = POLICIES
    repetitions: int = 5
    requests: int = 200
    load: float = 0.85
    batch_size: int = 8
    places: int = 64
    longest: int = 64
    predictor_error: float = 0.3
    drift: float = 0.1
    clock: Literal["wall", "virtual"] = "wall"
    calibration: Path | None = None
    prompts: tuple[Path, ...] = (Path("laps_env/data/demo_prompts.jsonl"),)
    target: Path = Path("models/smollm2-135m-instruct")


def arrival_times(
    part: Part, seed: int, rate: float, count: int
) -> tuple[np.random.Generator, np.ndarray]:
    """Poisson arrivals in seconds, and the generator that goes on to choose the prompts."""
    rng = np.random.default_rng([seed, part == "test"])
    return rng, np.cumsum(rng.exponential(1 / rate, count))


def draw(server: Server, options: Options, part: Part, seed: int, rate: float) -> list[Request]:
    """Requests of a part of the questions, arriving at so many a second (all at once: infinity)."""
    from laps_env.live.prompts import partition, read_questions
    from laps_env.workloads.scenarios import get_scenario

    asked = [
        (question.category, ids)
        for question in partition(read_questions(options.prompts))[part]
        if len(ids := server.encode(question)) <= LONGEST_PROMPT
    ]
    drawn = get_scenario(SCENARIO).workload(
        load=1.0,
        num_requests=options.requests,
        split=part,
        seed=seed,
        predictor_error=options.predictor_error,
    )
    rng, arrivals = arrival_times(part, seed, rate, options.requests)
    requests = []
    for k in range(options.requests):
        category = drawn.categories[drawn.category[k]]
        prompts = [ids for name, ids in asked if name == QUESTIONS_OF[category]]
        length = int(drawn.output_tokens[k])
        tokens = int(np.clip(length // SHORTER, 1, options.longest))
        requests.append(
            Request(
                prompt=prompts[rng.integers(len(prompts))],
                tokens=tokens,
                predicted=max(float(drawn.predicted_tokens[k]) / length * tokens, 1.0),
                category=category,
                arrival_s=float(arrivals[k]),
            )
        )
    return requests


def prepare(server: Server, options: Options, journal: Journal) -> tuple[float, Path]:
    """Measure the saturation, record a run, make the calibration and the traffic file."""
    from laps_env.sim.calibration_file import read_calibration

    out = options.out
    done = [e for e in journal.entries if e["kind"] == "prepared"]
    traffic, calibration = out / "traffic.json", options.calibration or out / "calibration.json"
    if not done:
        virtual, server.clock.virtual = server.clock.virtual, False
        if options.calibration is not None:  # the virtual clock can tell the saturation, too
            server.cost, server.clock.virtual = read_calibration(calibration), virtual
        log = out / "recorded.jsonl"
        log.unlink(missing_ok=True)
        crowd = draw(server, options, "train", 0, np.inf)
        server.play("fcfs", crowd[:16], None, log)
        log.unlink()  # that was the engine's first: slow
        full = server.play("fcfs", crowd, None, log)
        saturation = options.requests / full["makespan"]
        normal = draw(server, options, "train", 1, options.load * saturation)
        server.play("fcfs", normal, None, log)
        _laps_env("import", "steps", log, out / "runs.safetensors", "--overwrite")
        if options.calibration is None:
            _laps_env("calibrate", "--from-log", log, "--out", calibration, "--overwrite")
        runs = out / "runs.safetensors"
        _laps_env("fit-traffic", runs, traffic, "--calibration", calibration, "--overwrite")
        server.clock.virtual = virtual
        journal.add({"kind": "prepared", "saturation_rps": saturation})
        done = journal.entries[-1:]
    server.cost = read_calibration(calibration)
    return done[-1]["saturation_rps"], traffic


def _laps_env(*words: object) -> None:
    """A command of the package, in a process of its own."""
    subprocess.run([sys.executable, "-m", "laps_env", *map(str, words)], check=True)


def main() -> None:
    """Play what is not in the journal yet."""
    os.environ.update(ENVIRONMENT | os.environ)
    options = tyro.cli(Options)
    options.out.mkdir(parents=True, exist_ok=True)
    job = json.loads(json.dumps(asdict(options), default=str))
    for free in ("out", "repetitions", "policies"):  # more of the same may be asked for later
        del job[free]
    with Journal(options.out / "journal.jsonl", job) as journal:
        server = Server(
            options.target,
            options.drafter,
            options.batch_size,
            options.places,
            virtual=options.clock == "virtual",
        )
        saturation, traffic = prepare(server, options, journal)
        print(f"saturation {saturation:.3f} requests per second", flush=True)
        for repetition in range(options.repetitions):
            rate = options.load * saturation
            play_repetition(server, options, journal, repetition, rate, traffic)


def play_repetition(
    server: Server,
    options: Options,
    journal: Journal,
    repetition: int,
    rate: float,
    traffic: Path,
) -> None:
    """Every policy serves the requests of a repetition, but for those that have."""
    turn = repetition % len(options.policies)
    requests: list[Request] = []
    for policy in options.policies[turn:] + options.policies[:turn]:
        attempts = attempts_of(journal.entries, policy, repetition)
        while not is_settled(attempts, options.drift):
            requests = requests or draw(server, options, "test", repetition, rate)
            record = options.out / f"{policy}-{repetition}.jsonl"
            record.unlink(missing_ok=True)
            run = server.play(policy, requests, traffic, record)
            run = {"kind": "run", "repetition": repetition, "policy": policy, **run}
            attempts.append(run | {"slowness": slowness(record, server.cost)})
            journal.add(attempts[-1])
            tell(attempts[-1])


def attempts_of(
    entries: list[dict[str, Any]], policy: str, repetition: int
) -> list[dict[str, Any]]:
    """Runs of a policy in a repetition, in the journal's order."""
    return [
        e
        for e in entries
        if e["kind"] == "run" and (e["policy"], e["repetition"]) == (policy, repetition)
    ]


def is_settled(attempts: list[dict[str, Any]], drift: float) -> bool:
    """Whether the last attempt counts."""
    return bool(attempts) and (
        abs(attempts[-1]["slowness"] - 1) <= drift or len(attempts) >= ATTEMPTS
    )


def slowness(log: Path, cost: Any) -> float:
    """Time of all steps of a log over what their work costs by the calibration."""
    from laps_env.live.measure.logged_steps import work_of
    from laps_env.sim.costs import work_ns
    from laps_env.traces.importers.step_lines import read_steps

    _, steps = read_steps(log)
    expected = sum(work_ns.py_func(cost, work_of(step)) for step in steps if step.requests)
    return float(sum(step.duration_s for step in steps) * 1e9 / expected)


def tell(run: dict[str, Any]) -> None:
    """Print a line of a run."""
    latency = np.array(run["latency"])
    print(
        f"{run['repetition']} {run['policy']:14} mean {latency.mean():7.2f} s  p95 "
        f"{np.quantile(latency, 0.95):7.2f}  steps {run['steps']}  held {run['held']}  slowness "
        f"{run['slowness']:.3f}  decision {run['decision_us']:.0f} us  texts {run['texts']}",
        flush=True,
    )


if __name__ == "__main__":
    main()

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

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from laps_env.utils.journal import Journal

#: Read when vLLM, torch and numba are imported, which happens after `main` has begun.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}

POLICIES = ("fcfs", "sjf", "las", "laps_sd", "gittins", "learned_index", "learned")
#: Times that a run is played at most until the machine's speed was right; the last one counts.
ATTEMPTS = 3
#: Scenario whose lengths and categories are drawn, and how many times shorter they are here.
SCENARIO, SHORTER = "mixed-batch8-8b", 16
#: Category of the questions that stand for one of the scenario's.
QUESTIONS_OF = {"chat": "chat", "code": "code", "math": "math", "news": "qa"}
LONGEST_PROMPT = 256

Part = Literal["train", "test"]

SPECULATION: dict[str, dict[str, Any]] = {
    "ngram": {
        "method": "ngram", "num_speculative_tokens": 4,
        "prompt_lookup_max": 3, "prompt_lookup_min": 1,
    },
    "draft_model": {
        "method": "draft_model", "model": "models/smollm2-135m-first-24",
        "num_speculative_tokens": 3,
    },
    "head": {"method": "eagle", "model": "models/smollm2-135m-head", "num_speculative_tokens": 3},
}  # fmt: skip


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


@dataclass(frozen=True)
class Request:
    """One request: what it asks, how long it is, and when it comes."""

    prompt: list[int]
    tokens: int
    predicted: float
    category: str
    arrival_s: float


class Clock:
    """Time in nanoseconds: the machine's, or one that is advanced by hand."""

    def __init__(self, virtual: bool) -> None:
        self.virtual = virtual
        self.now = 0
        self.start()

    def start(self) -> None:
        """The time is 0 now."""
        self.now, self.begun = 0, time.monotonic_ns()

    def __call__(self) -> int:
        return self.now if self.virtual else time.monotonic_ns() - self.begun

    def wait_until(self, then: int) -> None:
        """Let the time pass in which nothing is to be done."""
        if self.virtual:
            self.now = max(self.now, then)
        else:
            time.sleep(max(then - self(), 0) * 1e-9)


class Server:
    """A vLLM engine in this process whose scheduler can be given another policy."""

    def __init__(self, options: Options) -> None:
        from vllm import LLM, SamplingParams

        from laps_env.serving import vllm_head

        vllm_head.register()
        self.sampling = SamplingParams
        self.options = options
        self.llm = LLM(
            model=str(options.target),
            dtype="float32",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=options.places,
            max_num_batched_tokens=4096,  # a prompt is never cut in chunks
            enable_prefix_caching=False,  # the replay has none
            async_scheduling=False,
            seed=0,
            speculative_config=SPECULATION[options.drafter],
            scheduler_cls="laps_env.serving.vllm.PolicyScheduler",
            additional_config={"laps": {"policy": "fcfs", "batch_size": options.batch_size}},
        )
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.clock = self.scheduler.clock = Clock(options.clock == "virtual")
        self.cost: Any = None

    def encode(self, question: Any) -> list[int]:
        """Tokens of a question's first turn."""
        from laps_env.live.prompts import encode

        return encode(self.llm.get_tokenizer(), question.turns[:1])

    def play(
        self, policy: str, requests: list[Request], traffic: Path | None, record: Path
    ) -> dict[str, Any]:
        """Serve requests to the last; what happened, times in seconds."""
        from laps_env.serving.settings import Settings

        laps = {"policy": policy, "batch_size": self.options.batch_size, "record": str(record)}
        if traffic is not None:
            laps["traffic"] = str(traffic)
        self.clock.start()
        self.scheduler.use(Settings.of(laps))
        self.clock.start()
        begun = time.perf_counter()
        events: list[list[float]] = [[] for _ in requests]
        texts: list[list[int]] = [[] for _ in requests]
        sent, left = 0, len(requests)
        while left:
            now = self.clock()
            while sent < len(requests) and requests[sent].arrival_s * 1e9 <= now:
                self._send(sent, requests[sent])
                sent += 1
            if not self.engine.has_unfinished_requests():
                self.clock.wait_until(int(requests[sent].arrival_s * 1e9) + 1)
                continue
            for output in self._step():
                k = int(output.request_id)
                if len(output.outputs[0].token_ids) > len(texts[k]):
                    events[k].append(self.clock() * 1e-9)
                    texts[k] = list(output.outputs[0].token_ids)
                left -= output.finished
        counts = self.scheduler.counters.values
        gaps = [max(np.diff(times), default=0.0) for times in events]
        return {
            "latency": _rounded(
                [e[-1] - r.arrival_s for e, r in zip(events, requests, strict=True)]
            ),
            "first_token": _rounded(
                [e[0] - r.arrival_s for e, r in zip(events, requests, strict=True)]
            ),
            "longest_stall": _rounded(gaps),
            "texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16],
            "complete": all(len(t) == r.tokens for t, r in zip(texts, requests, strict=True)),
            "makespan": max(e[-1] for e in events),
            "wall": time.perf_counter() - begun,
            "decision_us": counts["decision_seconds"] / counts["steps"] * 1e6,
            **{name: counts[name] for name in ("steps", "held", "evicted", "failures")},
        }

    def _send(self, number: int, request: Request) -> None:
        told = {"predicted_tokens": request.predicted, "category": request.category}
        params = self.sampling(
            temperature=0, max_tokens=request.tokens, ignore_eos=True, detokenize=False,
            extra_args=told,
        )  # fmt: skip
        self.engine.add_request(str(number), {"prompt_token_ids": request.prompt}, params)

    def _step(self) -> Any:
        """A step of the engine; a virtual clock advances before its tokens are given out."""
        if not self.clock.virtual:
            return self.engine.step()
        update = self.scheduler.update_from_output

        def advanced(output: Any, result: Any) -> Any:
            self.clock.now += round(self._cost(output))
            return update(output, result)

        self.scheduler.update_from_output = advanced
        try:
            return self.engine.step()
        finally:
            del self.scheduler.update_from_output

    def _cost(self, output: Any) -> float:
        """What a step costs, by its work as `laps-env calibrate --from-log` counts it."""
        from laps_env.live.measure.log_costs import work_of
        from laps_env.sim.costs import work_ns
        from laps_env.traces.step_log import EngineStep, StepShare

        known, drafts = self.scheduler.requests, output.scheduled_spec_decode_tokens
        shares = [
            StepShare(r, known[r].num_computed_tokens - count, count, len(drafts.get(r, ())), 1)
            for r, count in output.num_scheduled_tokens.items()
        ]
        return float(work_ns.py_func(self.cost, work_of(EngineStep(0, 0, shares))))


def _rounded(seconds: list[float]) -> list[float]:
    return [round(float(s), 4) for s in seconds]


def arrival_times(
    part: Part, seed: int, rate: float, count: int
) -> tuple[np.random.Generator, np.ndarray]:
    """Poisson arrivals in seconds, and the generator that goes on to choose the prompts."""
    rng = np.random.default_rng([seed, part == "test"])
    return rng, np.cumsum(rng.exponential(1 / rate, count))


def draw(server: Server, part: Part, seed: int, rate: float) -> list[Request]:
    """Requests of a part of the questions, arriving at so many a second (all at once: infinity)."""
    from laps_env.live.prompts import partition, read_questions
    from laps_env.workloads.scenarios import get_scenario

    options = server.options
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


def prepare(server: Server, journal: Journal) -> tuple[float, Path]:
    """Measure the saturation, record a run, make the calibration and the traffic file."""
    options, out = server.options, server.options.out
    done = [e for e in journal.entries if e["kind"] == "prepared"]
    traffic, calibration = out / "traffic.json", options.calibration or out / "calibration.json"
    if not done:
        virtual, server.clock.virtual = server.clock.virtual, False
        log = out / "recorded.jsonl"
        log.unlink(missing_ok=True)
        crowd = draw(server, "train", 0, np.inf)
        server.play("fcfs", crowd[:16], None, log)
        log.unlink()  # that was the engine's first: slow
        full = server.play("fcfs", crowd, None, log)
        saturation = options.requests / full["makespan"]
        server.play("fcfs", draw(server, "train", 1, options.load * saturation), None, log)
        _laps_env("import", "steps", log, out / "runs.safetensors", "--overwrite")
        if options.calibration is None:
            _laps_env("calibrate", "--from-log", log, "--out", calibration, "--overwrite")
        runs = out / "runs.safetensors"
        _laps_env("fit-traffic", runs, traffic, "--calibration", calibration, "--overwrite")
        server.clock.virtual = virtual
        journal.add({"kind": "prepared", "saturation_rps": saturation})
        done = journal.entries[-1:]
    from laps_env.sim.calibration_file import read_calibration

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
        server = Server(options)
        saturation, traffic = prepare(server, journal)
        print(f"saturation {saturation:.3f} requests per second", flush=True)
        for repetition in range(options.repetitions):
            play_repetition(server, journal, repetition, options.load * saturation, traffic)


def play_repetition(
    server: Server, journal: Journal, repetition: int, rate: float, traffic: Path
) -> None:
    """Every policy serves the requests of a repetition, but for those that have."""
    options = server.options
    turn = repetition % len(options.policies)
    requests: list[Request] = []
    for policy in options.policies[turn:] + options.policies[:turn]:
        attempts = attempts_of(journal.entries, policy, repetition)
        while not is_settled(attempts, options.drift):
            requests = requests or draw(server, "test", repetition, rate)
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
    from laps_env.live.measure.log_costs import work_of
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

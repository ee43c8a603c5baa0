"""Find out in minutes what this project wants to know of a GPU: ``make gpu``.

    python scripts/gpu.py --out runs/gpu --minutes 10
    python scripts/gpu.py --out runs/gpu-tiny --tiny

Each step is a process of its own with a limit; one that fails or runs over does not stop the
others. `results.json` is written after every step, and the same command goes on from there: what
is done and good is not run again. No network is used, and the first steps need no checkpoint; the
demo's need `make demo-models`. With --tiny all runs on the CPU with models of a few thousand
weights: it tries the commands, and its times mean nothing. `scripts/gpu_pages.py` makes pages and
calibrations of the results. Give the device to this command alone while it runs.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import tyro
from gpu_results import Campaign, Outcome, read, write
from gpu_steps import ROOT, Step, campaign
from gpu_tiny import dry, save_model

from laps_env.live.engine.loading import DEMO_TARGET
from laps_env.live.measure.machine import describe_device

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Options:
    """What is run.

    Attributes:
        out: Folder of the results.
        steps: Names of the steps, all by default.
        minutes: Time for all of them; none is started that is expected to pass it.
        tiny: Whether to try everything on the CPU with tiny models.

    Raises:
        ValueError: An unknown step, or no time.
    """

    out: Path = Path("runs/gpu")
    steps: tuple[str, ...] = ()
    minutes: float = 15.0
    tiny: bool = False

    def __post_init__(self) -> None:
        known = campaign(self.out)
        for name in self.steps:
            if name not in known:
                raise ValueError(f"steps: expected some of {', '.join(known)}, got {name!r}")
        if not self.minutes > 0:
            raise ValueError(f"minutes: expected a number > 0, got {self.minutes}")


def begin(options: Options) -> Campaign:
    """What is known so far in the folder, or an empty campaign on this device.

    Raises:
        ValueError: No GPU, or results of another device, other software or another kind of run.
    """
    if not options.tiny and not torch.cuda.is_available():
        raise ValueError("device: expected a GPU, got none (--tiny tries all on the CPU)")
    about = describe_device(torch.device("cpu" if options.tiny else "cuda"))
    new = Campaign(options.tiny, about["device"], about["software"])
    path = options.out / "results.json"
    if not path.exists():
        return new
    known = read(path)
    if replace(known, steps={}) != new:
        raise ValueError(
            f"{path}: expected results of this device, these versions and this kind of run, got "
            "others: name another folder by --out"
        )
    return known


def chosen(options: Options) -> dict[str, Step]:
    """The steps that are asked for, with their commands."""
    out = options.out.resolve()
    steps = campaign(out)
    if options.tiny:
        os.environ["OMP_NUM_THREADS"] = "1"  # barriers between threads cost more than tiny models
        model = out / "tiny-model"
        save_model(model)
        steps = {name: dry(step, model) for name, step in steps.items()}
    return {name: steps[name] for name in options.steps or steps}


def obstacle(step: Step, left: float, tiny: bool) -> str:
    """Why a step cannot be started; empty where it can.

    Args:
        step: Step.
        left: Seconds until the end of the campaign.
        tiny: Whether a tiny model stands for the demo's.
    """
    if step.demo and not (tiny or DEMO_TARGET.is_dir()):
        return f"not started: no {DEMO_TARGET} (make demo-models)"
    if left < step.expected_s:
        return f"not started: {left:.0f} s left, {step.expected_s} s expected"
    return ""


def run(words: tuple[str, ...], log: Path, limit: float) -> str:
    """Run a command in the repository's root; what went wrong, empty where nothing did.

    Args:
        words: Words behind the interpreter.
        log: File for what it prints.
        limit: Seconds after which it is stopped, with all that it has started.
    """
    with log.open("w", encoding="utf-8") as file:
        print("python", shlex.join(words), file=file, flush=True)
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **OFFLINE},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped at its limit of {limit:.0f} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if status == 0:
        return ""
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    return f"exit status {status}: {last[:300]}"


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    started = time.monotonic()
    try:
        options = tyro.cli(Options, args=argv, description=__doc__)
        options.out.mkdir(parents=True, exist_ok=True)
        known = begin(options)
    except ValueError as reason:
        sys.exit(f"gpu: error: {reason}")
    steps = chosen(options)
    todo = [n for n in steps if n not in known.steps or not known.steps[n].ok]
    expected = sum(steps[name].expected_s for name in todo)
    print(f"{len(todo)} of {len(steps)} steps to run, {expected} s expected on an H100", flush=True)
    for name in todo:
        step, begun = steps[name], time.monotonic()
        left = options.minutes * 60 - (begun - started)
        error = obstacle(step, left, options.tiny)
        if not error:
            error = run(step.words, options.out / f"{name}.log", min(step.limit_s, left))
        seconds = round(time.monotonic() - begun, 1)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        known.steps[name] = Outcome(not error, seconds, date, error)
        write(options.out / "results.json", known)
        print(f"{name:18}{seconds:7.1f} s  {error or 'ok'}", flush=True)
    return int(not all(known.steps[name].ok for name in steps))


if __name__ == "__main__":
    sys.exit(main())

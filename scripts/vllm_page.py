"""Write the measured part of docs/vllm.md from the folders of `scripts/vllm_runs.py`.

    python scripts/vllm_page.py runs/vllm-head runs/vllm-ngram --out docs/vllm.md

Each folder's journal gives a table: means over repetitions, ratios to FCFS paired over them, tails
pooled. Then the replay plays every run: the requests and their acceptance as the FCFS run of the
repetition recorded them, at costs fitted to the step logs of the repetition's *other* runs, which
came before and after it on the same machine. Runs in the project's own environment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from vllm_runs import arrival_times

from laps_env.evaluation.statistics import ratio_with_interval
from laps_env.live.measure.agreement import compare_order
from laps_env.live.measure.log_costs import fit_log
from laps_env.policies import read_traffic
from laps_env.report.tables import markdown_table
from laps_env.serving.settings import Settings
from laps_env.sim.costs import CostModel
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.traces.importers import import_steps
from laps_env.traces.importers.records import parse_records
from laps_env.traces.importers.step_lines import LogLines, read_steps
from laps_env.traces.step_log import LeftRequest
from laps_env.utils.files import write_beside
from laps_env.workloads import Workload

REFERENCE = "fcfs"
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"
#: Errors of the replay's means and pooled tails that are aimed at on a shared CPU.
TARGETS = {"mean": 0.06, "p95": 0.12}
NAMES = {
    "head": "The package's draft head as EAGLE, 3 tokens",
    "ngram": "Prompt lookup (ngram), 4 tokens",
    "draft_model": "The target's first 24 of 30 layers as draft model, 3 tokens",
}

Floats = np.ndarray


@dataclass(frozen=True)
class Runs:
    """What one folder holds: a drafter, a clock, policies in repetitions.

    Attributes:
        folder: Folder of `vllm_runs`.
    """

    folder: Path

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The journal; its first line says what was played."""
        return [json.loads(line) for line in (self.folder / "journal.jsonl").open()]

    @property
    def options(self) -> dict[str, Any]:
        """What was played (`vllm_runs.Options`)."""
        return self.lines[0]

    @property
    def saturation_rps(self) -> float:
        """Measured saturation, requests per second."""
        return float(next(e["saturation_rps"] for e in self.lines[1:] if e["kind"] == "prepared"))

    @cached_property
    def played(self) -> dict[str, list[dict[str, Any]]]:
        """Runs by policy, of the repetitions that count, in their order."""
        runs = self._last_runs
        whole = [r for r in self._complete if self._is_even(r)]
        return {policy: [found[r] for r in whole] for policy, found in runs.items()}

    @property
    def left_out(self) -> int:
        """Repetitions in which a run stayed off its usual speed, whatever the attempts."""
        return sum(not self._is_even(r) for r in self._complete)

    @cached_property
    def _last_runs(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The last attempt by policy and repetition."""
        runs: dict[str, dict[int, dict[str, Any]]] = {}
        for entry in self.lines[1:]:
            if entry["kind"] == "run":
                runs.setdefault(entry["policy"], {})[entry["repetition"]] = entry
        return runs

    @property
    def _complete(self) -> list[int]:
        """Repetitions that every policy has finished."""
        return sorted(set.intersection(*(set(found) for found in self._last_runs.values())))

    def _is_even(self, repetition: int) -> bool:
        """Whether the machine was as fast as usual, or nearly, in all runs of a repetition."""
        drift = self.options["drift"]
        runs = (found[repetition] for found in self._last_runs.values())
        return all(abs(run["slowness"] - 1) <= drift for run in runs)

    def latencies(self, policy: str, name: str = "latency") -> Floats:
        """Seconds by repetition and request [repetitions, requests]."""
        return np.array([run[name] for run in self.played[policy]])

    def log(self, policy: str, repetition: int) -> Path:
        """Step log of a run."""
        return self.folder / f"{policy}-{repetition}.jsonl"

    def workload(self, repetition: int) -> Workload:
        """The requests of a repetition as the FCFS run recorded them."""
        log = self.log(REFERENCE, repetition)
        lines = parse_records(log, LogLines().parse)
        left = [line for line in lines if isinstance(line, LeftRequest)]
        order = np.argsort([int(request.id.split("-")[0]) for request in left])
        trace = import_steps(log).select(order)
        rate = self.options["load"] * self.saturation_rps
        _, arrivals = arrival_times("test", repetition, rate, len(left))
        categories = self.traffic.categories
        assert trace.predicted_tokens is not None  # every request was sent with one
        return Workload(
            arrival_ns=(arrivals * 1e9).astype(np.int64),
            prompt_tokens=np.asarray(trace.prompt_tokens),
            output_tokens=np.asarray(trace.output_tokens),
            predicted_tokens=np.asarray(trace.predicted_tokens),
            category=np.array([categories.index(left[k].category) for k in order]),
            accepted_length=np.asarray(trace.accepted_length),
            max_draft=trace.max_draft,
            categories=categories,
        )

    @cached_property
    def traffic(self) -> Any:
        """What the policies knew of the traffic."""
        return read_traffic(self.folder / "traffic.json")

    def replayed(self, policy: str, *, own_speed: bool = False) -> Floats:
        """Latencies that the replay predicts [repetitions, requests], in seconds.

        Args:
            policy: Policy.
            own_speed: Whether the machine's speed in that very run is known, a factor of all costs.
        """
        rule = Settings(policy=policy).make_policy(self.traffic)
        predicted = []
        for k, run in enumerate(self.played[policy]):
            repetition = run["repetition"]
            others = [p for p in self.played if p != policy]
            steps = [s for p in others for s in read_steps(self.log(p, repetition))[1]]
            header, _ = read_steps(self.log(REFERENCE, repetition))
            usual = np.mean([self.played[p][k]["slowness"] for p in others])
            server = ServerModel(
                slower(fit_log(steps).cost, run["slowness"] / usual if own_speed else 1.0),
                batch_size=header.batch_size,
                draft_length=header.draft_length,
            )
            workload = self.workload(repetition)
            simulation = Simulation(
                server,
                slots=workload.num_requests,
                saturation_rps=self.traffic.saturation_rps,
            )
            simulation.start(0, workload)
            rule.run(simulation)
            requests = simulation.requests()
            predicted.append((requests["completion_ns"] - requests["arrival_ns"]) * 1e-9)
        return np.array(predicted)


def slower(cost: CostModel, factor: float) -> CostModel:
    """The costs of a machine on which everything takes so many times as long."""
    constants = {f.name: getattr(cost, f.name) * factor for f in fields(cost) if f.name != "source"}
    return replace(cost, **constants)


def measured(runs: Runs) -> str:
    """What was measured with one drafter: a line of settings and a table."""
    options, played = runs.options, runs.played
    repetitions, requests = runs.latencies(REFERENCE).shape
    reference = runs.latencies(REFERENCE).mean(axis=1)
    rows = []
    for policy in sorted(played, key=lambda p: runs.latencies(p).mean()):
        latency = runs.latencies(policy)
        ratio, interval = ratio_with_interval(latency.mean(axis=1), reference)
        between = (
            "" if interval is None or policy == REFERENCE else "{:.3f}..{:.3f}".format(*interval)
        )
        rows.append(
            [
                f"`{policy}`",
                f"{latency.mean():.2f}",
                f"{ratio:.3f}",
                between,
                f"{np.quantile(latency, 0.95):.2f}",
                f"{np.quantile(latency, 0.99):.2f}",
                f"{runs.latencies(policy, 'first_token').mean():.2f}",
                f"{runs.latencies(policy, 'longest_stall').max():.1f}",
                f"{np.mean([r['held'] / r['steps'] for r in played[policy]]):.1f}",
                f"{np.mean([r['decision_us'] for r in played[policy]]):.0f}",
            ]
        )
    heads = [
        "policy", "mean, s", "/ fcfs", "95 %", "p95, s", "p99, s", "first token, s",
        "longest stall, s", "held", "decision, us",
    ]  # fmt: skip
    texts = {
        repetition: {
            run["texts"]
            for found in played.values()
            for run in found
            if run["repetition"] == repetition
        }
        for repetition in {run["repetition"] for run in played[REFERENCE]}
    }
    same = all(len(found) == 1 for found in texts.values())
    count = sum(map(len, played.values()))
    slow = np.array([run["slowness"] for found in played.values() for run in found])
    said = (
        f"{repetitions} x {requests} requests at load {options['load']:g} of "
        f"{runs.saturation_rps:.2f} requests per second, batch {options['batch_size']}, "
        f"{options['places']} places, at most {options['longest']} tokens; {options['clock']} "
        f"clock. Texts: {'the same, token by token, in' if same else 'NOT the same in'} all "
        f"{count} runs. Their steps took {slow.min():.2f} to {slow.max():.2f} of what the "
        "calibration says of them."
    )
    if runs.left_out:
        said += (
            f" Left out: {runs.left_out} more repetitions, in which a run stayed further than "
            f"{options['drift']:.0%} from that in three attempts."
        )
    title = f"### {NAMES[options['drafter']]}, {options['clock']} clock"
    return f"{title}\n\n{said}\n\n{markdown_table(heads, rows)}\n"


def predicted(runs: Runs) -> str:
    """The replay's prediction beside what was measured."""
    policies = list(runs.played)
    live = {p: runs.latencies(p) for p in policies}
    replay = {p: runs.replayed(p) for p in policies}
    title = f"#### The replay's prediction, {NAMES[runs.options['drafter']]}"
    parts = [title, f"{_errors_in_words(live, replay)} {_order_in_words(live, replay)}"]
    parts.append(_prediction_table(live, replay))
    if runs.options["clock"] == "wall":
        own = {p: runs.replayed(p, own_speed=True) for p in policies}
        parts.append(
            "Told, by one factor, how fast the machine was in the very run that it predicts, "
            f"which no forecast can know, the replay is nearer. {_errors_in_words(live, own)}"
        )
        parts.append(_prediction_table(live, own))
    return "\n\n".join(parts) + "\n"


def _errors(live: Floats, replay: Floats) -> dict[str, tuple[float, float]]:
    """The mean and the pooled tail, here and there."""
    return {
        name: (float(of(live)), float(of(replay)))
        for name, of in (("mean", np.mean), ("p95", lambda x: np.quantile(x, 0.95)))
    }


def _errors_in_words(live: dict[str, Floats], replay: dict[str, Floats]) -> str:
    both = [_errors(live[p], replay[p]) for p in live]
    worst = {name: max(abs(e[name][1] / e[name][0] - 1) for e in both) for name in TARGETS}
    return (
        f"Largest error of a mean {worst['mean']:.1%} (aimed at: {TARGETS['mean']:.0%}), of a p95 "
        f"{worst['p95']:.1%} ({TARGETS['p95']:.0%})."
    )


def _prediction_table(live: dict[str, Floats], replay: dict[str, Floats]) -> str:
    rows = []
    for policy in live:
        cells = [f"`{policy}`"]
        for here, there in _errors(live[policy], replay[policy]).values():
            cells += [f"{here:.2f}", f"{there:.2f}", f"{there / here - 1:+.1%}"]
        rows.append(cells)
    heads = ["policy", "mean, s", "replay", "error", "p95, s", "replay", "error"]
    return markdown_table(heads, rows)


def _order_in_words(live: dict[str, Floats], replay: dict[str, Floats]) -> str:
    """How many pairs of policies the replay has in the order of vLLM."""

    def means(plays: dict[str, Floats]) -> dict[str, list[dict[str, float]]]:
        return {p: [{"mean_latency_s": float(m)} for m in x.mean(axis=1)] for p, x in plays.items()}

    if len(next(iter(live.values()))) == 1:  # nothing is known of the noise
        pairs = list(combinations(live, 2))
        same = sum(
            (live[a].mean() - live[b].mean()) * (replay[a].mean() - replay[b].mean()) > 0
            for a, b in pairs
        )
        return f"The replay has {same} of {len(pairs)} pairs of policies in the same order."
    orders = compare_order(means(live), means(replay))
    decided = [order for order in orders if order.decided]
    return (
        f"{len(decided)} of {len(orders)} pairs of policies differ by more than their noise; "
        f"{sum(order.same for order in decided)} of these the replay has in the same order."
    )


def main(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    out: Annotated[Path, tyro.conf.arg(help="page whose measured part is replaced")],
) -> None:
    """Write the measured part of a page."""
    parts = []
    for folder in folders:
        runs = Runs(folder)
        parts.append(measured(runs))
        parts.append(predicted(runs))
    page = out.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n".join(parts)
    write_beside(out, [f"{before}{BEGIN}\n\n{body}\n{END}{after}".encode()])


if __name__ == "__main__":
    tyro.cli(main)

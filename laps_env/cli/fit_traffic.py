"""``laps-env fit-traffic``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from laps_env.cli.command import Command, Count, PredictorError
from laps_env.utils.files import outputs


@dataclass(frozen=True, kw_only=True)
class FitTraffic(Command):
    """Fit what a server's policies may know of its traffic, on its own recordings.

    The file has the laws of lengths and speed by category, the saturation, and how a step's time
    divides into draft and verification; a scheduler in a serving engine reads it. Printed are the
    lengths, acceptance and prediction errors by category, and what changed over the recording.

    $ laps-env import steps steps.jsonl runs.safetensors
    $ laps-env calibrate --from-log steps.jsonl --out calibration.json
    $ laps-env fit-traffic runs.safetensors traffic.json --calibration calibration.json
    """

    runs: tyro.conf.Positional[Path]
    """Acceptance trace of the server, .safetensors."""
    output: tyro.conf.Positional[Path]
    """Traffic, a JSON file."""
    calibration: Path
    """Costs of the server's rounds (laps-env calibrate)."""
    batch_size: Count = None
    """Most requests in a round (default: that of the recorded run)."""
    draft_length: Count = None
    """Most tokens drafted for a request (default: that of the recorded run)."""
    pool_tokens: int = 400_000
    """Tokens that the key-value cache has room for."""
    predictor_error: PredictorError = None
    """Deviation of log(predicted / true length) (default: recorded predictions, else 0.5);
    refreshed: with those recorded while requests ran."""
    overwrite: bool = False
    """Replace an output that is there."""

    def run(self) -> int:
        """Fit, write, print."""
        from laps_env.policies.base.traffic_file import fit_traffic, write_traffic
        from laps_env.report.traffic_text import traffic_text
        from laps_env.sim.calibration_file import read_calibration
        from laps_env.traces import AcceptanceTrace
        from laps_env.workloads.recorded import recorded_scenario

        inputs = [self.runs, self.calibration]
        with outputs(self.output, inputs=inputs, overwrite=self.overwrite):
            trace = AcceptanceTrace.load(self.runs)
            scenario = recorded_scenario(
                trace,
                read_calibration(self.calibration),
                batch_size=self.batch_size,
                draft_length=self.draft_length,
                pool_tokens=self.pool_tokens,
            )
            traffic = fit_traffic(scenario, self.predictor_error)
            write_traffic(self.output, traffic)
        print(traffic_text(trace))
        speeds = zip(traffic.categories, traffic.laws.tokens_per_round, strict=True)
        print("tokens per round: " + ", ".join(f"{name} {speed:.2f}" for name, speed in speeds))
        print(f"saturation: {traffic.saturation_rps:.3f} requests per second")
        print(f"draft steps in a full round: {traffic.draft_share:.0%} of its time")
        print(f"{self.output}: {traffic.source}")
        return 0

"""``laps-env calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laps_env.cli.command import File
from laps_env.cli.models import OnModels
from laps_env.utils.files import outputs

BATCHES = (1, 2, 4, 8)
#: Between the powers of two that passes are padded to, too: there a scheduler's rounds are.
GPU_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True, kw_only=True)
class Calibrate(OnModels):
    """Measure what rounds of a real engine cost here, and fit the replay's cost model to it.

    Give the device to this command alone while it runs. With a server's own record nothing is run:
    the cost model is fitted to its steps, or where there is no more to the times of requests.

    $ laps-env calibrate --out calibration.json --plot calibration.png
    $ laps-env calibrate --target big --draft small --device cuda --out calibration-gpu.json
    $ laps-env calibrate --from-log steps.jsonl --out calibration.json
    $ laps-env calibrate --from-requests requests.csv --out calibration.json
    """

    from_log: File = None
    """Steps of a server, fitted in place of a measurement: its step log (laps-env import steps), or
    CSV with batch, tokens, context and seconds."""
    from_requests: File = None
    """Times of requests, fitted likewise: CSV or JSON lines with prompt, output and seconds, or a
    .json of vllm bench serve --save-detailed."""
    dtype: str = "auto"
    """Precision: auto, float32, bfloat16 or float16."""
    out: Path = Path("calibration.json")
    """Calibration, a JSON file."""
    plot: File = None
    """Picture of measured against fitted, .png, .pdf or .svg."""
    batches: tuple[int, ...] = ()
    """Batch sizes, by default 1,2,4,8 and on a GPU also 3,6,12,16,24,32."""
    draft_lengths: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Draft lengths."""
    contexts: tuple[int, ...] = (64, 256, 768)
    """Tokens of context."""
    repeats: int = 5
    """Repetitions that means are taken over."""
    overwrite: bool = False
    """Replace outputs that are there."""

    def run(self) -> int:
        """Measure, fit, write, print."""
        if self.from_log is not None or self.from_requests is not None:
            return self._fit_record()
        from laps_env.live.measure.calibrate import calibrate
        from laps_env.live.measure.calibration import Grid
        from laps_env.report.picture import check_picture

        if self.plot is not None:
            check_picture(self.plot)

        def grid(batches: tuple[int, ...]) -> Grid:
            return Grid(self.batches or batches, self.draft_lengths, self.contexts, self.repeats)

        grid(BATCHES)  # refuses what is out of range before models are loaded
        with outputs(self.out, self.plot, overwrite=self.overwrite):
            pair = self.load_models(self.dtype)
            gpu = pair.target.device.type == "cuda"
            calibrate(pair, grid(GPU_BATCHES if gpu else BATCHES), self.out, self.plot)
        return 0

    def _fit_record(self) -> int:
        from laps_env.live.measure.log_costs import calibrate_from_log
        from laps_env.live.measure.request_costs import calibrate_from_requests

        kind = "a log" if self.from_log is not None else "times of requests"
        for name in ("target", "draft", "plot", "from_requests" if self.from_log else "from_log"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name}: expected none beside {kind}, got {value}")
        fit = calibrate_from_log if self.from_log is not None else calibrate_from_requests
        record = self.from_log or self.from_requests
        assert record is not None  # one of the two is given
        with outputs(self.out, inputs=[record], overwrite=self.overwrite):
            fit(record, self.out)
        return 0

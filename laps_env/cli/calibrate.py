"""``laps-env calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laps_env.cli.command import Command, Count, File, Text
from laps_env.utils.checks import check_count
from laps_env.utils.files import outputs

BATCHES = (1, 2, 4, 8)
GPU_BATCHES = (*BATCHES, 16, 32)


@dataclass(frozen=True)
class Calibrate(Command):
    """Measure what rounds of a real engine cost here, and fit the replay's cost model to it.

    Give the device to this command alone while it runs.

    $ laps-env calibrate --out calibration.json --plot calibration.png
    $ laps-env calibrate --target big --draft small --device cuda --out calibration-gpu.json
    """

    target: Text = None
    """Folder or hub name of the target, by default the demo's."""
    draft: Text = None
    """Folder or hub name of the draft, by default the demo's."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """Precision: auto, float32, bfloat16 or float16."""
    out: Path = Path("calibration.json")
    """Calibration, a JSON file."""
    plot: File = None
    """Picture of measured against fitted, .png, .pdf or .svg."""
    batches: tuple[int, ...] = ()
    """Batch sizes, by default 1,2,4,8 and on a GPU also 16,32."""
    draft_lengths: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Draft lengths."""
    contexts: tuple[int, ...] = (64, 256, 768)
    """Tokens of context."""
    repeats: int = 5
    """Repetitions that means are taken over."""
    threads: Count = None
    """Threads of torch on the CPU."""
    overwrite: bool = False
    """Replace outputs that are there."""

    def run(self) -> int:
        """Measure, fit, write, print."""
        from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, load_pair
        from laps_env.live.measure.calibrate import calibrate
        from laps_env.live.measure.calibration import Grid
        from laps_env.report.picture import check_picture

        if self.plot is not None:
            check_picture(self.plot)
        set_threads(self.threads)

        def grid(batches: tuple[int, ...]) -> Grid:
            return Grid(self.batches or batches, self.draft_lengths, self.contexts, self.repeats)

        grid(BATCHES)  # refuses what is out of range before models are loaded
        with outputs(self.out, self.plot, overwrite=self.overwrite):
            target, draft = self.target or DEMO_TARGET, self.draft or DEMO_DRAFT
            pair = load_pair(target, draft, device=self.device, dtype=self.dtype)
            gpu = pair.target.device.type == "cuda"
            calibrate(pair, grid(GPU_BATCHES if gpu else BATCHES), self.out, self.plot)
        return 0


def set_threads(count: int | None) -> None:
    """Limit torch on the CPU, where a count is given.

    Raises:
        ValueError: A count below 1.
    """
    import torch

    if count is not None:
        check_count("threads", count)
        torch.set_num_threads(count)

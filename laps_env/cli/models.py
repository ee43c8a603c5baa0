"""Options of the commands that load a pair of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laps_env.cli.command import Command, Count, Text
from laps_env.utils.checks import check_count

if TYPE_CHECKING:
    from laps_env.live.engine.loading import Pair


@dataclass(frozen=True, kw_only=True)
class OnModels(Command):
    """A command that runs real models."""

    target: Text = None
    """Folder or hub name of the target, by default the demo's."""
    draft: Text = None
    """Folder or hub name of the draft, by default the demo's."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N."""
    threads: Count = None
    """Threads of torch on the CPU."""

    def load_models(self, dtype: str) -> Pair:
        """The models, in this precision.

        Raises:
            ValueError: Models or a device that cannot be used, or a number of threads below 1.
        """
        import torch

        from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, load_pair

        check_count("threads", self.threads, optional=True)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        target, draft = self.target or DEMO_TARGET, self.draft or DEMO_DRAFT
        return load_pair(target, draft, device=self.device, dtype=dtype)

"""`RecordedServer`: any workload of the replay is served by real passes."""

from __future__ import annotations

import numpy as np

from laps_env.live.engine.acceptance import Recorded
from laps_env.live.engine.engine import Generation
from laps_env.live.engine.stopping import Stopping
from laps_env.live.server import MARGIN, LiveServer
from laps_env.workloads import Workload


class RecordedServer(LiveServer):
    """Any workload of the replay is served: random prompts of its lengths, its accepted lengths.

    All passes are real; only how much of a draft counts, and where a text ends, is recorded.
    """

    def check(self, workload: Workload) -> None:
        """Raise ``ValueError`` for a draft schedule, or requests beyond the models' context."""
        super().check(workload)
        room, longest = self.pair.context - MARGIN, self.longest(workload)
        if longest > room:
            raise ValueError(
                f"workload: expected requests of at most {room} tokens in the models' context, "
                f"got one of {longest}"
            )

    def begin(self, workload: Workload) -> list[Generation]:
        """A prompt of random tokens for each request."""
        vocabulary = self.pair.target.config.get_text_config().vocab_size
        rng = np.random.default_rng(0)
        begun = []
        for prompt, limit, first in zip(
            workload.prompt_tokens, workload.output_tokens, workload.offset, strict=False
        ):
            own = slice(first, first + limit)
            recorded = Recorded(
                workload.accepted_length[own].tolist(),
                None if workload.max_draft is None else workload.max_draft[own].tolist(),
            )
            begun.append(
                self.engine.start(
                    rng.integers(vocabulary, size=prompt).tolist(),
                    int(limit),
                    acceptance=recorded,
                    stopping=Stopping(),
                )
            )
        return begun

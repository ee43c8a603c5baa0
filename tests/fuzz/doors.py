"""All doors by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz import calls, files

DOORS: dict[str, Callable[[Path], files.Attack]] = {
    door.__name__: door
    for door in (
        *(files.calibration, files.acceptance_trace, files.arrivals, files.spec_bench),
        *(
            files.specdecode_bench,
            files.eagle,
            files.counted,
            files.vllm,
            files.step_log,
            files.prompts,
            files.results,
            files.journal,
        ),
        *(files.model, files.traffic, files.sweep, files.checkpoint),
        *(calls.costs, calls.rule_spec, calls.command_line, calls.grid, calls.environment),
        calls.workload,
    )
}

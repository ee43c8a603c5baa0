"""Acceptance traces from the files of other projects; see docs/traces.md."""

from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.importers.spec_bench import import_spec_bench
from laps_env.traces.importers.specdecode_bench import import_specdecode_bench
from laps_env.traces.importers.vllm import import_vllm
from laps_env.workloads.chain_fill import chain_fill

__all__ = [
    "Fill",
    "RecordedRequest",
    "bernoulli_fill",
    "build_trace",
    "chain_fill",
    "import_spec_bench",
    "import_specdecode_bench",
    "import_vllm",
]

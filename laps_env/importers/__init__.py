"""Acceptance traces from the files of other projects; see docs/traces.md."""

from laps_env.importers.chain import chain_fill
from laps_env.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.importers.spec_bench import import_spec_bench
from laps_env.importers.specdecode_bench import import_specdecode_bench
from laps_env.importers.vllm import import_vllm

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

"""Traces from the files of other projects; see docs/traces.md."""

from laps_env.traces.importers.aiperf import import_aiperf
from laps_env.traces.importers.arrivals import read_arrivals
from laps_env.traces.importers.eagle import import_eagle
from laps_env.traces.importers.records import LeftOut
from laps_env.traces.importers.runs import Fill, RecordedRequest, bernoulli_fill, build_trace
from laps_env.traces.importers.sglang import import_sglang
from laps_env.traces.importers.spec_bench import import_spec_bench
from laps_env.traces.importers.specdecode_bench import import_specdecode_bench
from laps_env.traces.importers.steps import import_steps
from laps_env.traces.importers.vllm import import_vllm

__all__ = [
    "Fill",
    "LeftOut",
    "RecordedRequest",
    "bernoulli_fill",
    "build_trace",
    "import_aiperf",
    "import_eagle",
    "import_sglang",
    "import_spec_bench",
    "import_specdecode_bench",
    "import_steps",
    "import_vllm",
    "read_arrivals",
]

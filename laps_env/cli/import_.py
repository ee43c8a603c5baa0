"""``laps-env import``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from laps_env.cli.command import Command, File, Text, metavar, one_line
from laps_env.utils.files import outputs, write_beside

if TYPE_CHECKING:
    from laps_env.traces import AcceptanceTrace, TraceInfo
    from laps_env.traces.arrival_trace import ArrivalTrace


@dataclass(frozen=True)
class Arrivals:
    """Arrivals: traces of Azure, BurstGPT, Vidur, Mooncake, Bailian, any CSV, and logs of servers.

    Benchmarks of vLLM and AIPerf and step logs too; plain or gzip. The output is as Mooncake's.

    $ laps-env import arrivals AzureLLMInferenceTrace_conv.csv conv.jsonl
    $ laps-env import arrivals log.csv.gz log.jsonl --columns arrival=t,prompt=p,output=o --unit ms
    $ laps-env evaluate --arrival-trace conv.jsonl --lengths arrivals --scenario chat-batch8-8b
    """

    source: tyro.conf.Positional[Path]
    """File of others."""
    output: tyro.conf.Positional[Path]
    """File to be written, .jsonl."""
    columns: Annotated[str | None, metavar("arrival=NAME,prompt=NAME,output=NAME[,id=NAME]")] = None
    """Columns of a CSV of no known format; no id may be repeated."""
    unit: Annotated[Literal["s", "ms", "us", "ns"] | None, metavar("s|ms|us|ns")] = None
    """Unit of the file's times, where it is not the format's own: s for GuideLLM's files."""
    sort: bool = False
    """Put requests in order of arrival, where the file's order is another."""

    ending = ".jsonl"

    @property
    def inputs(self) -> list[Path]:
        """Files that are read."""
        return [self.source]

    def write(self, **errors: Any) -> str:
        """Write them; what they are."""
        from laps_env.traces.importers import read_arrivals

        trace = read_arrivals(
            self.source,
            columns=None if self.columns is None else _named(self.columns),
            unit=self.unit,
            sort=self.sort,
            on_failed="skip",
            **errors,
        )
        write_beside(self.output, _lines(trace))
        seconds = trace.arrival_ns[-1] * 1e-9
        return f"{len(trace.arrival_ns)} requests in {seconds:.0f} s, from {trace.form}"


def _named(columns: str) -> dict[str, str]:
    """Names of columns by what they hold: ``arrival=t,prompt=in,output=out``."""
    pairs = [part.split("=", 1) for part in columns.split(",")]
    names = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    if len(names) < len(pairs):
        raise ValueError(f"columns: expected arrival=NAME,..., each once, got {columns!r}")
    return names


def _lines(trace: ArrivalTrace) -> Iterator[bytes]:
    """Requests as Mooncake's lines, some at a time."""
    columns = (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)
    for start in range(0, len(trace.arrival_ns), 2**14):
        rows = zip(*(column[start : start + 2**14].tolist() for column in columns), strict=True)
        yield "".join(
            f'{{"timestamp": {time / 1e6}, "input_length": {prompt}, "output_length": {length}}}\n'
            for time, prompt, length in rows
        ).encode()


@dataclass(frozen=True)
class Runs:
    """Runs of a server, as an acceptance trace."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="FILE... OUTPUT", help_behavior_hint=""),
    ]
    """Files of one run, and last the .safetensors file to be written."""

    ending = ".safetensors"

    def __post_init__(self) -> None:
        if len(self.files) < 2:
            given = ", ".join(map(str, self.files)) or "none"
            raise ValueError(f"files: expected some to read and one to write, got {given}")

    @property
    def inputs(self) -> list[Path]:
        """Files that are read."""
        return list(self.files[:-1])

    @property
    def output(self) -> Path:
        """File that is written."""
        return self.files[-1]

    def write(self, **errors: Any) -> str:
        """Write the trace; what it holds."""
        trace = self.trace(errors)
        trace.save(self.output)
        if "prompt_tokens" in trace.info.provenance:
            errors["left_out"].assumed.append(
                f"prompt lengths: {trace.info.provenance['prompt_tokens']}"
            )
        return (
            f"{trace.num_requests} requests of {len(trace.categories)} categories, "
            f"{trace.observed_share:.0%} of their positions observed"
        )

    def trace(self, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the inputs; ``errors`` say what becomes of bad lines."""
        raise NotImplementedError


@dataclass(frozen=True)
class Steps(Runs):
    """Acceptance and times: step logs of our scheduler in vLLM, JSONL.

    $ laps-env import steps steps.jsonl runs.safetensors
    $ laps-env import arrivals steps.jsonl arrivals.jsonl
    """

    def trace(self, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the completed requests."""
        from laps_env.traces.importers import import_steps

        return import_steps(self.inputs, **errors)


@dataclass(frozen=True)
class Acceptance(Runs):
    """Runs of speculative decoding whose files do not say what ran."""

    drafter: str = "draft-model"
    """Kind of drafter: draft-model, eagle, ngram, ..."""
    target: str = "not recorded"
    """Name of the target model."""
    draft: str = ""
    """Name of the draft model."""

    def trace(self, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the inputs, of the models that the options name."""
        from laps_env.traces import TraceInfo

        info = TraceInfo(drafter=self.drafter, target_model=self.target, draft_model=self.draft)
        return self.read(info, errors)

    @property
    def plain(self) -> bool:
        """Whether a draft model of its own proposed the tokens."""
        return self.drafter == "draft-model"

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the inputs; ``errors`` say what becomes of bad lines."""
        raise NotImplementedError


@dataclass(frozen=True)
class Vllm(Acceptance):
    """Acceptance: vLLM's responses with per-request speculative metrics, JSONL.

    $ laps-env import vllm responses.jsonl runs.safetensors --target big --draft small
    $ laps-env evaluate --acceptance-trace runs.safetensors --scenario chat-batch8-8b
    """

    category: Text = None
    """Category of responses that do not say theirs (default: the file's name)."""

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the responses."""
        from laps_env.traces.importers import import_vllm

        return import_vllm(
            self.inputs, info, plain_draft=self.plain, category=self.category, **errors
        )


@dataclass(frozen=True)
class SpecBench(Acceptance):
    """Acceptance: Spec-Bench's answer files, JSONL.

    $ laps-env import spec-bench answers.jsonl runs.safetensors --questions question.jsonl
    """

    draft_length: Annotated[int | Literal["heuristic"] | None, metavar("INT|heuristic")] = None
    """Draft length of rounds that do not say it, or 'heuristic'."""
    questions: File = None
    """Question file, to estimate prompt lengths."""

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the answers."""
        from laps_env.traces.importers import import_spec_bench

        return import_spec_bench(
            self.inputs,
            info,
            plain_draft=self.plain,
            draft_length=self.draft_length,
            questions=self.questions,
            **errors,
        )


@dataclass(frozen=True, kw_only=True)
class Counted(Acceptance):
    """Runs whose files only count the rounds of an answer; all their positions are filled."""

    drafter: str = "eagle"
    """Kind of drafter."""
    draft_length: int
    """Most draft tokens that a round can accept, such as the depth of EAGLE's tree."""
    category: Text = None
    """Category of answers for which no file says one (default: the file's name)."""


@dataclass(frozen=True, kw_only=True)
class Eagle(Counted):
    """Acceptance: the answer files of EAGLE's repository, JSONL; all their positions are filled.

    $ laps-env import eagle answers.jsonl runs.safetensors --draft-length 5
    """

    questions: File = None
    """Question file, for the categories and to estimate prompt lengths."""

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the answers."""
        from laps_env.traces.importers import import_eagle

        return import_eagle(
            self.inputs,
            info,
            draft_length=self.draft_length,
            questions=self.questions,
            category=self.category,
            **errors,
        )


@dataclass(frozen=True, kw_only=True)
class Sglang(Counted):
    """Acceptance: SGLang's responses with meta_info, JSONL; all their positions are filled.

    $ laps-env import sglang responses.jsonl runs.safetensors --draft-length 5
    """

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the responses."""
        from laps_env.traces.importers import import_sglang

        return import_sglang(
            self.inputs, info, draft_length=self.draft_length, category=self.category, **errors
        )


@dataclass(frozen=True, kw_only=True)
class Aiperf(Counted):
    """Acceptance: AIPerf's records of speculation, JSONL; all their positions are filled.

    $ laps-env import aiperf profile_export.jsonl runs.safetensors --draft-length 5
    """

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the records."""
        from laps_env.traces.importers import import_aiperf

        return import_aiperf(
            self.inputs, info, draft_length=self.draft_length, category=self.category, **errors
        )


@dataclass(frozen=True)
class SpecDecodeBench(Acceptance):
    """Acceptance: files of SpecDecode-Bench, JSONL.

    $ laps-env import specdecode-bench combined_gsm8k.jsonl combined_cnn.jsonl runs.safetensors
    """

    drafter: str = "eagle"
    """Drafter whose accept lengths are read: eagle (acc_eagle in the file), ngram (acc_ngram)."""
    category: Text = None
    """Category of all requests (default: each file's name without 'combined_')."""

    def read(self, info: TraceInfo, errors: dict[str, Any]) -> AcceptanceTrace:
        """The trace of the files."""
        from laps_env.traces.importers import import_specdecode_bench

        return import_specdecode_bench(self.inputs, info, category=self.category, **errors)


@dataclass(frozen=True)
class Import(Command):
    """Convert recordings of others into files that ``laps-env evaluate`` plays.

    Requests without prompt or output, which failed, are left out. Whatever is left out is counted,
    and the first of each kind is shown; so is what the files do not say and was assumed.

    $ laps-env import arrivals AzureLLMInferenceTrace_conv.csv conv.jsonl
    $ laps-env import vllm responses.jsonl runs.safetensors --target big --draft small
    """

    recording: (
        Annotated[Arrivals, tyro.conf.subcommand("arrivals")]
        | Annotated[Steps, tyro.conf.subcommand("steps")]
        | Annotated[Vllm, tyro.conf.subcommand("vllm")]
        | Annotated[SpecBench, tyro.conf.subcommand("spec-bench")]
        | Annotated[Eagle, tyro.conf.subcommand("eagle")]
        | Annotated[Sglang, tyro.conf.subcommand("sglang")]
        | Annotated[Aiperf, tyro.conf.subcommand("aiperf")]
        | Annotated[SpecDecodeBench, tyro.conf.subcommand("specdecode-bench")]
    )
    skip_bad: bool = False
    """Leave malformed lines out."""
    overwrite: bool = False
    """Replace an output that is there."""

    def run(self) -> int:
        """Convert; say what was assumed, left out and written."""
        from laps_env.traces.importers import LeftOut

        output, ending = self.recording.output, self.recording.ending
        if output.suffix != ending:
            raise ValueError(f"output: expected a file ending in {ending}, got {output}")
        inputs = [*self.recording.inputs, getattr(self.recording, "questions", None)]
        left_out = LeftOut()
        with outputs(output, inputs=inputs, overwrite=self.overwrite):
            written = self.recording.write(
                on_error="skip" if self.skip_bad else "raise", left_out=left_out
            )
        for words in left_out.assumed:
            print(f"assumed: {one_line(words)}")
        for kind, count in left_out.lines.items():
            print(f"left out: {count} {kind}, the first: {one_line(left_out.first[kind])}")
        print(f"{output}: {written}")
        return 0

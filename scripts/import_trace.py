"""Convert recordings of others into files that scripts/evaluate.py plays; see --help.

    python scripts/import_trace.py arrivals AzureLLMInferenceTrace_conv.csv conv.jsonl
    python scripts/evaluate.py --arrival-trace conv.jsonl --lengths arrivals \
        --scenario chat-batch8-8b

    python scripts/import_trace.py vllm responses.jsonl runs.safetensors --target big --draft small
    python scripts/evaluate.py --acceptance-trace runs.safetensors --scenario chat-batch8-8b

Arrivals of any format that `laps_env.traces.importers.arrivals` knows become Mooncake's; requests
without output, which failed, are left out. Acceptance, from vLLM's per-request metrics or from
Spec-Bench's answer files, becomes an acceptance trace (docs/traces.md). What is left out is counted
and the first of each kind is shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from laps_env.cli.messages import errors_as_messages, one_line
from laps_env.traces import TraceInfo
from laps_env.traces.importers import import_spec_bench, import_vllm
from laps_env.traces.importers.arrivals import read_arrivals
from laps_env.traces.importers.records import Sieve
from laps_env.utils.files import check_output, write_beside


def import_arrivals(source: Path, output: Path, sieve: Sieve) -> str:
    """Write the arrivals as Mooncake's JSONL; what they are."""
    trace = read_arrivals(source, sieve)
    rows = zip(trace.arrival_ns, trace.prompt_tokens, trace.output_tokens, strict=True)
    lines = [
        json.dumps(
            {
                "timestamp": int(time) / 1e6,
                "input_length": int(prompt),
                "output_length": int(length),
            }
        )
        for time, prompt, length in rows
    ]
    write_beside(output, [("\n".join(lines) + "\n").encode()])
    return f"{len(lines)} requests in {trace.arrival_ns[-1] * 1e-9:.0f} s"


def import_acceptance(given: argparse.Namespace, sieve: Sieve) -> str:
    """Write the acceptance trace; what it holds."""
    info = TraceInfo(drafter=given.drafter, target_model=given.target, draft_model=given.draft)
    plain = given.drafter == "draft-model"
    if given.format == "vllm":
        trace = import_vllm(given.source, info, plain_draft=plain, sieve=sieve)
    else:
        length = given.draft_length
        trace = import_spec_bench(
            given.source,
            info,
            plain_draft=plain,
            draft_length=int(length) if length and length.isdecimal() else length,
            questions=given.questions,
            sieve=sieve,
        )
    trace.save(given.output)
    return (
        f"{trace.num_requests} requests of {len(trace.categories)} categories, "
        f"{trace.observed_share:.0%} of their positions observed"
    )


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    formats = parser.add_subparsers(dest="format", required=True)
    for name, text in (
        ("arrivals", "Azure's or BurstGPT's CSV, Mooncake's JSONL"),
        ("vllm", "responses with per-request speculative metrics, JSONL"),
        ("spec-bench", "Spec-Bench's or EAGLE's answer file, JSONL"),
    ):
        own = formats.add_parser(name, help=text, description=text)
        own.add_argument("source", type=Path)
        own.add_argument(
            "output", type=Path, help=".jsonl" if name == "arrivals" else ".safetensors"
        )
        own.add_argument("--skip-bad", action="store_true", help="leave malformed lines out")
        if name != "arrivals":
            own.add_argument("--drafter", default="draft-model", help="or eagle, ngram, ...")
            own.add_argument("--target", default="not recorded", help="name of the target")
            own.add_argument("--draft", default="", help="name of the draft model")
        if name == "spec-bench":
            own.add_argument("--draft-length", help="of rounds that do not say it, or 'heuristic'")
            own.add_argument("--questions", type=Path, help="to estimate prompt lengths")
    given = parser.parse_args(argv)
    sieve = Sieve(skip_bad=given.skip_bad, skip_failed=True)
    with errors_as_messages(parser):
        ending = ".jsonl" if given.format == "arrivals" else ".safetensors"
        if given.output.suffix != ending:
            raise ValueError(f"output: expected a file ending in {ending}, got {given.output}")
        check_output(given.output, given.source, getattr(given, "questions", None))
        if given.format == "arrivals":
            written = import_arrivals(given.source, given.output, sieve)
        else:
            written = import_acceptance(given, sieve)
        for kind, count in sieve.dropped.items():
            print(f"left out: {count} {kind}, the first: {one_line(sieve.first[kind])}")
        print(f"{given.output}: {written}")


if __name__ == "__main__":
    main()

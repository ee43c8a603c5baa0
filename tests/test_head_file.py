"""Draft heads in files: they come back as they were, and a broken one says where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from checkpoints import cut, random_head  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from laps_env.live.engine.head_file import load_head, save_head  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_head_comes_back_within_half_a_step_of_int8(tmp_path: Path) -> None:
    head = random_head()
    with torch.no_grad():
        head.frequent.copy_(torch.randperm(23)[:20])
        head.last_norm.weight.uniform_()
        head.fuse.weight[3] = 0.0
        head.fuse.weight[4] *= 1e4
    card = {"trained_on": "a text", "accepted": [0.5, 1]}
    save_head(tmp_path / "new" / "folder", head, card)
    again = load_head(tmp_path / "new" / "folder")
    assert again.config == head.config
    assert not again.training
    state = again.state_dict()
    for name, weight in head.state_dict().items():
        assert state[name].dtype == weight.dtype
        if weight.dim() == 1:
            assert torch.equal(state[name], weight)
        else:
            bound = weight.abs().amax(1) / 127 / 2
            assert bool(((state[name] - weight).abs().amax(1) <= bound * 1.001).all())
    description = json.loads((tmp_path / "new" / "folder" / "head.json").read_text())
    assert description["card"] == card
    save_head(tmp_path / "new" / "folder", again, card)  # over the old one, and stable
    third = load_head(tmp_path / "new" / "folder").state_dict()
    assert all(torch.allclose(third[name], state[name], rtol=1e-6) for name in state)


def test_a_head_that_cannot_be_saved(tmp_path: Path) -> None:
    head = random_head()
    with pytest.raises(ValueError, match=r"head\.json: expected what JSON can hold"):
        save_head(tmp_path, head, {"accepted": float("nan")})
    with torch.no_grad():
        head.out.weight[1, 1] = float("inf")
    with pytest.raises(ValueError, match=r"finite weights, got NaN or infinity in out\.weight"):
        save_head(tmp_path, head, {})
    assert list(tmp_path.iterdir()) == []


def change_head(member: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "head.json"
        description = json.loads(path.read_text())
        inner, _, name = member.rpartition(".")
        (description[inner] if inner else description)[name] = value
        path.write_text(json.dumps(description))

    return change


def change_tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Replace a tensor (None: remove it) in a file that is as whole as before."""

    def rewrite(folder: Path) -> None:
        path = folder / "head.safetensors"
        tensors = load_file(path)
        changed = change(tensors.pop(name, None))
        save_file(tensors if changed is None else {**tensors, name: changed}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        change_head("sha256", digest)(folder)

    return rewrite


def not_safetensors(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes(b"nothing")
    change_head("sha256", hashlib.sha256(b"nothing").hexdigest())(folder)


BROKEN_HEADS: dict[str, tuple[Callable[[Path], None], str]] = {
    "half a description": (cut("head.json", 50), r"head\.json: expected JSON, got"),
    "another format": (change_head("format", "x"), "format: expected 'laps-env draft head', got"),
    "another version": (change_head("version", 2), "version: expected 1, got 2"),
    "no config": (change_head("config", None), "config: expected an object, got None"),
    "another member": (change_head("config.depth", 2), r"config\.depth: expected no such"),
    "a size of nought": (change_head("config.inner", 0), r"config\.inner: expected .* >= 1, got 0"),
    "a huge size": (
        change_head("config.inner", 2**70),
        r"config\.inner: expected .* <= 16777216, got 1",
    ),
    "a text for a size": (change_head("config.width", "32"), r"config\.width: expected .* '32'"),
    "odd heads": (change_head("config.heads", 5), r"config\.width: .* twice the 5 heads, got 32"),
    "no turning": (change_head("config.rope_theta", -1), r"config\.rope_theta: .* got -1"),
    "other sizes": (
        change_head("config.inner", 40),
        r"head\.safetensors: (up|down)\.weight.*: expected torch.* \[.*\], got .* \[.*\]",
    ),
    "no weights": (
        lambda folder: (folder / "head.safetensors").unlink(),
        r"head\.safetensors: expected the head's weights, got",
    ),
    "half the weights": (cut("head.safetensors", 5000), r"expected the sha256 .* \(5000 bytes\)"),
    "no digest": (change_head("sha256", 5), "sha256: expected a text, got 5"),
    "no safetensors": (not_safetensors, "expected safetensors, got"),
    "a tensor less": (
        change_tensor("out.weight", lambda _: None),
        r"\['out.weight'\] missing, \[\] unknown",
    ),
    "a tensor more": (
        change_tensor("x", lambda _: torch.zeros(1)),
        r"\[\] missing, \['x'\] unknown",
    ),
    "another type": (
        change_tensor("out.weight", lambda t: t.float()),
        r"out\.weight: expected torch.int8 \[32, 32\], got torch.float32 \[32, 32\]",
    ),
    "another shape": (
        change_tensor("out.weight.scale", lambda t: t[:-1].clone()),
        r"out\.weight\.scale: expected torch.float32 \[32\], got torch.float32 \[31\]",
    ),
    "a scale of nan": (
        change_tensor("out.weight.scale", lambda t: t * torch.nan),
        r"out\.weight\.scale: expected finite numbers, got NaN or infinity",
    ),
    "a token twice": (
        change_tensor("frequent", lambda t: t.clamp(min=1)),
        "frequent: expected different token ids >= 0, got 19 different ones of 20, the least 1",
    ),
}


@pytest.mark.parametrize("what", BROKEN_HEADS)
def test_broken_heads(tmp_path: Path, what: str) -> None:
    spoil, message = BROKEN_HEADS[what]
    broken = tmp_path / "head"
    save_head(broken, random_head(), {})
    spoil(broken)
    with pytest.raises(ValueError, match=message) as caught:
        load_head(broken)
    assert str(broken) in str(caught.value)

"""What a GPU runs as captured graphs, as far as a CPU can tell: shapes, memory, no waiting."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import LENGTH, tiny_model  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from laps_env.live.engine.kv_slots import SlotModel, longest_context  # noqa: E402
from laps_env.live.engine.slot_pass import SlotPass  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINAL = 40  # context of the models whose rotary embedding changes beyond it

ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "dynamic": {"factor": 2.0},
    "longrope": {
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
        "original_max_position_embeddings": ORIGINAL,
    },
}


def model_of(kind: str, rope: str = "default", width: int = 32) -> Any:
    """A tiny model of another architecture or rotary embedding."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=23,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": rope, "rope_theta": 1e4, **ROPES[rope]},
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        **({"original_max_position_embeddings": ORIGINAL} if kind == "Phi3" else {}),
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


class Meetings(TorchDispatchMode):
    """Operations in which a tensor of the host meets one of the device: a copy, or a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.seen[func.overloadpacket.__name__] += 1
        return out


def trace(run: SlotPass) -> Counter[str]:
    """What meets the host in a pass of [2, 4] tokens on the meta device, when the cache is there.

    Its tensors have no content; an operation that depends on it raises, as it would in a capture.
    """
    tokens = torch.zeros(2, 4, dtype=torch.long, device="meta")
    for _ in range(2):
        with torch.inference_mode(), Meetings() as meetings:
            run(tokens, tokens[:, 0], tokens[:, 0], visible=32)
    return meetings.seen


@pytest.mark.parametrize(
    ("kind", "rope"),
    [("Llama", "default"), ("Llama", "llama3"), ("Qwen2", "default"), ("Qwen3", "default")],
)
def test_a_captured_pass_never_meets_the_host(kind: str, rope: str) -> None:
    model = model_of(kind, rope).to("meta", torch.bfloat16)
    assert trace(SlotPass(model, 4, 33)) == {}


def test_a_dynamic_rotary_embedding_is_not_captured() -> None:
    """It asks the device for the longest position, which the trace would tell."""
    with pytest.raises(RuntimeError, match="meta tensors"):
        trace(SlotPass(model_of("Llama", "dynamic").to("meta"), 4, 33))
    assert SlotModel(model_of("Llama", "dynamic"), 4, 32, graphs=True)._graphs is None


@pytest.mark.parametrize(
    ("kind", "rope", "longest"),
    [("Llama", "dynamic", LENGTH - 1), ("Phi3", "longrope", ORIGINAL - 1)],
)
def test_a_changing_rotary_embedding_stays_within_its_original_context(
    kind: str, rope: str, longest: int
) -> None:
    """A neighbour whose padding lies past the end of its slot changes nothing."""
    model = model_of(kind, rope)
    assert longest_context(model) == longest
    with pytest.raises(ValueError, match=rf"length: expected 1\.\.{longest}, .* {longest + 1}"):
        SlotModel(model, 2, longest + 1)
    slots = SlotModel(model, 2, longest)
    slots.prefill(0, [9] * (longest - 1), 0)
    text = [6, 7, 8, 9, 10]
    alone = slots.forward([1], [text], [0]).logits[0]
    beside = slots.forward([0, 1], [[7], text], [longest - 1, 0]).logits[1]
    torch.testing.assert_close(beside, alone)


def test_a_batch_is_filled_up_with_one_spare_slot() -> None:
    """33 sequences of 48 slots run as a batch of 64, in a cache of 49 rows."""
    model = tiny_model()
    rows, starts = list(range(33)), [0] * 33
    tokens = [[6 + k % 7, 7, 8][: 1 + k % 3] for k in rows]
    filled, exact = (SlotModel(model, 48, 20, graphs=graphs) for graphs in (True, False))
    for _ in range(2):  # the second pass reads what the first has written
        outs = [m.forward(rows, tokens, starts) for m in (filled, exact)]
        for k, fed in enumerate(tokens):
            own = [out.logits[k, : len(fed)] for out in outs]
            torch.testing.assert_close(own[0], own[1])
        starts = [len(fed) for fed in tokens]
    # keys and values of 2 layers: 2 heads of width 8, 20 tokens and one for padding, float32
    caches = [sum(p.keys.nbytes + p.values.nbytes for p in m._pass.layers) for m in (filled, exact)]
    assert caches == [49 * 2 * 2 * 2 * 8 * 21 * 4, 48 * 2 * 2 * 2 * 8 * 21 * 4]


@pytest.mark.parametrize("graphs", [True, False])
def test_a_cache_goes_when_its_engine_does(graphs: bool) -> None:
    model = SlotModel(tiny_model(), 2, 32, graphs=graphs)
    model.forward([0], [[1, 2]], [0])
    keys = weakref.ref(model._pass.layers[0].keys)
    gc.disable()
    try:
        del model
        assert keys() is None
    finally:
        gc.enable()


def test_an_offloaded_cache_is_one_piece() -> None:
    model = SlotModel(tiny_model(), 4, 32)
    model.forward([1], [[6, 7, 8]], [0])
    stored = model.read(1, 3)
    assert stored.shape == (4, 2, 3, 8)  # keys and values of 2 layers
    assert stored.is_contiguous()
    model.write(2, stored)
    for layer in model._pass.layers:
        for part in (layer.keys, layer.values):
            assert torch.equal(part[1, :, :3], part[2, :, :3])
            assert part[1, :, :3].any()


def test_a_gpu_has_graphs_and_no_cudnn_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "device", torch.device("cuda"))
    try:
        assert SlotModel(tiny_model(), 4, 32)._graphs is not None
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.gpu
def test_captured_passes_equal_those_in_place() -> None:
    """In float32, by replay and by a second capture in the same memory; offloads are pinned."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model = tiny_model().cuda()
    captured, in_place = (SlotModel(model, 4, 64, graphs=graphs) for graphs in (True, False))
    for batch, count, start in ((3, 5, 0), (2, 1, 5), (2, 1, 5), (3, 5, 0)):
        tokens = [[6 + k, 7, 8, 9, 10][:count] for k in range(batch)]
        fed = list(range(batch)), tokens, [start] * batch
        outs = [m.forward(*fed) for m in (captured, in_place)]
        torch.testing.assert_close(outs[0].logits, outs[1].logits)
        torch.testing.assert_close(outs[0].hidden, outs[1].hidden)
    stored = captured.read(1, 6)
    assert stored.is_pinned()
    captured.write(3, stored)
    assert torch.equal(captured.read(3, 6), stored)

"""The pass for a GPU in half precision, by a slow attention in place of the GPU's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_graphs import model_of, trace  # noqa: E402
from tiny_models import tiny_model  # noqa: E402

from laps_env.live.engine import flash_pass  # noqa: E402
from laps_env.live.engine.flash_pass import FlashPass  # noqa: E402
from laps_env.live.engine.graphs import GraphedPasses  # noqa: E402
from laps_env.live.engine.kv_slots import SlotModel  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [("Llama", "default"), ("Llama", "llama3"), ("Qwen2", "default"), ("Qwen3", "default")]


def attend(queries: Any, keys: Any, values: Any, reads: Any, scale: float) -> Any:
    """What flash attention computes, token by token and head by head."""
    out = torch.zeros_like(queries)
    group = queries.shape[1] // keys.shape[1]
    for k, (begin, used) in enumerate(zip(reads.begins[:-1], reads.used, strict=True)):
        first, last = reads.queries[k], reads.queries[k + 1]
        for token in range(first, last):
            seen = slice(begin, begin + used - (last - 1 - token))
            for head in range(queries.shape[1]):
                weights = (keys[seen, head // group] @ queries[token, head] * scale).softmax(0)
                out[token, head] = weights @ values[seen, head // group]
    return out


def in_place(model: Any, slots: int, length: int) -> SlotModel:
    """Slots read in place, on the CPU."""
    made = SlotModel(model, slots, length, graphs=True)
    made._pass = FlashPass(model, slots + 1, length + 1)
    made._graphs = GraphedPasses(made._pass, torch.device("cpu"))
    return made


@pytest.mark.parametrize(("kind", "rope"), KINDS)
def test_it_computes_what_the_model_does(
    kind: str, rope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged batches in any order of slots, later ones over the caches of earlier ones."""
    monkeypatch.setattr(flash_pass, "attend", attend)
    model = model_of(kind, rope)
    reference = SlotModel(copy.deepcopy(model), 4, 20)
    slots = in_place(model, 4, 20)
    starts = [0] * 4
    for chosen, counts in [([2, 0, 3], [5, 2, 1]), ([3, 1], [4, 6]), ([1, 2, 0, 3], [1, 3, 9, 2])]:
        tokens = [[6 + (k + i) % 9 for i in range(n)] for k, n in zip(chosen, counts, strict=True)]
        fed = chosen, tokens, [starts[k] for k in chosen]
        found, expected = slots.forward(*fed), reference.forward(*fed)
        for k, n in enumerate(counts):
            torch.testing.assert_close(found.logits[k, :n], expected.logits[k, :n])
            torch.testing.assert_close(found.hidden[k, :n], expected.hidden[k, :n])
            assert torch.equal(found.choices[k, :n], expected.choices[k, :n])
        for k, n in zip(chosen, counts, strict=True):
            starts[k] += n
    moved = slots.read(1, 7)
    slots.write(2, moved)
    assert torch.equal(slots.read(2, 7), moved)
    torch.testing.assert_close(moved, reference.read(1, 7))


def test_joined_weights_are_the_model_s_own_and_are_joined_once() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    passes = [FlashPass(model, 2, 8) for _ in range(2)]
    joined = [one._layers[1].project[0].data_ptr() for one in passes]
    assert joined[0] == joined[1] == model.model.layers[1].self_attn.q_proj.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("kind", "rope"), KINDS)
def test_a_captured_pass_never_meets_the_host(kind: str, rope: str) -> None:
    assert trace(FlashPass(model_of(kind, rope).to("meta", torch.bfloat16), 4, 33)) == {}


def test_it_is_for_half_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 texts are compared bit by bit with those of transformers' own pass."""
    model = tiny_model()
    assert not FlashPass.can_run(model)
    assert FlashPass.can_run(model.to(torch.bfloat16))
    assert not isinstance(SlotModel(model, 2, 8, graphs=True)._pass, FlashPass)


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "rope"), KINDS)
def test_flash_attention_over_slots_equals_a_gather(kind: str, rope: str) -> None:
    """In bfloat16, as near to float32 as the model's own pass is, by up to twice."""
    model = model_of(kind, rope).cuda()
    exact = SlotModel(copy.deepcopy(model), 4, 64, graphs=False)
    half = model.to(torch.bfloat16)
    own = SlotModel(copy.deepcopy(half), 4, 64, graphs=False)
    flash = SlotModel(half, 4, 64)
    assert isinstance(flash._pass, FlashPass)
    start = 0
    for count in (20, 1, 5, 8):
        tokens = [[6 + (k + i) % 9 for i in range(count)] for k in range(3)]
        fed = [3, 0, 1], tokens, [start] * 3
        expected, near, found = (m.forward(*fed).logits.float() for m in (exact, own, flash))
        assert (found - expected).norm() < 2 * (near - expected).norm()
        start += count

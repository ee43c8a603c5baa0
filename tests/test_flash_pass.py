"""The pass for a GPU in half precision; without one, with plain PyTorch in place of its kernels."""

from __future__ import annotations

import copy
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import plain_kernels  # noqa: E402
from test_graphs import model_of  # noqa: E402
from tiny_models import tiny_model  # noqa: E402

if not torch.cuda.is_available():
    sys.modules["laps_env.live.engine.kernels"] = plain_kernels

from laps_env.live.engine import flash_pass  # noqa: E402
from laps_env.live.engine.flash_pass import FlashPass  # noqa: E402
from laps_env.live.engine.graphs import GraphedPasses  # noqa: E402
from laps_env.live.engine.kv_slots import SlotModel, suits_flash  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

on_the_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the kernels are those for tensors of the GPU"
)

WIDTH = 64  # of models whose heads are 16 wide, the least that Triton multiplies
KINDS = [("Llama", "llama3"), ("Qwen2", "default"), ("Qwen3", "default")]


@on_the_cpu
@pytest.mark.parametrize(("kind", "rope"), KINDS)
def test_it_computes_what_the_model_does(
    kind: str, rope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged batches in any order of slots, later ones over the caches of earlier ones."""
    monkeypatch.setattr(flash_pass, "_attend_many", plain_kernels.attend)
    model = model_of(kind, rope, WIDTH)
    reference = SlotModel(copy.deepcopy(model), 4, 20)
    slots = SlotModel(model, 4, 20, graphs=True)
    slots._pass = FlashPass(model, 5, 21)
    slots._graphs = GraphedPasses(slots._pass, torch.device("cpu"))
    starts = [0] * 4
    for chosen, counts in [([2, 0, 3], [5, 2, 1]), ([3, 1], [1, 2]), ([1, 0], [1, 1])]:
        tokens = [[6 + (k + i) % 9 for i in range(n)] for k, n in zip(chosen, counts, strict=True)]
        fed = chosen, tokens, [starts[k] for k in chosen]
        found, expected = slots.forward(*fed), reference.forward(*fed)
        for k, n in enumerate(counts):
            for own, right in zip(found, expected, strict=True):
                torch.testing.assert_close(own[k, :n], right[k, :n])
        for k, n in zip(chosen, counts, strict=True):
            starts[k] += n
    moved = slots.read(0, 3)
    slots.write(1, moved)
    assert torch.equal(slots.read(1, 3), moved)
    torch.testing.assert_close(moved, reference.read(0, 3))


def test_joined_weights_are_the_model_s_own_and_are_joined_once() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    passes = [FlashPass(model, 2, 8) for _ in range(2)]
    joined = [one._layers[1].project[0].data_ptr() for one in passes]
    assert joined[0] == joined[1] == model.model.layers[1].self_attn.q_proj.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_for_half_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 texts are compared bit by bit with those of transformers' own pass."""
    monkeypatch.setattr("laps_env.live.engine.kv_slots.find_spec", lambda name: name)
    model = model_of("Llama", "default", WIDTH)
    assert not suits_flash(model)
    assert suits_flash(model.to(torch.bfloat16))
    assert not suits_flash(model_of("Llama").to(torch.bfloat16))  # narrow heads
    assert not isinstance(SlotModel(model, 2, 8, graphs=True)._pass, FlashPass)


@pytest.mark.gpu
@pytest.mark.parametrize("parts", [1, 4])
def test_attention_reads_each_slot_as_far_as_it_is_filled(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read in parts, of which some see nothing; the last cells hold what is not a number."""
    from laps_env.live.engine import kernels

    monkeypatch.setattr(kernels, "FEW", 256 // parts)
    torch.manual_seed(0)
    queries = torch.randn(2, 3, 4, 16, device="cuda")
    keys, values = torch.randn(2, 3, 256, 2, 16, device="cuda")
    starts, slots = torch.tensor([[70, 0], [2, 0]], device="cuda")
    keys[0, 3:], values[2, 73:] = torch.nan, torch.nan
    given = queries, keys, values, starts, slots, 0.25
    # rounded to TF32
    torch.testing.assert_close(
        kernels.attend(*given), plain_kernels.attend(*given), atol=2e-3, rtol=2e-3
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "rope"), KINDS)
def test_it_is_as_exact_as_the_model_s_own_pass(kind: str, rope: str) -> None:
    """In bfloat16: as near to float32, by up to twice; one token, several, and a prefill."""
    model = model_of(kind, rope, WIDTH).cuda()
    exact = SlotModel(copy.deepcopy(model), 4, 64, graphs=False)
    half = model.to(torch.bfloat16)
    own = SlotModel(copy.deepcopy(half), 4, 64, graphs=False)
    flash = SlotModel(half, 4, 64)
    assert isinstance(flash._pass, FlashPass)
    start = 0
    for count in (34, 1, 5, 8):
        tokens = [[6 + (k + i) % 9 for i in range(count)] for k in range(3)]
        fed = [3, 0, 1], tokens, [start] * 3
        expected, near, found = (m.forward(*fed).logits.float() for m in (exact, own, flash))
        assert (found - expected).norm() < 2 * (near - expected).norm()
        start += count

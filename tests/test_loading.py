"""Loading real models: what is accepted, what is refused, and that nothing reaches the network."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from checkpoints import LENGTH, WORDS, cut, random_head, save_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from laps_env.live.engine import loading  # noqa: E402
from laps_env.live.engine.head_file import save_head  # noqa: E402
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, PROMPT_LOOKUP, load_pair  # noqa: E402
from laps_env.live.engine.stopping import Stopping  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that something tried to find; none is found."""
    asked: list[str] = []

    def refuse(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target; copied by whoever breaks it."""
    return save_model(tmp_path_factory.mktemp("models") / "target")


@pytest.fixture(scope="module")
def head_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "head"
    save_head(folder, random_head(), {"trained_on": "nothing"})
    return folder


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "broken"))


@pytest.mark.parametrize("kind", ["draft-model", "eagle", "ngram"])
def test_every_kind_of_drafter_serves_a_round(
    folder: Path, head_folder: Path, kind: str, lookups: list[str]
) -> None:
    draft = {"draft-model": folder, "eagle": head_folder, "ngram": PROMPT_LOOKUP}[kind]
    pair = load_pair(str(folder), str(draft), device="cpu")
    assert (pair.drafter_kind, pair.target_name, pair.draft_name) == (kind, str(folder), str(draft))
    assert pair.target.dtype == torch.float32
    assert not pair.target.training
    assert pair.context == LENGTH
    engine = pair.engine(slots=2, length=LENGTH)
    assert engine.stopping == Stopping(frozenset({1, 2}))
    prompt = pair.tokenizer("w3 w4 w5 w3 w4")["input_ids"]
    assert prompt == [3, 4, 5, 3, 4]
    g = engine.start(prompt, 20)
    (result,) = engine.run_round([g], 3)
    assert result.drafted == 3
    assert g.output == result.committed
    assert pair.engine(slots=1, length=8, stopping=Stopping()).stopping == Stopping()
    assert lookups == []


def test_the_context_is_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    draft = save_model(tmp_path / "draft", max_position_embeddings=50)
    pair = load_pair(folder, draft, device="cpu")
    assert pair.context == 50
    pair.engine(slots=1, length=50)
    with pytest.raises(ValueError, match=r"length: expected 1\.\.50"):
        pair.engine(slots=1, length=51)


def test_stop_tokens_come_from_the_model_or_else_the_tokenizer(tmp_path: Path) -> None:
    for eos, expected in ((7, {7}), (None, {1})):
        own = save_model(tmp_path / str(eos), eos_token_id=eos)
        assert load_pair(own, PROMPT_LOOKUP, device="cpu").stop_tokens == expected


@pytest.mark.parametrize("tokens", [20, 40])
def test_a_draft_with_other_padding_gets_the_target_s_logits(tmp_path: Path, tokens: int) -> None:
    """Families pad their vocabularies apart: 152064 and 151936 logits for the same tokens."""
    words = WORDS[:20]
    target = save_model(tmp_path / "target", words, tokens=30)
    draft = save_model(tmp_path / "draft", words, tokens=tokens, tie_word_embeddings=tokens == 20)
    pair = load_pair(target, draft, device="cpu")
    assert isinstance(pair.draft, transformers.PreTrainedModel)
    with torch.no_grad():
        logits = pair.draft(torch.tensor([[3, 4, 29]])).logits
    assert logits.shape == (1, 3, 30)
    same = min(tokens, 30)
    original = transformers.AutoModelForCausalLM.from_pretrained(draft)
    with torch.no_grad():
        expected = original(torch.tensor([[3, 4]])).logits[..., :same]
    torch.testing.assert_close(logits[:, :2, :same], expected)
    assert not logits[..., same:].any()


def test_dtype_and_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = load_pair(folder, folder, device="cpu", dtype="bfloat16").draft
    assert isinstance(draft, transformers.PreTrainedModel)
    assert draft.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype: expected one of \['auto', .*, got 'int8'"):
        load_pair(folder, PROMPT_LOOKUP, dtype="int8")
    for device in ("tpu", "cuda:x", "cpu:0", ""):
        with pytest.raises(ValueError, match="device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'"):
            load_pair(folder, PROMPT_LOOKUP, device=device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert load_pair(folder, PROMPT_LOOKUP).target.device.type == "cpu"
    with pytest.raises(ValueError, match="expected a GPU for 'cuda', got a machine with 0"):
        load_pair(folder, PROMPT_LOOKUP, device="cuda")


@pytest.mark.parametrize("drafter", ["model", "head", PROMPT_LOOKUP])
def test_a_pair_in_bfloat16_serves(folder: Path, head_folder: Path, drafter: str) -> None:
    """What a GPU loads unless it is told otherwise, with an offload on the way."""
    draft = {"model": folder, "head": head_folder}.get(drafter, drafter)
    pair = load_pair(folder, draft, device="cpu", dtype="bfloat16")
    engine = pair.engine(slots=2, length=LENGTH, stopping=Stopping())
    batch = [engine.start([3, 4, 5, 3, 4][:n], 20) for n in (2, 5)]
    drafted = 0
    while running := [g for g in batch if not g.finished]:
        drafted += sum(r.drafted for r in engine.run_round(running, 3))
        engine.offload(batch[1])
    assert [len(g.output) for g in batch] == [20, 20]
    assert drafted > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_float32_is_without_tf32(folder: Path, head_folder: Path) -> None:
    assert load_pair(folder, folder).target.dtype == torch.bfloat16
    torch.backends.cuda.matmul.allow_tf32 = True
    for draft in (folder, head_folder, PROMPT_LOOKUP):
        pair = load_pair(folder, draft, device="cuda", dtype="float32")
        engine = pair.engine(slots=1, length=LENGTH)
        engine.run_round([engine.start([3, 4, 5, 3, 4], 20)], 3)
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone/model", "a/b/c", "models/gone"])
def test_a_missing_folder_never_reaches_the_network(
    folder: Path, name: str, lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DEMO_TARGET", Path("models/demo"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    expected = f"expected a folder with config.json in the folder '{name}', got none there"
    with pytest.raises(ValueError, match=f"target: {expected}"):
        load_pair(name, PROMPT_LOOKUP)
    with pytest.raises(ValueError, match=f"draft: {expected}"):
        load_pair(folder, name, device="cpu")
    assert lookups == []


def test_a_missing_demo_says_how_to_get_it(
    lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DEMO_TARGET", Path("models/demo"))
    with pytest.raises(ValueError, match="got none there; run `make demo-models`"):
        load_pair("models/demo", PROMPT_LOOKUP)
    assert lookups == []


def test_a_hub_model_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="expected a configuration in the hub model 'no-one/none'"):
        load_pair("no-one/none", PROMPT_LOOKUP)


def change_config(**members: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **members}))

    return change


def pickled_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "expected a folder with config.json .*, got one without",
    ),
    "half a config": (cut("config.json", 40), "expected a configuration .* not a valid JSON"),
    "a wrong config": (change_config(num_hidden_layers="x"), "expected a configuration .* str"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "expected weights in safetensors .* no file named model.safetensors",
    ),
    "pickled weights": (pickled_weights, "expected weights in safetensors .* no file named"),
    "half the weights": (cut("model.safetensors", 9000), "expected weights .* SafetensorError"),
    "half a header": (cut("model.safetensors", 100), "expected weights .* SafetensorError"),
    "missing layers": (
        change_config(num_hidden_layers=3),
        "expected the weights that config.json describes .* 9 missing keys, the first model.layers",
    ),
    "other shapes": (change_config(intermediate_size=64), "config.json describes .* mismatched"),
    "an encoder": (change_config(model_type="bert"), "a causal language model .* got bert"),
    "two halves": (change_config(model_type="t5"), "a causal language model .* got t5"),
    "a classifier": (
        change_config(architectures=["LlamaForSequenceClassification"]),
        r"a causal language model .* got llama \['LlamaForSequenceClassification'\]",
    ),
    "code of its own": (
        change_config(model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "expected a configuration .* custom code",
    ),
    "half a tokenizer": (cut("tokenizer.json", 60), "expected a tokenizer .*, got"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("role", ["target", "draft"])
def test_broken_checkpoints(
    folder: Path, broken: Path, role: str, what: str, lookups: list[str]
) -> None:
    spoil, message = BROKEN[what]
    spoil(broken)
    names = (broken, PROMPT_LOOKUP) if role == "target" else (folder, broken)
    with pytest.raises(ValueError, match=f"(?s){role}: .*{message}") as caught:
        load_pair(*names, device="cpu")
    assert str(broken) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert lookups == []


def test_a_draft_needs_the_target_s_vocabulary(folder: Path, tmp_path: Path) -> None:
    swapped = save_model(tmp_path / "swapped", [*WORDS[:20], WORDS[21], WORDS[20], WORDS[22]])
    with pytest.raises(ValueError, match=r"vocabulary of 21 tokens .*, got 21 .* 19 of them the s"):
        load_pair(folder, swapped, device="cpu")
    for words, expected in ((WORDS[:20], "vocabulary of 23 tokens .*, got 20 tokens"), (WORDS, "")):
        mute = save_model(tmp_path / f"mute{len(words)}", words)
        for file in mute.glob("tokenizer*"):
            file.unlink()
        if not expected:
            assert load_pair(folder, mute, device="cpu").drafter_kind == "draft-model"
            continue
        with pytest.raises(ValueError, match=f"draft: expected the target's {expected}"):
            load_pair(folder, mute, device="cpu")


def test_a_target_needs_a_tokenizer(broken: Path) -> None:
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="target: expected a tokenizer in the folder"):
        load_pair(broken, PROMPT_LOOKUP, device="cpu")


@pytest.mark.parametrize("sizes", [{"width": 64}, {"frequent_tokens": 24}])
def test_a_head_of_another_target_is_refused(
    folder: Path, tmp_path: Path, sizes: dict[str, int]
) -> None:
    save_head(tmp_path, random_head(**sizes), {})
    with pytest.raises(ValueError, match="draft head: expected width 32 and tokens below 23"):
        load_pair(folder, tmp_path, device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(not DEMO_TARGET.is_dir(), reason=f"no {DEMO_TARGET}: run make demo-models")
@pytest.mark.parametrize("draft", [PROMPT_LOOKUP, DEMO_DRAFT], ids=["lookup", "head"])
def test_the_demo_answers_as_transformers_does(draft: str | Path) -> None:
    if draft == DEMO_DRAFT and not DEMO_DRAFT.is_dir():
        pytest.skip(f"no {DEMO_DRAFT}")
    pair = load_pair(DEMO_TARGET, draft, device="cpu")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = pair.tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    engine = pair.engine(slots=1, length=128)
    g = engine.start(prompt, 32)
    while not g.finished:
        engine.run_round([g], 4)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(DEMO_TARGET, dtype=torch.float32)
    text = fresh.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)
    assert g.output == text[0, len(prompt) :].tolist()
    assert g.output[-1] in pair.stop_tokens
    assert "Paris" in pair.tokenizer.decode(g.output)

"""Loading real models: what is accepted, what is refused, and that nothing reaches the network."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402

from laps_env.live.engine import loading  # noqa: E402
from laps_env.live.engine.engine import Stopping  # noqa: E402
from laps_env.live.engine.head import DraftHead, HeadConfig  # noqa: E402
from laps_env.live.engine.head_file import load_head, save_head  # noqa: E402
from laps_env.live.engine.loading import DEMO_DRAFT, DEMO_TARGET, PROMPT_LOOKUP, load_pair  # noqa: E402

WORDS = [f"w{i}" for i in range(23)]
WIDTH, LENGTH = 32, 96


def save_model(folder: Path, words: list[str] = WORDS, *, tokens: int = 0, **options: Any) -> Path:
    """A random tiny Llama with a tokenizer of whole words."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": tokens or len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": LENGTH,
            "eos_token_id": [1, 2],
            **options,
        }
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=words[0], eos_token=words[1]
    ).save_pretrained(folder)
    return folder


def random_head(**sizes: int) -> DraftHead:
    torch.manual_seed(1)
    config = {"width": WIDTH, "heads": 4, "inner": 48, "frequent_tokens": 20, **sizes}
    return DraftHead(HeadConfig(rope_theta=10_000.0, **config))


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


def cut(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return spoil


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
def test_broken_heads(head_folder: Path, tmp_path: Path, what: str) -> None:
    spoil, message = BROKEN_HEADS[what]
    broken = Path(shutil.copytree(head_folder, tmp_path / "head"))
    spoil(broken)
    with pytest.raises(ValueError, match=message) as caught:
        load_head(broken)
    assert str(broken) in str(caught.value)


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

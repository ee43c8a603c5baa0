"""A target and its drafter from folders or the Hugging Face hub, and the pair of the demo.

Nothing is downloaded unless a model of the hub is named, no code from a checkpoint is run, and
weights are read from safetensors only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from laps_env.live.engine.drafters import Drafter, DraftModel, PromptLookup
from laps_env.live.engine.engine import Engine
from laps_env.live.engine.head import DraftHead
from laps_env.live.engine.head_drafter import HeadDrafter
from laps_env.live.engine.head_file import DESCRIPTION, load_head
from laps_env.live.engine.kv_slots import longest_context
from laps_env.live.engine.random_weights import RANDOM, RandomWeights
from laps_env.live.engine.stopping import Stopping
from laps_env.live.engine.verification import Decoding

#: Where `make demo-models` puts its model, and the draft head for it that comes with the package.
DEMO_TARGET = Path(os.environ.get("LAPS_ENV_MODELS", "models")) / "smollm2-135m-instruct"
DEMO_DRAFT = Path(str(files("laps_env") / "data" / "draft"))

#: The draft that is no model: `PromptLookup`.
PROMPT_LOOKUP = "prompt-lookup"

DrafterKind = Literal["draft-model", "eagle", "ngram"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, eq=False)
class Pair:
    """A target with its tokenizer, and what drafts for it.

    Attributes:
        target: Target model on its device, in its type.
        draft: Model with the target's vocabulary, head that reads the target's states, or None for
            prompt lookup.
        tokenizer: Tokenizer of the target.
        target_name, draft_name: Names as they were asked for.
        stop_tokens: End-of-sequence tokens of the target.
    """

    target: PreTrainedModel
    draft: PreTrainedModel | DraftHead | None
    tokenizer: Any
    target_name: str
    draft_name: str
    stop_tokens: frozenset[int]

    @property
    def drafter_kind(self) -> DrafterKind:
        """What drafts."""
        if self.draft is None:
            return "ngram"
        return "eagle" if isinstance(self.draft, DraftHead) else "draft-model"

    @property
    def context(self) -> int:
        """Most tokens of a sequence, for all the models of the pair."""
        models = [m for m in (self.target, self.draft) if isinstance(m, PreTrainedModel)]
        return min(longest_context(model) for model in models)

    def engine(
        self,
        *,
        slots: int,
        length: int,
        decoding: Decoding | None = None,
        stopping: Stopping | None = None,
    ) -> Engine:
        """An engine of its own; without ``stopping``, outputs end at the `stop_tokens`.

        Raises:
            ValueError: Slots longer than the context of a model, or an attention that the engine
                does not know.
        """
        return Engine(
            self.target,
            self._drafter(slots, length),
            slots=slots,
            length=length,
            decoding=decoding,
            stopping=Stopping(self.stop_tokens) if stopping is None else stopping,
        )

    def _drafter(self, slots: int, length: int) -> Drafter:
        if self.draft is None:
            return PromptLookup()
        if isinstance(self.draft, DraftHead):
            return HeadDrafter(self.draft, self.target, slots, length)
        return DraftModel(self.draft, slots, length)


def load_pair(
    target: str | Path, draft: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> Pair:
    """Load a target and its drafter.

    Args:
        target: Folder as transformers saves it, or name of a hub model, which is downloaded. What
            exists, starts with ``.``, ``/`` or ``~``, or lies in the demo's folder is a folder.
            ``"random:NAME"`` is a model of random weights (`RandomWeights`).
        draft: Folder, hub model or random weights likewise, folder of a draft head, or
            ``"prompt-lookup"``.
        device: Device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``; ``"auto"`` is a GPU where there is one.
        dtype: Type of the weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is
            float32 on a CPU and bfloat16 on a GPU. For float32 on a GPU the process stops using
            TF32: it is float32 in which the text is exactly the target's.

    Raises:
        ValueError: Device that is not there; folder or hub model that is missing, broken or no
            causal language model; draft with another vocabulary. The message names what was
            expected and what came.
    """
    where = _device(device)
    weights = _dtype(dtype, where)
    if where.type == "cuda" and weights == torch.float32:
        torch.backends.cuda.matmul.allow_tf32 = False
    source = _source("target", target)
    config, tokenizer = source.config(), source.tokenizer()
    drafts = _draft_loader(draft, config, tokenizer)
    model = source.model(config, where, weights)
    return Pair(
        model, drafts(model), tokenizer, str(target), str(draft), _stop_tokens(model, tokenizer)
    )


def _source(role: str, name: str | Path) -> _Checkpoint | RandomWeights:
    if str(name).startswith(RANDOM):
        return RandomWeights(role, str(name).removeprefix(RANDOM))
    return _Checkpoint(role, str(name), _folder(name))


def _device(name: str) -> torch.device:
    found = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"device: expected a GPU for {name!r}, got a machine with {found} of them")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in _DTYPES:
        raise ValueError(f"dtype: expected one of {['auto', *_DTYPES]}, got {name!r}")
    return _DTYPES[name]


def _folder(name: str | Path) -> Path | None:
    """The folder that is meant; None where a hub model is."""
    path = Path(name).expanduser()
    meant = (
        isinstance(name, Path)
        or path.exists()
        or path.is_relative_to(DEMO_TARGET.parent)
        or not _HUB_NAME.fullmatch(name)
    )
    return path if meant else None


def _draft_loader(
    draft: str | Path, config: Any, tokenizer: Any
) -> Callable[[PreTrainedModel], PreTrainedModel | DraftHead | None]:
    """How the draft is had once its target is there; what can fail before, fails here."""
    folder = _folder(draft)
    if draft == PROMPT_LOOKUP:
        return lambda target: None
    if folder is not None and (folder / DESCRIPTION).exists():
        head = load_head(folder)

        def fitting(target: PreTrainedModel) -> DraftHead:
            HeadDrafter(head, target, slots=1, length=1)  # refuses a head of another target
            return head

        return fitting
    source = _source("draft", draft)
    own = source.config()
    source.check_vocabulary(own, config, tokenizer)

    def sized(target: PreTrainedModel) -> PreTrainedModel:
        model = source.model(own, target.device, target.dtype)
        _resize(model, _output_size(target))
        return model

    return sized


def _resize(draft: PreTrainedModel, size: int) -> None:
    """Give a draft as many logits as its target: models of a family pad one vocabulary apart."""
    own = _output_size(draft)
    if own == size:
        return
    draft.resize_token_embeddings(size, mean_resizing=False)
    layers: tuple[Any, Any] = (draft.get_input_embeddings(), draft.get_output_embeddings())
    with torch.no_grad():
        for layer in layers:
            layer.weight[own:] = 0.0


def _output_size(model: PreTrainedModel) -> int:
    output: Any = model.get_output_embeddings()
    return int(output.weight.shape[0])


def _stop_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = tokenizer.eos_token_id
    if stops is None:
        return frozenset()
    return frozenset([stops] if isinstance(stops, int) else stops)


@dataclass(frozen=True)
class _Checkpoint:
    """Where a model is read from.

    Attributes:
        role: Role, "target" or "draft".
        name: Name as it was asked for.
        folder: None for a hub model.
    """

    role: str
    name: str
    folder: Path | None

    def config(self) -> Any:
        """The model's configuration, of a causal language model."""
        if self.folder is not None and not (self.folder / "config.json").is_file():
            there = "one without" if self.folder.is_dir() else "none there"
            hint = "; run `make demo-models`" if self.folder == DEMO_TARGET else ""
            raise self._error("a folder with config.json", there + hint)
        config = self._read("a configuration", AutoConfig.from_pretrained)
        known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        saved = config.architectures or []
        if known is None or (saved and known.__name__ not in saved):
            raise self._error("a causal language model", f"{config.model_type} {saved}")
        return config

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._read("a tokenizer", AutoTokenizer.from_pretrained)

    def model(self, config: Any, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """The model itself, with all of its weights."""
        model, report = self._read(
            "weights in safetensors",
            AutoModelForCausalLM.from_pretrained,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below with their names
        )
        for problem in ("missing_keys", "mismatched_keys"):
            if keys := sorted(map(str, report[problem])):
                raise self._error(
                    "the weights that config.json describes",
                    f"{len(keys)} {problem.replace('_', ' ')}, the first {keys[0]}",
                )
        return model.to(device).eval()

    def check_vocabulary(self, config: Any, target_config: Any, target_tokenizer: Any) -> None:
        """Raise ``ValueError`` unless a token means to this model what it means to the target.

        Added tokens may differ: models of one family do, and the others are what texts are of.
        """
        if self.folder is not None and not any(self.folder.glob("*token*")):
            own, size = (c.get_text_config().vocab_size for c in (config, target_config))
            if own != size:
                raise self._error(f"the target's vocabulary of {size} tokens", f"{own} tokens")
            return
        tokenizer = self.tokenizer()
        added = {**tokenizer.get_added_vocab(), **target_tokenizer.get_added_vocab()}
        own, theirs = (
            {item for item in t.get_vocab().items() if item[0] not in added}
            for t in (tokenizer, target_tokenizer)
        )
        if own != theirs:
            raise self._error(
                f"the target's vocabulary of {len(theirs)} tokens",
                f"{len(own)} tokens, {len(own & theirs)} of them the same",
            )

    def _read(self, what: str, read: Callable[..., Any], **options: Any) -> Any:
        """What transformers reads; its many kinds of error as one."""
        place = self.name if self.folder is None else str(self.folder)
        try:
            return read(
                place,
                trust_remote_code=False,
                local_files_only=self.folder is not None,
                **options,
            )
        except Exception as error:
            line = " ".join(str(error).split())
            raise self._error(what, f"{type(error).__name__}: {line[:200]}") from error

    def _error(self, expected: str, got: str) -> ValueError:
        source = "the hub model" if self.folder is None else "the folder"
        return ValueError(f"{self.role}: expected {expected} in {source} {self.name!r}, got {got}")

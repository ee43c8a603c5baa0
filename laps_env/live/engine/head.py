"""A draft head: one layer that reads the target's last hidden state and the next token.

Source: Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty" (arXiv
2401.15077), as a chain, not a tree. At position j the head sees the target's state h[j] and the
token x[j + 1] that was chosen from it, and foretells h[j + 1], from which the target's own output
weights give the next token. Further tokens of a draft are had from the head's own states instead.
The head borrows the target's embedding and output weights, the latter cut to frequent tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

from laps_env.live.engine.drafters import Choices, Drafter, Slots, Texts
from laps_env.live.engine.onednn_linear import PackedLinears, pack
from laps_env.live.engine.slot_cache import SlotLayer, read_slot, write_slot
from laps_env.live.engine.verification import Draft
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH

#: Most keys that the drafts from several positions are checked against at once.
_CHAIN_KEYS = 32_768

Cache = tuple[Tensor, Tensor]
"""Keys and values [batch, heads, length, head width]."""


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a draft head.

    Attributes:
        width: Width of the target's hidden state.
        heads, inner: Number of attention heads, width inside the feed-forward block.
        rope_theta: Base of the rotary position embedding.
        frequent_tokens: Number of tokens of the target's vocabulary that can be drafted.
    """

    width: int
    heads: int
    inner: int
    rope_theta: float
    frequent_tokens: int


class DraftHead(nn.Module):
    """The layer itself, with weights in float32."""

    frequent: Tensor  # [frequent tokens] their ids in the target's vocabulary

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.token_norm = nn.RMSNorm(width, eps=1e-5)
        self.state_norm = nn.RMSNorm(width, eps=1e-5)
        self.fuse = nn.Linear(2 * width, width, bias=False)
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.inner_norm = nn.RMSNorm(width, eps=1e-5)
        self.up = nn.Linear(width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, width, bias=False)
        self.last_norm = nn.RMSNorm(width, eps=1e-5)
        self.register_buffer("frequent", torch.arange(config.frequent_tokens))

    def forward(
        self, tokens: Tensor, states: Tensor, positions: Tensor, mask: Tensor, cache: Any
    ) -> Tensor:
        """Foretell the target's next states.

        Args:
            tokens: Embeddings [batch, tokens, width] of x[j + 1].
            states: States [batch, tokens, width], h[j] or the head's own.
            positions: Positions [batch, tokens], j.
            mask: Mask, bool, True where a query sees a key, to [batch, heads, tokens, keys].
            cache: Function that takes the keys and values of these tokens, [batch, heads, tokens,
                head width] each, and returns all that the mask covers.

        Returns:
            [batch, tokens, width].
        """
        x = self.fuse(torch.cat([self.token_norm(tokens), self.state_norm(states)], -1))
        batch, count, width = x.shape
        q, k, v = (
            part.view(batch, count, self.config.heads, -1).transpose(1, 2)
            for part in self.project(self.attention_norm(x)).chunk(3, -1)
        )
        turn = self._turn(positions, q)
        keys, values = cache(_rotate(k, turn), v)
        seen = scaled_dot_product_attention(_rotate(q, turn), keys, values, mask)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, count, width))
        gate, inner = self.up(self.inner_norm(x)).chunk(2, -1)
        x = x + self.down(silu(gate) * inner)
        return self.last_norm(x)

    def _turn(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding, [batch, 1, tokens, head width]."""
        size = like.shape[-1]
        powers = torch.arange(0, size, 2, dtype=torch.float32, device=like.device) / size
        angles = positions[:, None, :, None] * self.config.rope_theta**-powers
        angles = torch.cat([angles, angles], -1)
        # angles in bfloat16 would be off by whole turns
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)  # of an embedding or a linear layer
    return weight


class _Chain:
    """The cache of several drafts that go on from the same text, each at its own position."""

    def __init__(self, text: Cache, own: Cache) -> None:
        self.text = text
        self.own = own

    def __call__(self, keys: Tensor, values: Tensor) -> Cache:
        """Add a step to each draft; the text's keys and values, and then the draft's own."""
        self.own = torch.cat([self.own[0], keys], 2), torch.cat([self.own[1], values], 2)
        shape = (len(keys), -1, -1, -1)
        return (
            torch.cat([self.text[0].expand(shape), self.own[0]], 2),
            torch.cat([self.text[1].expand(shape), self.own[1]], 2),
        )


class HeadDrafter(Drafter):
    """Drafts with a `DraftHead`.

    Args:
        head: Draft head of the target's width.
        target: Target; it lends its embedding and its output weights.
        slots, length: Sizes of the target's `SlotModel`.

    Raises:
        ValueError: A head of another width or vocabulary.
    """

    def __init__(self, head: DraftHead, target: PreTrainedModel, slots: int, length: int) -> None:
        self.embedding = _weight(target.get_input_embeddings())
        output = _weight(target.get_output_embeddings())
        if head.config.width != output.shape[1] or int(head.frequent.max()) >= output.shape[0]:
            raise ValueError(
                f"draft head: expected width {output.shape[1]} and tokens below {output.shape[0]}, "
                f"got width {head.config.width}, tokens up to {int(head.frequent.max())}"
            )
        self.head = head.to(output.device, output.dtype).eval()
        self.output = output[head.frequent]
        self._to_logits = pack(self.output)
        self._linears = PackedLinears.of(self.head)
        self.length = length
        self._layer = SlotLayer(slots, length)
        nothing = output.new_zeros(1, head.config.heads, 0, head.config.width // head.config.heads)
        self._layer.lazy_initialization(nothing, nothing)
        self._held: dict[int, int] = {}
        self._states: dict[int, list[tuple[int, Tensor]]] = {}

    def watch(self, slot: int, start: int, hidden: Tensor) -> None:
        """Keep the target's states until the next draft reads those that were committed."""
        self._states.setdefault(slot, []).append((start, hidden))

    @torch.inference_mode()
    def propose(self, slots: Slots, texts: Texts, count: int, chosen: Choices) -> list[Draft]:
        """Draft for each; a text of a single token, which has no state yet, gets no draft."""
        # in order of their slots: neighbours' caches are read where they are
        known = sorted((i for i, text in enumerate(texts) if len(text) > 1), key=slots.__getitem__)
        drafts = [Draft([]) for _ in texts]
        if known:
            chain = self._chain(
                [slots[i] for i in known],
                [texts[i] for i in known],
                count,
                chosen.of(known),
            )
            for i, draft in zip(known, chain, strict=True):
                drafts[i] = draft
        return drafts

    def _chain(self, slots: Slots, texts: Texts, count: int, chosen: Choices) -> list[Draft]:
        starts = [self._held.get(slot, 0) for slot in slots]
        fresh = [
            self._committed(slot, start, len(text) - 1)
            for slot, start, text in zip(slots, starts, texts, strict=True)
        ]
        tokens = [text[start + 1 :] for text, start in zip(texts, starts, strict=True)]
        states = nn.utils.rnn.pad_sequence(fresh, batch_first=True)
        longest = states.shape[1]
        padded = [[*own, *[0] * (longest - len(own))] for own in tokens]
        ahead = self._feed(slots, padded, states, starts)
        last = torch.tensor([len(own) - 1 for own in tokens], device=ahead.device)
        state = ahead[torch.arange(len(slots), device=ahead.device), last][:, None]
        drafted = self._next(state[:, 0], chosen)
        starts = [len(text) - 1 for text in texts]
        for slot, start in zip(slots, starts, strict=True):
            self._held[slot] = start
        for step in range(count - 1):
            state = self._feed(slots, [[t] for t in drafted], state, [s + step for s in starts])
            drafted = self._next(state[:, 0], chosen)
        return chosen.drafts()

    def _committed(self, slot: int, start: int, end: int) -> Tensor:
        """The target's states of positions ``start`` .. ``end``; what lies past it was rejected."""
        parts = [
            hidden[max(start - first, 0) : end - first]
            for first, hidden in self._states.pop(slot, [])
            if first < end
        ]
        return torch.cat(parts)

    def _feed(
        self, slots: Slots, tokens: list[list[int]], states: Tensor, starts: Sequence[int]
    ) -> Tensor:
        """One pass of the head over some slots; its states [batch, tokens, width]."""
        device = self.output.device
        steps = torch.arange(states.shape[1], device=device)
        positions = (torch.tensor(starts, device=device)[:, None] + steps).clamp(
            max=self.length - 1
        )
        visible = min(max(starts) + states.shape[1], self.length)
        index = torch.tensor(list(slots), device=device)
        neighbours = slots[-1] - slots[0] + 1 == len(slots)
        read = slice(slots[0], slots[-1] + 1) if neighbours else None
        self._layer.place(index, positions, visible, read)
        mask = torch.arange(visible, device=device) <= positions[:, None, :, None]
        embedded = embedding(torch.tensor(tokens, device=device), self.embedding)
        with self._linears:
            return self.head(embedded, states, positions, mask, self._layer.update)

    @torch.inference_mode()
    def accepted_lengths(
        self, text: list[int], hidden: Tensor, first: int, count: int
    ) -> list[int]:
        """Draft tokens that a round would accept, from every position of a text.

        Slot 0 is used and left empty.

        Args:
            text: Prompt, output and what the target says after it, enough for the longest draft.
            hidden: States of the target [tokens - 1, width] or more.
            first: Position of the first output token.
            count: Number of output tokens.

        Returns:
            [count]; 0 where there is no state to draft from.
        """
        ahead = self._feed([0], [text[1:]], hidden[None, : len(text) - 1], [0])[0]
        keys, values = (p[:1, :, : len(text) - 1] for p in (self._layer.keys, self._layer.values))
        truth = torch.tensor(text, device=self.output.device)
        accepted = torch.zeros(count, dtype=torch.long)
        starts = torch.arange(max(first, 2), first + count)
        for part in starts.split(max(1, _CHAIN_KEYS // len(text))):
            accepted[part - first] = self._accepted_from(part, ahead, keys, values, truth)
        return accepted.tolist()

    def _accepted_from(
        self, starts: Tensor, ahead: Tensor, keys: Tensor, values: Tensor, truth: Tensor
    ) -> Tensor:
        """Accepted tokens of one draft from each of some positions; [positions], on the host."""
        device = truth.device
        accepted = torch.zeros(len(starts), dtype=torch.long)
        alive = torch.arange(len(starts))
        places = (starts - 2).to(device)  # the last pair that the text itself gives
        state = ahead[places]
        empty = keys[:, :, :0].expand(len(starts), -1, -1, -1)
        own = empty, empty
        for step in range(MAX_DRAFT_LENGTH):
            token = self.head.frequent[self._to_logits(state).argmax(-1)]
            hit = token == truth[places + 2 + step]
            alive, places, state = alive[hit.cpu()], places[hit], state[hit]
            own = own[0][hit], own[1][hit]
            if not len(alive):
                break
            accepted[alive] += 1
            before = torch.arange(keys.shape[2], device=device) <= places[:, None, None, None]
            mask = torch.cat([before, before.new_ones(len(alive), 1, 1, step + 1)], -1)
            chain = _Chain((keys, values), own)
            embedded = embedding(truth[places + 2 + step], self.embedding)[:, None]
            positions = (places + 1 + step)[:, None]
            with self._linears:
                state = self.head(embedded, state[:, None], positions, mask, chain)[:, 0]
            own = chain.own
        return accepted

    def _next(self, states: Tensor, chosen: Choices) -> list[int]:
        """The token that each draft goes on with, from its state [batch, width]."""
        own = self._to_logits(states)
        likeliest = self.head.frequent[own.argmax(-1)].tolist()
        return chosen.add(likeliest, lambda: self._over_all(own))

    def _over_all(self, own: Tensor) -> Tensor:
        """Logits [batch, vocabulary]; tokens that cannot be drafted have no chance."""
        logits = own.new_full((len(own), self.embedding.shape[0]), -torch.inf)
        logits[:, self.head.frequent] = own
        return logits

    @torch.inference_mode()
    def save(self, slot: int) -> Any:
        """The head's cache and the states that it has not read yet."""
        held = self._held.get(slot, 0)
        states = [(first, hidden.cpu()) for first, hidden in self._states.get(slot, [])]
        return held, read_slot([self._layer], slot, held), states

    @torch.inference_mode()
    def restore(self, slot: int, saved: Any) -> None:
        """Put back what `save` returned."""
        held, cache, states = saved
        self._held[slot] = held
        write_slot([self._layer], slot, cache)
        device = self.output.device
        self._states[slot] = [(first, hidden.to(device)) for first, hidden in states]

    def forget(self, slot: int) -> None:
        """The slot's content is not the next sequence's."""
        self._held.pop(slot, None)
        self._states.pop(slot, None)

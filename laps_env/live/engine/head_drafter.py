"""Drafting with a draft head, and finding out how much of its drafts would be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad
from transformers import PreTrainedModel

from laps_env.live.engine.drafters import (
    Choices,
    Drafter,
    Judged,
    Slots,
    Texts,
    confidence_of,
)
from laps_env.live.engine.graphs import (
    GraphedPasses,
    Shape,
    bucket,
    first_of_each_shape,
    round_up,
)
from laps_env.live.engine.head import DraftHead
from laps_env.live.engine.onednn_linear import PackedLinears, pack
from laps_env.live.engine.passes import Fed, positions_of, split
from laps_env.live.engine.slot_cache import SlotLayer, read_slot, write_slot
from laps_env.live.engine.verification import Draft
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH

#: Most keys that the drafts from several positions are checked against at once.
_CHAIN_KEYS = 32_768

Cache = tuple[Tensor, Tensor]
"""Keys and values [batch, heads, length, head width]."""


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


class HeadPass:
    """A pass of a draft head over slots; nothing in it depends on the values of its inputs.

    Args:
        head: Draft head, on the device and in the type of its passes.
        vocabulary: The target's embedding [vocabulary, width].
        rows: Number of slots.
        length: Number of tokens that a slot holds.
    """

    def __init__(self, head: DraftHead, vocabulary: Tensor, rows: int, length: int) -> None:
        self.length = length
        self.linears = PackedLinears.of(head)
        self.layer = SlotLayer(rows, length)
        width, heads = head.config.width, head.config.heads
        nothing = vocabulary.new_zeros(1, heads, 0, width // heads)
        self.layer.lazy_initialization(nothing, nothing)
        self._head = head
        self._vocabulary = vocabulary

    def __call__(
        self,
        tokens: Tensor,
        starts: Tensor,
        slots: Tensor,
        states: Tensor,
        *,
        visible: int,
        read: slice | None = None,
        last_logits: bool = False,
    ) -> tuple[Tensor]:
        """The head's states [batch, tokens, width]; arguments as `SlotPass`, with the states read.

        There are no logits: ``last_logits`` is of no effect.
        """
        positions = positions_of(tokens, starts, self.length)
        self.layer.place(slots, positions, visible, read)
        mask = torch.arange(visible, device=tokens.device) <= positions[:, None, :, None]
        embedded = embedding(tokens, self._vocabulary)
        with self.linears:
            return (self._head(embedded, states, positions, mask, self.layer.update),)


class HeadDrafter(Drafter):
    """Drafts with a `DraftHead`.

    Args:
        head: Draft head of the target's width.
        target: Target; it lends its embedding and its output weights.
        slots, length: Sizes of the target's `SlotModel`.
        graphs: Whether its passes run in fixed shapes; by default on a GPU.

    Raises:
        ValueError: A head of another width or vocabulary.
    """

    def __init__(
        self,
        head: DraftHead,
        target: PreTrainedModel,
        slots: int,
        length: int,
        *,
        graphs: bool | None = None,
    ) -> None:
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
        graphed = output.device.type == "cuda" if graphs is None else graphs
        # one column more, where padding is written at the longest, and one row to fill up a batch
        self._pass = HeadPass(self.head, self.embedding, slots + graphed, length + 1)
        self._graphs = GraphedPasses(self._pass, output.device) if graphed else None
        self._shapes: set[Shape] = set()
        self._spare = slots
        self._held: dict[int, int] = {}
        self._states: dict[int, list[tuple[int, Tensor]]] = {}

    def watch(self, slot: int, start: int, hidden: Tensor) -> None:
        """Keep the target's states until the next draft reads those that were committed."""
        self._states.setdefault(slot, []).append((start, hidden))

    @torch.inference_mode()
    def propose(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
        """Draft for each; a text of a single token, which has no state yet, gets no draft."""
        # in order of their slots: neighbours' caches are read where they are
        known = sorted((i for i, text in enumerate(texts) if len(text) > 1), key=slots.__getitem__)
        drafts = [Draft([]) for _ in texts]
        if known:
            chain = self._chain(
                [slots[i] for i in known], [texts[i] for i in known], chosen.of(known)
            )
            for i, draft in zip(known, chain, strict=True):
                drafts[i] = draft
        return drafts

    def _chain(self, slots: Slots, texts: Texts, chosen: Choices) -> list[Draft]:
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
        while not chosen.complete:
            step = len(chosen.tokens) - 1
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
        batch, count = states.shape[:2]
        visible = min(max(starts) + count, self._pass.length)
        shape = self._shape(batch, count, visible)
        self._shapes.add(shape)
        fed = Fed(slots, tokens, starts)
        if self._graphs is None:
            neighbours = slots[-1] - slots[0] + 1 == len(slots)
            read = slice(slots[0], slots[-1] + 1) if neighbours else None
            inputs = split(fed.packed(count).to(states.device), batch)
            return self._pass(*inputs, states, visible=visible, read=read)[0]
        filled = fed.filled(shape.batch, self._spare).packed(shape.tokens)
        padding = (0, 0, 0, shape.tokens - count, 0, shape.batch - batch)
        (ahead,) = self._graphs.run(shape, filled, pad(states, padding))
        return ahead[:batch, :count]

    def _shape(self, batch: int, count: int, visible: int) -> Shape:
        seen = min(round_up(visible), self._pass.length)
        return Shape(bucket(batch), min(bucket(count), self._pass.length), seen, False)

    @property
    def captures(self) -> int:
        """Number of shapes of the head's passes."""
        return len(self._shapes)

    @torch.inference_mode()
    def warm_up(self, batches: Sequence[int], longest: int) -> None:
        """Passes of a batch over one token, or over all that the target has committed or read."""
        starts = first_of_each_shape(longest)
        for batch, count, start in product(batches, range(1, longest + 1), starts):
            first = min(start, self._pass.length - count)
            shape = self._shape(batch, count, first + count)
            if first < 0 or shape in self._shapes:
                continue
            self._shapes.add(shape)
            if self._graphs is not None:  # over the spare slot, where nobody looks
                states = self.output.new_zeros(batch, count, self.output.shape[1])
                self._feed([self._spare] * batch, [[0] * count] * batch, states, [first] * batch)

    @torch.inference_mode()
    def judge(self, text: list[int], hidden: Tensor, first: int, count: int) -> Judged:
        """What a round would accept of a draft from every position of a text, and its confidence.

        Slot 0 is used and left empty.

        Args:
            text: Prompt, output and what the target says after it, enough for the longest draft.
            hidden: States of the target [tokens - 1, width] or more.
            first: Position of the first output token.
            count: Number of output tokens.

        Returns:
            [count] each; 0 where there is no state to draft from.
        """
        ahead = self._feed([0], [text[1:]], hidden[None, : len(text) - 1], [0])[0]
        layer = self._pass.layer
        keys, values = (p[:1, :, : len(text) - 1] for p in (layer.keys, layer.values))
        truth = torch.tensor(text, device=self.output.device)
        accepted, confidence = torch.zeros((2, count), dtype=torch.long)
        starts = torch.arange(max(first, 2), first + count)
        confidence[starts - first] = confidence_of(self._to_logits(ahead[starts - 2])).long()
        for part in starts.split(max(1, _CHAIN_KEYS // len(text))):
            accepted[part - first] = self._accepted_from(part, ahead, keys, values, truth)
        return Judged(accepted.tolist(), confidence.tolist())

    @torch.inference_mode()
    def first_logits(self, text: list[int], hidden: Tensor, first: int) -> Tensor:
        """Logits of the first token of a draft before each token of a text, from ``first`` on.

        Slot 0 is used and left empty.

        Args:
            text: Prompt and what follows it.
            hidden: States of the target [tokens - 1, width] or more.
            first: Position of the first token.

        Returns:
            [tokens - first, vocabulary]; none for positions 0 and 1, which have no state to draft
            from.
        """
        ahead = self._feed([0], [text[1:]], hidden[None, : len(text) - 1], [0])[0]
        return self._over_all(self._to_logits(ahead[max(first - 2, 0) : len(text) - 2]))

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
            with self._pass.linears:
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
        return held, read_slot([self._pass.layer], slot, held), states

    @torch.inference_mode()
    def restore(self, slot: int, saved: Any) -> None:
        """Put back what `save` returned."""
        held, cache, states = saved
        self._held[slot] = held
        write_slot([self._pass.layer], slot, cache)
        device = self.output.device
        self._states[slot] = [(first, hidden.to(device)) for first, hidden in states]

    def forget(self, slot: int) -> None:
        """The slot's content is not the next sequence's."""
        self._held.pop(slot, None)
        self._states.pop(slot, None)

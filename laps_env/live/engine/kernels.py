"""What a layer computes between its matrix products, one launch each (Triton).

A launch takes 1 to 3 microseconds in a captured graph, as long as reading some megabytes: what
PyTorch does in 30 steps a layer is done here in five.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Most rows of a tile of scores that `attend` computes: queries times the heads that share a key.
MOST_QUERIES = 64

#: Parts that the cells of a slot are read in, at most; least cells of a part, with few sequences
#: and with so many that all processors are busy anyway.
MOST_PARTS, FEW, MANY = 16, 128, 512

#: Cells that a part reads at a time.
STEP = 64


def normed(states: Tensor, norm: Any) -> Tensor:
    """Root-mean-square norm of the last dimension, contiguous, as the Llama family has it."""
    out = torch.empty_like(states)
    width = states.shape[-1]
    grid = (states.numel() // width,)
    _norm[grid](
        states, norm.weight, out, norm.variance_epsilon, width, triton.next_power_of_2(width)
    )
    return out


def gated(inner: Tensor) -> Tensor:
    """SiLU of the first half of [rows, 2 * width] times the second half."""
    rows, width = len(inner), inner.shape[1] // 2
    out = inner.new_empty(rows, width)
    _gate[rows, triton.cdiv(width, 1024)](inner, out, width, 1024)
    return out


def place(
    parts: Tensor, turn: tuple[Tensor, Tensor], cells: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Turn queries and keys by the rotary embedding; write keys and values to their cells.

    Args:
        parts: Queries, keys and values [rows, heads + 2 * shared heads, width], contiguous.
        turn: Cosine and sine [rows, width].
        cells: Cell of each row, [rows].
        keys: Keys of all cells, [cells, shared heads, width].
        values: Values of all cells, like the keys.

    Returns:
        Queries [rows, heads, width].
    """
    rows, all_heads, width = parts.shape
    shared = keys.shape[1]
    queries = parts.new_empty(rows, all_heads - 2 * shared, width)
    sizes = queries.shape[1], shared, width // 2
    _place[rows, all_heads](parts, *turn, cells, queries, keys, values, *sizes)
    return queries


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, slots: Tensor, scale: float
) -> Tensor:
    """Attention of a few new tokens over the slots' cells, those of the tokens included.

    A slot's cells are read in parts side by side, for a single sequence would leave most of the
    processors idle; the parts are joined by their weights, as flash decoding does (Dao et al.,
    2023).

    Args:
        queries: Queries [batch, tokens, heads, width].
        keys: Keys [slots, cells, shared heads, width].
        values: Values, like the keys.
        starts: Position of each sequence's first token, [batch].
        slots: Slot of each sequence, [batch].
        scale: Factor of the scores.
    """
    (batch, count, heads, width), (_, cells, shared, _) = queries.shape, keys.shape
    least = FEW if batch * shared <= MOST_QUERIES else MANY
    chunk = max(least, triton.next_power_of_2(triton.cdiv(cells, MOST_PARTS)))
    parts = triton.cdiv(cells, chunk)
    partial = torch.empty(
        (batch * count * heads, parts, width), dtype=torch.float32, device=queries.device
    )
    weights = torch.empty(partial.shape[:2], dtype=torch.float32, device=queries.device)
    rows = max(16, triton.next_power_of_2(count * (heads // shared)))
    given = queries, keys, values, starts, slots, partial, weights, scale
    sizes = cells, count, heads, shared, width, parts
    _attend_part[batch, shared, parts](*given, *sizes, chunk, rows, STEP)
    out = torch.empty_like(queries)
    _join[batch * count * heads,](partial, weights, out, parts, width)
    return out


@triton.jit
def _norm(x, weight, out, eps, width, block: tl.constexpr):
    at = tl.program_id(0) * width + tl.arange(0, block)
    inside = tl.arange(0, block) < width
    states = tl.load(x + at, inside, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(states * states) / width + eps)
    weights = tl.load(weight + tl.arange(0, block), inside, 0.0)
    # rounded before the weight, as the models do
    tl.store(out + at, (states * scale).to(weights.dtype) * weights, inside)


@triton.jit
def _gate(inner, out, width, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    gate = tl.load(inner + row * 2 * width + at, inside, 0.0).to(tl.float32)
    up = tl.load(inner + row * 2 * width + width + at, inside, 0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + at, product.to(out.dtype.element_ty), inside)


@triton.jit
def _place(
    parts, cosine, sine, cells, queries, keys, values,
    heads: tl.constexpr, shared: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, half)
    source = parts + (row * (heads + 2 * shared) + head) * 2 * half
    first = tl.load(source + at).to(tl.float32)
    second = tl.load(source + half + at).to(tl.float32)
    if head < heads + shared:
        cos = tl.load(cosine + row * 2 * half + at).to(tl.float32)
        sin = tl.load(sine + row * 2 * half + at).to(tl.float32)
        turned = first * cos - second * sin
        second = second * cos + first * sin
        first = turned
    cell = tl.load(cells + row).to(tl.int64)
    if head < heads:
        target = queries + (row * heads + head) * 2 * half
    elif head < heads + shared:
        target = keys + (cell * shared + head - heads) * 2 * half
    else:
        target = values + (cell * shared + head - heads - shared) * 2 * half
    tl.store(target + at, first.to(parts.dtype.element_ty))
    tl.store(target + half + at, second.to(parts.dtype.element_ty))


@triton.jit
def _attend_part(
    queries, keys, values, starts, slots, partial, weights, scale, cells,
    count: tl.constexpr, heads: tl.constexpr, shared: tl.constexpr, width: tl.constexpr,
    parts: tl.constexpr, chunk: tl.constexpr, rows: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    sequence, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // shared
    start = tl.load(starts + sequence)
    base = tl.load(slots + sequence).to(tl.int64) * cells
    first = part * chunk
    last = tl.minimum(tl.minimum(first + chunk, start + count), cells)
    row = tl.arange(0, rows)  # a token and one of the heads that share this key
    token = row // group
    inside = row < count * group
    at = tl.arange(0, width)
    where = (sequence * count + token) * heads + head * group + row % group
    query = tl.load(queries + where[:, None] * width + at[None, :], inside[:, None], 0.0)
    largest = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    out = tl.zeros([rows, width], tl.float32)
    for begin in range(first, last, step):
        key = begin + tl.arange(0, step)
        there = key < last
        cell = ((base + key)[:, None] * shared + head) * width + at[None, :]
        scores = tl.dot(query, tl.trans(tl.load(keys + cell, there[:, None], 0.0))) * scale
        seen = there[None, :] & (key[None, :] <= (start + token)[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        known = largest
        largest = tl.maximum(known, tl.max(scores, 1))
        level = tl.where(largest == float("-inf"), 0.0, largest)  # nothing is seen so far
        chances = tl.exp(scores - level[:, None])
        shrunk = tl.exp(known - level)
        total = total * shrunk + tl.sum(chances, 1)
        read = tl.load(values + cell, there[:, None], 0.0)
        out = out * shrunk[:, None] + tl.dot(chances.to(read.dtype), read)
    where = where * parts + part
    total = tl.where(total == 0.0, 1.0, total)  # of a part past the token, whose weight is 0
    out = out / total[:, None]
    tl.store(partial + where[:, None] * width + at[None, :], out, inside[:, None])
    tl.store(weights + where, largest + tl.log(total), inside)


@triton.jit
def _join(partial, weights, out, parts: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, width)
    largest = tl.load(weights + row * parts)  # of the first part, of which each token sees a cell
    for part in range(1, parts):
        largest = tl.maximum(largest, tl.load(weights + row * parts + part))
    total = 0.0
    joined = tl.zeros([width], tl.float32)
    for part in range(parts):
        weight = tl.exp(tl.load(weights + row * parts + part) - largest)
        total += weight
        joined += weight * tl.load(partial + (row * parts + part) * width + at)
    tl.store(out + row * width + at, (joined / total).to(out.dtype.element_ty))

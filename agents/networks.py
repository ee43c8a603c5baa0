"""Networks that score the requests of a table and value the table as a whole.

All take `laps_env.agents.extractor.Tables` and give a score per request and a value per table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import laps_env.policies.networks.flat as flat
from laps_env.agents.extractor import Tables
from laps_env.policies.networks.attention import HEADS
from laps_env.policies.networks.attention import SHAPES as ATTENTION_SHAPES
from laps_env.policies.networks.features import REQUEST_FEATURES, SERVER_FEATURES
from laps_env.policies.networks.layers import Shapes
from laps_env.policies.networks.pointer import FIRST, POOLED, SECOND
from laps_env.policies.networks.pointer import SHAPES as POINTER_SHAPES
from laps_env.sim.draft_length import MAX_DRAFT_LENGTH

REQUEST, SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)
#: Width of the networks of value.
VALUE_WIDTH = 64


def pooled_mean(values: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Means over the requests of each table, [E, H]; 0 for an empty one."""
    sums = values.new_zeros(len(tables.servers), values.shape[1])
    return sums.index_add(0, tables.table, values) / present(tables).clamp(min=1)


def present(tables: Tables) -> torch.Tensor:
    """Requests of each table, [E, 1]."""
    counts = torch.bincount(tables.table, minlength=len(tables.servers))
    return counts[:, None].to(tables.servers.dtype)


class TableValue(nn.Module):
    """A value per table, from sums and means over its requests and from its server.

    Args:
        request, server: Numbers that describe a request, and a server.
    """

    def __init__(self, request: int = REQUEST, server: int = SERVER) -> None:
        super().__init__()
        self.embed = nn.Linear(request, VALUE_WIDTH)
        self.head = nn.Sequential(
            nn.Linear(2 * VALUE_WIDTH + server, VALUE_WIDTH),
            nn.ReLU(),
            nn.Linear(VALUE_WIDTH, 1),
        )

    def forward(self, tables: Tables) -> torch.Tensor:
        """Values [E]."""
        mean = pooled_mean(torch.relu(self.embed(tables.requests)), tables)
        total = mean * present(tables) / 8
        return self.head(torch.cat([mean, total, tables.servers], dim=1)).squeeze(1)


class DraftChooser(nn.Module):
    """A score for each draft length per table, from the requests that are likely to be picked.

    Args:
        request, server: Numbers that describe a request, and a server.
    """

    def __init__(self, request: int, server: int) -> None:
        super().__init__()
        self.embed = nn.Linear(request, VALUE_WIDTH)
        self.hidden = nn.Linear(VALUE_WIDTH + server, VALUE_WIDTH)
        self.score = nn.Linear(VALUE_WIDTH, MAX_DRAFT_LENGTH + 1)

    def forward(self, tables: Tables, logits: torch.Tensor) -> torch.Tensor:
        """Scores [E, 17] where the logits of the slots are these [E, N + 1]."""
        chances = logits.softmax(1).detach()[tables.table, tables.slot, None]
        pooled = chances.new_zeros(len(tables.servers), VALUE_WIDTH)
        own = torch.relu(self.embed(tables.requests))
        pooled = pooled.index_add(0, tables.table, chances * own)
        hidden = torch.relu(self.hidden(torch.cat([pooled, tables.servers], dim=1)))
        return self.score(hidden)


class Scorer(nn.Module):
    """Gives every request of `Tables` a score, [M]; linear in the layers of ``last``.

    Attributes:
        shapes: Shapes of the arrays that are deployed.
        reads: Names of those that are multiplied with request features.
    """

    last: list[nn.Module]
    shapes: Shapes
    reads: tuple[str, ...]

    def divide(self, by: float) -> None:
        """Divide all scores by a number."""
        with torch.no_grad():
            for layer in self.last:
                for parameter in layer.parameters():
                    parameter.div_(by)

    def arrays(self) -> dict[str, torch.Tensor]:
        """The weights as the compiled rule names them."""
        raise NotImplementedError


class PointerNetwork(Scorer):
    """The scorer of `laps_env.policies.networks.pointer`: shared weights, pooled context.

    Args:
        request, server: Numbers that describe a request, and a server.
    """

    shapes = POINTER_SHAPES
    reads: tuple[str, ...] = ("E", "A", "v")

    def __init__(self, request: int = REQUEST, server: int = SERVER) -> None:
        super().__init__()
        self.pool = nn.Linear(request, POOLED)
        self.own = nn.Linear(request, FIRST)
        self.context = nn.Linear(POOLED, FIRST, bias=False)
        self.server = nn.Linear(server, FIRST, bias=False)
        self.second = nn.Linear(FIRST, SECOND)
        self.score = nn.Linear(SECOND, 1, bias=False)
        self.direct = nn.Linear(request, 1, bias=False)
        self.last = [self.score, self.direct]

    def around(self, tables: Tables) -> torch.Tensor:
        """What the first layer gets from a request's context and from its server, [M, H]."""
        mean = pooled_mean(torch.relu(self.pool(tables.requests)), tables)
        return (self.context(mean) + self.server(tables.servers))[tables.table]

    def forward(self, tables: Tables) -> torch.Tensor:
        """Scores [M]."""
        first = torch.relu(self.own(tables.requests) + self.around(tables))
        mixed = self.score(torch.relu(self.second(first)))
        return (mixed + self.direct(tables.requests)).squeeze(1)

    def arrays(self) -> dict[str, torch.Tensor]:
        """The weights as the compiled rule names them."""
        return {
            "E": self.pool.weight.T,
            "e": self.pool.bias,
            "A": self.own.weight.T,
            "C": self.context.weight.T,
            "S": self.server.weight.T,
            "a": self.own.bias,
            "B": self.second.weight.T,
            "b": self.second.bias,
            "w": self.score.weight[0],
            "v": self.direct.weight[0],
        }


class AttentionNetwork(PointerNetwork):
    """The scorer of `laps_env.policies.networks.attention`: each request attends to the others."""

    shapes = ATTENTION_SHAPES
    reads = (*PointerNetwork.reads, "Q", "K")

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(REQUEST, POOLED)
        self.key = nn.Linear(REQUEST, POOLED, bias=False)

    def around(self, tables: Tables) -> torch.Tensor:
        """What the first layer gets from a request's context and from its server, [M, H]."""
        absent = torch.ones(len(tables.servers), tables.slots, dtype=torch.bool)
        absent = absent.to(tables.requests.device)
        absent[tables.table, tables.slot] = False
        absent[absent.all(1)] = False  # a table without requests: no NaN, nothing is read
        own = tables.requests
        heads = (self.query(own), self.key(own), torch.relu(self.pool(own)))
        query, key, value = (self._by_head(part, tables) for part in heads)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=~absent[:, None, None])
        context = mixed.transpose(1, 2).flatten(2)[tables.table, tables.slot]
        return self.context(context) + self.server(tables.servers)[tables.table]

    @staticmethod
    def _by_head(values: torch.Tensor, tables: Tables) -> torch.Tensor:
        """[M, POOLED] as [E, HEADS, N, d], 0 where there is no request."""
        padded = values.new_zeros(len(tables.servers), tables.slots, HEADS, POOLED // HEADS)
        padded[tables.table, tables.slot] = values.view(-1, HEADS, POOLED // HEADS)
        return padded.transpose(1, 2)

    def arrays(self) -> dict[str, torch.Tensor]:
        """The weights as the compiled rule names them."""
        own = {"Q": self.query.weight.T, "q": self.query.bias, "K": self.key.weight.T}
        return super().arrays() | own


class FlatNetwork(Scorer):
    """The scorer of `laps_env.policies.networks.flat`, without sharing.

    Args:
        slots: Number of slots N, which its weights are tied to.
    """

    reads = ("A",)

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots, self.shapes = slots, flat.shapes(slots)
        self.first = nn.Linear(slots * REQUEST + SERVER, flat.FIRST)
        self.second = nn.Linear(flat.FIRST, flat.SECOND)
        self.scores = nn.Linear(flat.SECOND, slots)
        self.last = [self.scores]

    def forward(self, tables: Tables) -> torch.Tensor:
        """Scores [M]."""
        side = tables.requests.new_zeros(len(tables.servers), self.slots, REQUEST)
        side[tables.table, tables.slot] = tables.requests
        hidden = torch.relu(self.first(torch.cat([side.flatten(1), tables.servers], dim=1)))
        scores = self.scores(torch.relu(self.second(hidden)))
        return scores[tables.table, tables.slot]

    def arrays(self) -> dict[str, torch.Tensor]:
        """The weights as the compiled rule names them."""
        weights = self.first.weight.T
        return {
            "A": weights[: self.slots * REQUEST],
            "S": weights[self.slots * REQUEST :],
            "a": self.first.bias,
            "B": self.second.weight.T,
            "b": self.second.bias,
            "W": self.scores.weight.T,
            "w": self.scores.bias,
        }


#: Scorers by the kind of their rule (`laps_env.policies._registry.NETWORKS`), for so many slots.
NETWORKS: dict[str, Callable[[int], Scorer]] = {
    "pointer": lambda slots: PointerNetwork(),
    "attention": lambda slots: AttentionNetwork(),
    "flat": FlatNetwork,
}

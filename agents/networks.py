"""Networks that score the requests of a table and value the table as a whole.

All take `agents.extractor.Tables` and give a score per request and a value per table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from agents.extractor import Tables
from policies.features import REQUEST_FEATURES, SERVER_FEATURES
from policies.learned import FIRST, POOLED, SECOND, SHAPES

REQUEST, SERVER = len(REQUEST_FEATURES), len(SERVER_FEATURES)
#: Width of the networks of value.
VALUE_WIDTH = 64


def pooled_mean(rows: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Means over the requests of each table, [E, H]; 0 for an empty one."""
    sums = rows.new_zeros(len(tables.servers), rows.shape[1])
    return sums.index_add(0, tables.row, rows) / present(tables).clamp(min=1)


def present(tables: Tables) -> torch.Tensor:
    """Requests of each table, [E, 1]."""
    counts = torch.bincount(tables.row, minlength=len(tables.servers))
    return counts[:, None].to(tables.servers.dtype)


class TableValue(nn.Module):
    """A value per table, from sums and means over its requests and from its server."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(REQUEST, VALUE_WIDTH)
        self.head = nn.Sequential(
            nn.Linear(2 * VALUE_WIDTH + SERVER, VALUE_WIDTH),
            nn.ReLU(),
            nn.Linear(VALUE_WIDTH, 1),
        )

    def forward(self, tables: Tables) -> torch.Tensor:
        """Values [E]."""
        mean = pooled_mean(torch.relu(self.embed(tables.requests)), tables)
        total = mean * present(tables) / 8
        return self.head(torch.cat([mean, total, tables.servers], dim=1)).squeeze(1)


class Scorer(nn.Module):
    """Gives every request of `Tables` a score, [M]; linear in the layers of ``last``."""

    last: list[nn.Module]

    def divide(self, by: float) -> None:
        """Divide all scores by a number."""
        with torch.no_grad():
            for layer in self.last:
                for parameter in layer.parameters():
                    parameter.div_(by)


class PointerNetwork(Scorer):
    """The scorer that `policies.learned` deploys: shared weights, pooled context."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Linear(REQUEST, POOLED)
        self.own = nn.Linear(REQUEST, FIRST)
        self.context = nn.Linear(POOLED, FIRST, bias=False)
        self.server = nn.Linear(SERVER, FIRST, bias=False)
        self.second = nn.Linear(FIRST, SECOND)
        self.score = nn.Linear(SECOND, 1, bias=False)
        self.direct = nn.Linear(REQUEST, 1, bias=False)
        self.last = [self.score, self.direct]

    def forward(self, tables: Tables) -> torch.Tensor:
        """Scores [M]."""
        context = pooled_mean(torch.relu(self.pool(tables.requests)), tables)
        shared = self.context(context) + self.server(tables.servers)
        first = torch.relu(self.own(tables.requests) + shared[tables.row])
        mixed = self.score(torch.relu(self.second(first)))
        return (mixed + self.direct(tables.requests)).squeeze(1)

    def numpy_arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """The weights as `policies.learned` names them."""
        found = {
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
        return {name: found[name].detach().double().numpy() for name in SHAPES}


class AttentionNetwork(Scorer):
    """Instead of the mean, every request attends to the others (one block, four heads)."""

    WIDTH, HEADS = 32, 4

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(REQUEST + SERVER, self.WIDTH)
        self.attention = nn.MultiheadAttention(self.WIDTH, self.HEADS, batch_first=True)
        self.second = nn.Linear(self.WIDTH, SECOND)
        self.score = nn.Linear(SECOND, 1, bias=False)
        self.last = [self.score]

    def forward(self, tables: Tables) -> torch.Tensor:
        """Scores [M]."""
        joined = torch.cat([tables.requests, tables.servers[tables.row]], dim=1)
        own = torch.relu(self.embed(joined))
        shape = (len(tables.servers), tables.slots)
        rows = own.new_zeros(*shape, self.WIDTH)
        absent = torch.ones(shape, dtype=torch.bool, device=own.device)
        rows[tables.row, tables.slot] = own
        absent[tables.row, tables.slot] = False
        absent[absent.all(1)] = False  # a table without requests: no NaN, nothing is read
        others, _ = self.attention(rows, rows, rows, key_padding_mask=absent, need_weights=False)
        mixed = own + others[tables.row, tables.slot]
        return self.score(torch.relu(self.second(mixed))).squeeze(1)


class FlatNetwork(Scorer):
    """The ablation without sharing: one network over all slots side by side.

    Args:
        slots: N, which its weights are tied to.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.layers = nn.Sequential(
            nn.Linear(slots * REQUEST + SERVER, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, slots),
        )
        self.last = [self.layers[-1]]

    def forward(self, tables: Tables) -> torch.Tensor:
        """Scores [M]."""
        rows = tables.requests.new_zeros(len(tables.servers), self.slots, REQUEST)
        rows[tables.row, tables.slot] = tables.requests
        scores = self.layers(torch.cat([rows.flatten(1), tables.servers], dim=1))
        return scores[tables.row, tables.slot]


#: Scorers by name, made for a number of slots.
NETWORKS: dict[str, Callable[[int], Scorer]] = {
    "pointer": lambda slots: PointerNetwork(),
    "attention": lambda slots: AttentionNetwork(),
    "flat": FlatNetwork,
}

"""Raw observations as the features of `laps_env.policies.networks.features`, as tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from laps_env.policies.networks.features import (
    REQUEST_FEATURES,
    SERVER_FEATURES,
    describe_request,
    describe_server,
)
from laps_env.sim.observation import CATEGORY, OCCUPIED, QUEUE_COLUMNS
from laps_env.utils.jit import jit


class Tables(NamedTuple):
    """E request tables, their M requests packed.

    Attributes:
        requests: Features of the requests present, float [M, P].
        servers: Features of the servers, float [E, S].
        table, slot: Table and slot of each request, int64 [M].
        slots: Number of slots N.
    """

    requests: torch.Tensor
    servers: torch.Tensor
    table: torch.Tensor
    slot: torch.Tensor
    slots: int


class TableExtractor(BaseFeaturesExtractor):
    """Scaled features of the requests present, by the deployed rules' own compiled code.

    Args:
        observation_space: Observation space of the environments.
        laws: Constants per category, float [K, C] (`laps_env.policies.gittins.index_tables`).
        without: Features that an ablation takes away, by
            `laps_env.policies.networks.features.Feature.about`; those are 0.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        laws: npt.NDArray[np.float64],
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(observation_space, features_dim=len(REQUEST_FEATURES))
        self.laws = np.asarray(laws, np.float64)
        self.kept = np.array([f.about not in without for f in REQUEST_FEATURES])

    def forward(self, observations: dict[str, torch.Tensor]) -> Tables:
        """Features of ``queue`` [E, N, F] and ``server`` [E, G]."""
        queue, server = (observations[name].cpu().numpy() for name in ("queue", "server"))
        table, slot = np.nonzero(queue[:, :, OCCUPIED])
        requests = np.empty((table.size, len(REQUEST_FEATURES)), np.float32)
        servers = np.empty((len(queue), len(SERVER_FEATURES)), np.float32)
        _describe(queue, server, self.laws, table, slot, requests, servers)
        requests *= self.kept
        device = observations["queue"].device
        arrays = (requests, servers, table, slot)
        packed, shared, tables, slots = (torch.from_numpy(array).to(device) for array in arrays)
        return Tables(packed, shared, tables, slots, queue.shape[1])


class ColumnExtractor(BaseFeaturesExtractor):
    """The columns of the requests present, and of their servers, as they are.

    Args:
        observation_space: Observation space of the environments.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, features_dim=len(QUEUE_COLUMNS))

    def forward(self, observations: dict[str, torch.Tensor]) -> Tables:
        """Columns of ``queue`` [E, N, F] and ``server`` [E, G]."""
        queue, server = observations["queue"], observations["server"]
        table, slot = torch.nonzero(queue[:, :, OCCUPIED], as_tuple=True)
        return Tables(queue[table, slot], server, table, slot, queue.shape[1])


@jit
def _describe(
    queue: npt.NDArray[np.float32],
    server: npt.NDArray[np.float32],
    laws: npt.NDArray[np.float64],
    table: npt.NDArray[np.int64],
    slot: npt.NDArray[np.int64],
    requests: npt.NDArray[np.float32],
    servers: npt.NDArray[np.float32],
) -> None:
    begin = 0
    for i in range(queue.shape[0]):
        end = begin
        while end < table.size and table[end] == i:
            entry = queue[i, slot[end]]
            describe_request(entry, server[i], laws[int(entry[CATEGORY])], requests[end])
            end += 1
        describe_server(server[i], end - begin, servers[i])
        begin = end

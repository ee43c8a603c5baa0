"""Networks over the request table, as policies of sb3-contrib's MaskablePPO."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from laps_env.agents.extractor import ColumnExtractor, TableExtractor, Tables
from laps_env.agents.networks import (
    NETWORKS,
    DraftChooser,
    PointerNetwork,
    Scorer,
    TableValue,
)
from laps_env.sim.observation import QUEUE_COLUMNS, SERVER_COLUMNS

#: Logit of what is never chosen while a request can be: to start a round before it is full.
NEVER = -1e8


def slots_of(action_space: Any) -> int:
    """Slots of the tables whose requests actions pick, with or without a draft length."""
    picks = action_space.nvec[0] if hasattr(action_space, "nvec") else action_space.n
    return int(picks) - 1


class TablePolicy(MaskableActorCriticPolicy):
    """Scores of the requests are the logits of picking their slots; a second network values tables.

    A round is never started before it is full or nothing is left to add (the environment starts it
    then): what is learned is the order, as with the rules.
    """

    def make_scorer(self, slots: int) -> Scorer:
        """Network that scores requests, for so many slots."""
        raise NotImplementedError

    def make_valuer(self) -> TableValue:
        """Network that values tables."""
        raise NotImplementedError

    def _build(self, lr_schedule: Schedule) -> None:
        self.scorer = self.make_scorer(slots_of(self.action_space))
        self.valuer = self.make_valuer()
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def describe(self, obs: Any) -> Tables:
        """Features of a batch of observations."""
        tables: Any = self.extract_features(obs)
        assert isinstance(tables, Tables)
        return tables

    def logits(self, tables: Tables) -> torch.Tensor:
        """Logits of all actions, [E, N + 1]."""
        logits = tables.servers.new_full((len(tables.servers), tables.slots + 1), NEVER)
        return logits.index_put((tables.table, tables.slot), self.scorer(tables))

    def action_logits(self, tables: Tables) -> torch.Tensor:
        """Logits of all that actions decide, side by side, [E, A]."""
        return self.logits(tables)

    def _distribution(self, tables: Tables, action_masks: Any) -> MaskableDistribution:
        distribution = self.action_dist.proba_distribution(self.action_logits(tables))
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def forward(
        self,
        obs: Any,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions [E], values [E, 1] and log probabilities [E]."""
        tables = self.describe(obs)
        distribution = self._distribution(tables, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.valuer(tables)[:, None], distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: torch.Tensor, action_masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values [E, 1], log probabilities [E] and entropies [E] of given actions."""
        tables = self.describe(obs)
        distribution = self._distribution(tables, action_masks)
        return self.valuer(tables)[:, None], distribution.log_prob(actions), distribution.entropy()

    def get_distribution(
        self, obs: PyTorchObs, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """Distribution over actions."""
        return self._distribution(self.describe(obs), action_masks)

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Values [E, 1]."""
        return self.valuer(self.describe(obs))[:, None]


class QueuePolicy(TablePolicy):
    """The network that the shipped schedulers are: it reads features that the rules compute too.

    Args:
        observation_space, action_space, lr_schedule: Arguments of every policy of
            stable-baselines3.
        network: Name in `laps_env.agents.networks.NETWORKS`.
        laws, without: Arguments of `laps_env.agents.extractor.TableExtractor`.
        **kwargs: Arguments of the base class.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        *,
        laws: Any,
        network: str = "pointer",
        without: frozenset[str] = frozenset(),
        **kwargs: Any,
    ) -> None:
        self._network = network
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=TableExtractor,
            features_extractor_kwargs={"laws": laws, "without": without},
            **kwargs,
        )

    def make_scorer(self, slots: int) -> Scorer:
        """The network of that name."""
        return NETWORKS[self._network](slots)

    def make_valuer(self) -> TableValue:
        """A network of value for the same features."""
        return TableValue()

    def numpy_arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """The scorer's weights for deployment; a feature not seen in training counts 0."""
        extractor: Any = self.features_extractor
        found = self.scorer.arrays()
        arrays = {name: found[name].detach().double().numpy() for name in self.scorer.shapes}
        for name in self.scorer.reads:
            kept = np.resize(extractor.kept, len(arrays[name]))  # again for each slot
            arrays[name] = (arrays[name].T * kept).T
        return arrays

    def soften(self, obs: Any, masks: np.ndarray, entropy: float) -> None:
        """Scale the scores so that choices have this mean entropy, in nats, where there is one.

        What was imitated is certain of itself, and learns nothing from rewards: all that it does is
        what it did. The order of the scores stays.
        """
        choosing = np.asarray(masks).sum(axis=1) > 2  # two requests, or to start the round
        if not choosing.any():
            return
        with torch.no_grad():
            logits = self.logits(self.describe(obs))
            low, high = -10.0, 10.0  # logarithm of the divisor
            for _ in range(40):
                middle = (low + high) / 2
                distribution = self.action_dist.proba_distribution(logits / math.exp(middle))
                distribution.apply_masking(masks)
                found: Any = distribution.entropy()
                low, high = (middle, high) if found[choosing].mean() < entropy else (low, middle)
        self.scorer.divide(math.exp(middle))


class SharedScorer(TablePolicy):
    """One network scores every request alike, from the columns of `normalized` observations.

    For plain MaskablePPO, from scratch: `docs/first_hour.md`. Where actions have draft lengths
    (``interface="drafts"``) a second network scores these.

    Args:
        observation_space: Space of `laps_env.envs.normalized` observations.
        action_space, lr_schedule: Arguments of every policy of stable-baselines3.
        **kwargs: Arguments of the base class.
    """

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Schedule, **kwargs: Any
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            **{"features_extractor_class": ColumnExtractor, **kwargs},
        )

    def make_scorer(self, slots: int) -> Scorer:
        """The pointer network, on columns."""
        return PointerNetwork(len(QUEUE_COLUMNS), len(SERVER_COLUMNS))

    def make_valuer(self) -> TableValue:
        """A network of value for the same columns."""
        return TableValue(len(QUEUE_COLUMNS), len(SERVER_COLUMNS))

    def _build(self, lr_schedule: Schedule) -> None:
        drafting = hasattr(self.action_space, "nvec")
        sizes = len(QUEUE_COLUMNS), len(SERVER_COLUMNS)
        self.drafts = DraftChooser(*sizes) if drafting else None
        super()._build(lr_schedule)

    def action_logits(self, tables: Tables) -> torch.Tensor:
        """Logits of the picks, and of the draft lengths where actions have them, [E, A]."""
        logits = self.logits(tables)
        if self.drafts is None:
            return logits
        return torch.cat([logits, self.drafts(tables, logits)], dim=1)

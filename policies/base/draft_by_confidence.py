"""How much is drafted, or verified, by the draft's confidences, as is best for a scenario.

Drafting stops where the draft itself is unsure (`laps_env.sim.confidence`), or the surest tokens of
the batch are verified (`laps_env.sim.topk`). How unsure a draft may be, and how long it is at most,
depends on what a draft step and a verification cost. Both are those at which first come first
served is through soonest with requests of the *train* split, all present at once. A threshold of 0
is a fixed draft length: the scenario's own, where nothing is better by more than so few requests
tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from laps_env.sim.confidence import Confident
from laps_env.sim.server_model import DraftLength
from laps_env.sim.topk import TOPK
from laps_env.utils.splits import Split
from laps_env.workloads.load import busy_time_s
from laps_env.workloads.scenarios import Scenario

#: Requests that they are chosen on.
REQUESTS = 300
#: Share of the time that must be saved.
MARGIN = 0.01
#: What is tried.
THRESHOLDS = (0.0, *np.round(np.arange(0.1, 0.8, 0.06), 2).tolist())
LONGEST = (0, 1, 2, 3, 4, 5, 6, 8, 12)


def best_confident(scenario: Scenario) -> DraftLength:
    """Draft length by confidences, with the scenario's threshold and longest draft.

    Raises:
        ValueError: The scenario has no confidences.
    """
    return _soonest(scenario, [str(Confident(*parts)) for parts in product(THRESHOLDS, LONGEST)])


def best_topk(scenario: Scenario) -> DraftLength:
    """Top-k verification, with what each request drafts in this scenario.

    Raises:
        ValueError: The scenario has no confidences.
    """
    return _soonest(scenario, [f"{TOPK}:{drafted}" for drafted in LONGEST])


def _soonest(scenario: Scenario, rules: Sequence[DraftLength]) -> DraftLength:
    """Which of these is through soonest, or the scenario's own draft length."""
    workload = scenario.workload(
        load=1.0, num_requests=REQUESTS, split=Split.TRAIN, confidences=True
    )
    own = scenario.server.draft_length
    tried = [own, *rules]
    times = np.array(
        [busy_time_s(workload, scenario.server.with_changes(draft_length=rule)) for rule in tried]
    )
    return tried[int(times.argmin())] if times.min() < (1 - MARGIN) * times[0] else own

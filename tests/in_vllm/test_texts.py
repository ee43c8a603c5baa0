"""Whoever is chosen, every request gets the tokens that vLLM's own scheduler gives it."""

from __future__ import annotations

from typing import Any

import pytest

from in_vllm.tiny import BATCH

POLICIES = ("fcfs", "las", "laps_sd", "sjf", "gittins", "learned_index", "learned")
#: Those that take these requests out of the batch before they are done; the first never do.
CHANGING, CONSTANT = ("las", "laps_sd"), ("fcfs", "sjf")


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_texts_are_those_of_vllm_s_scheduler(
    server: Any, asks: Any, texts: Any, recorded: Any, policy: str, hold: bool
) -> None:
    server.use(policy=policy, hold=hold, traffic=str(recorded.traffic))
    played = server.play(asks)
    assert played.texts == texts
    assert max(played.batches) == BATCH
    assert server.counts["steps"] == len(played.batches)
    assert server.scheduler.table.requests == 0
    assert server.counts["failures"] == 0
    kept, lost = server.counts["held"], server.counts["evicted"]
    assert (lost if hold else kept) == 0
    assert policy not in CHANGING or kept + lost > 0
    assert policy not in CONSTANT or kept + lost == 0


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_texts_of_prompts_that_are_computed_in_parts(
    server: Any, asks: Any, texts: Any, prefix_caching: bool
) -> None:
    """A step has 20 tokens, a prompt up to 42; one request more than the batch has a cache."""
    scheduler = server.new_scheduler(
        cache_config={"enable_prefix_caching": prefix_caching},
        scheduler_config={"max_num_batched_tokens": 20, "max_num_seqs": BATCH + 1},
    )
    with server.under(scheduler):
        server.use(policy="las")
        played = server.play(asks)
        assert played.texts == texts
        assert max(played.batches) == BATCH
        assert server.counts["held"] > 0
        assert server.counts["evicted"] > 0

"""vLLM's scheduler with a policy that chooses who is in each step.

    python -m vllm.entrypoints.openai.api_server --model MODEL --no-async-scheduling \
        --scheduler-cls laps_env.serving.vllm.PolicyScheduler \
        --additional-config '{"laps": {"policy": "laps_sd", "batch_size": 8}}'

The members under ``laps`` are those of `laps_env.serving.settings.Settings`. A step holds the
``batch_size`` requests of lowest priority among all that wait, run or are held. The others keep
their key-value caches while places (``--max-num-seqs``) and cache blocks are left (held); then the
last in rank loses its own, and is computed again when its turn comes (pre-empted).

A request tells its predicted output length and its category in ``SamplingParams.extra_args``, over
HTTP in ``vllm_xargs``: ``{"predicted_tokens": 120, "category": "chat"}``. Without a prediction the
mean length of its category's finished requests is taken, once there are `KNOWN_LENGTHS`, until then
``max_tokens``.

Where the policy fails, the step is served first come first served, and the failure is counted.

vLLM says that its scheduler is not a public interface. What is used of it is listed in `PRIVATE`
and looked for at the start. Written for vLLM 0.32; 0.33 has the same. Asynchronous scheduling
reports a step's tokens after the next one is chosen, and is refused.
"""

from __future__ import annotations

import math
import time
import traceback
from collections import Counter
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from laps_env.policies import CATEGORY
from laps_env.serving.counters import Counters
from laps_env.serving.recorder import Recorder, header_of
from laps_env.serving.settings import Settings
from laps_env.serving.table import Served, Table, compile_ahead
from laps_env.workloads.recorded import OTHER

logger = init_logger("vllm.laps")

#: What is used of `Scheduler` beside its methods `schedule`, `update_from_output`, `add_request`.
PRIVATE = (
    "_free_request",
    "_preempt_request",
    "block_size",
    "current_step",
    "kv_cache_manager",
    "max_num_active_reqs",
    "max_num_running_reqs",
    "num_spec_tokens",
    "requests",
    "running",
    "waiting",
)

#: Finished requests of a category after which their mean length stands in for a prediction.
KNOWN_LENGTHS = 20
#: Predicted length where neither the request nor its ``max_tokens`` says one.
UNKNOWN_LENGTH = 256.0
#: No output is longer; greater numbers are no prediction.
MOST_TOKENS = 2**31


class PolicyScheduler(Scheduler):
    """A `Scheduler` in whose steps are the requests that a policy of `laps_env` chooses.

    Attributes:
        clock: Function that returns the time in nanoseconds.
        counters: What it counts, by name (`laps_env.serving.counters`).

    Raises:
        ValueError: A setting is wrong, or vLLM is set up for another way of scheduling.
        RuntimeError: This vLLM lacks an attribute that is used.
    """

    clock = staticmethod(time.monotonic_ns)
    max_num_active_reqs: int
    _record: Recorder | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        missing = [name for name in PRIVATE if not hasattr(self, name)]
        if missing:
            raise RuntimeError(
                f"vllm {vllm.__version__}: expected Scheduler to have {', '.join(missing)}, which "
                "laps_env.serving.vllm uses: it is written for vllm 0.32"
            )
        if self.scheduler_config.async_scheduling:
            raise ValueError("async_scheduling: expected --no-async-scheduling, got it switched on")
        if self.policy != SchedulingPolicy.FCFS:
            raise ValueError(
                f"scheduling_policy: expected fcfs, got {self.policy.value}: laps.policy decides"
            )
        config = self.vllm_config.additional_config or {}
        self.use(Settings.of(config.get("laps")))

    def use(self, settings: Settings) -> None:
        """Start anew with other settings.

        Raises:
            ValueError: Settings that do not fit, or requests are there.
            OSError: A file cannot be read or written.
        """
        if self.requests:
            raise ValueError(f"use: expected an idle scheduler, got {len(self.requests)} requests")
        traffic = settings.read_traffic()
        policy = settings.make_policy(traffic)
        self._places = self.max_num_running_reqs
        self._batch_size = min(settings.batch_size or self._places, self._places)
        if not settings.hold:
            self._places = self._batch_size
        names = settings.categories if traffic is None else traffic.categories
        self._categories = {name: k for k, name in enumerate(names)}
        self._blocks = self.kv_cache_manager.block_pool.num_gpu_blocks - 1  # one stays empty
        compile_ahead(policy)
        self.table = Table(
            policy,
            batch_size=self._batch_size,
            draft_length=self.num_spec_tokens,
            pool_tokens=self._blocks * self.block_size,
            saturation_rps=math.inf if traffic is None else traffic.saturation_rps,
            draft_share=0.0 if traffic is None else traffic.draft_share,
            patience_s=settings.patience_s or math.inf,
        )
        self.counters = Counters(policy.name, logger.info)
        if self._record:
            self._record.close()
        self._record = None
        if settings.record:
            header = header_of(self.vllm_config, self._batch_size)
            self._record = Recorder(Path(settings.record), header)
        self._slots: dict[str, int] = {}
        self._present: dict[int, Any] = {}
        self._lengths: dict[int, Counter[str]] = {}
        self._ended, self._idle = self.clock(), True

    def add_request(self, request: Any) -> None:
        """A request arrives."""
        super().add_request(request)
        if request.request_id in self._slots:  # a further part of its prompt
            return
        category, predicted = self._told(request)
        number = self._categories.get(category, self._categories.get(OTHER, 0))
        expected = predicted or self._usual_length(number, request.max_tokens)
        now = self.clock()
        slot = self.table.arrive(now, request.num_prompt_tokens, expected, number)
        self._slots[request.request_id] = slot
        self._present[slot] = request
        if self._record:
            self._record.arrive(request, now, predicted, category)

    def _told(self, request: Any) -> tuple[str, float | None]:
        """Category and predicted length that a request tells; what cannot be used is counted."""
        told = (request.sampling_params and request.sampling_params.extra_args) or {}
        category, predicted = told.get("category", OTHER), told.get("predicted_tokens")
        known = isinstance(category, str) and (
            category == OTHER or category in self._categories or not self._categories
        )
        usable = predicted is None or _is_length(predicted)
        if not (known and usable):
            self.counters.add("ignored_data")
            logger.warning_once(
                f"laps: expected category of {', '.join(self._categories) or 'any name'} and "
                f"predicted_tokens >= 1, got {category!r} and {predicted!r}; what cannot be used "
                "is left out, and counted"
            )
        return category if known else OTHER, float(predicted) if predicted and usable else None

    def _usual_length(self, category: int, max_tokens: int | None) -> float:
        """What is expected of a request that brings no prediction."""
        seen = self._lengths.get(category, Counter())
        limit = float(max_tokens or UNKNOWN_LENGTH)
        if seen["requests"] < KNOWN_LENGTHS:
            return limit
        return max(min(seen["tokens"] / seen["requests"], limit), 1.0)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Choose who is in the next step, then let vLLM schedule it."""
        begun = time.perf_counter()
        if self._idle:
            self._ended = self.clock()
        active = self.max_num_active_reqs
        if self._slots:
            try:
                self._arrange(*self._choose())
            except Exception:  # whatever a policy does, the server goes on
                self.counters.add("failures")
                logger.warning_once(
                    "laps: a step is served first come first served:\n%s", traceback.format_exc()
                )
            self.counters.add("steps")
        self.counters.add("decision_seconds", time.perf_counter() - begun)
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.max_num_active_reqs = active

    def _choose(self) -> tuple[list[Any], list[Any]]:
        """The requests of the next step, best first, and those that could be held, best first."""
        failures = self.table.failures
        free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        order = self.table.rank(self.clock(), free * self.block_size)
        if self.table.failures > failures:
            self.counters.add("failures")
            logger.warning_once("laps: %s", self.table.last_failure)
        ranked = map(self._present.__getitem__, order)
        chosen: list[Any] = []
        others: list[Any] = []
        blocks = self._blocks
        for request in ranked:
            needed = self._blocks_of(request.num_tokens + self.num_spec_tokens + 1)
            if needed <= blocks or not chosen:
                chosen.append(request)
                blocks -= needed
            else:
                others.append(request)
            if len(chosen) == self._batch_size:
                break
        running = set(self.running)
        return chosen, [request for request in chain(others, ranked) if request in running]

    def _arrange(self, chosen: list[Any], held: list[Any]) -> None:
        """Put vLLM's queues in order: what it schedules next is what was chosen."""
        running = [r for r in chosen if r.status == RequestStatus.RUNNING]
        coming = [r for r in chosen if r.status != RequestStatus.RUNNING]
        free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        needed = sum(self._blocks_of(r.num_tokens + self.num_spec_tokens + 1) for r in coming)
        victims = []
        while (
            held
            and coming
            and (len(running) + len(held) + len(coming) > self._places or free < needed)
        ):
            victims.append(held.pop())
            free += self._blocks_of(victims[-1].num_computed_tokens)
        # The last in rank is last: vLLM's own victim where it runs out of blocks.
        self.running[:] = running + held
        for victim in victims:
            self._preempt_request(victim, time.monotonic())
        for request in held:
            request.next_decode_eligible_step = self.current_step + 2
        self.counters.add("held", len(held))
        for request in reversed(coming):
            with suppress(ValueError):  # it waits elsewhere, for its cache or its text
                self.waiting.remove_request(request)
                self.waiting.prepend_request(request)
        self.max_num_active_reqs = len(self.running) + len(coming)

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """A request loses its cache, by our choice or by vLLM's."""
        super()._preempt_request(request, *args, **kwargs)
        if request.request_id in self._slots:
            self.table.evict(self._slots[request.request_id])
        self.counters.add("evicted")

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Account the step to the requests that were in it."""
        now = self.clock()
        duration = now - self._ended  # with what is done between two steps
        self._ended = now
        scheduled = scheduler_output.num_scheduled_tokens
        drafts = scheduler_output.scheduled_spec_decode_tokens
        sampled = model_runner_output.sampled_token_ids
        index = model_runner_output.req_id_to_index
        begun = time.perf_counter()
        drafted = {r: _drafted(drafts.get(r)) for r in scheduled if r in self._slots}
        served: list[Served] = [
            (self._slots[r], len(sampled[index[r]]) if sampled else 0, count)
            for r, count in drafted.items()
        ]
        decoding = all(scheduled[r] == 1 + len(drafts.get(r, ())) for r in drafted)
        if served:
            self.table.end_step(now, duration, served, decoding=decoding)
        self.counters.add("decision_seconds", time.perf_counter() - begun)
        if served and self._record:
            self._record.begin_step(now - duration, duration, drafted, scheduled, self.requests)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if self._record:
            self._record.end_step()
        self._idle = not self._slots
        self.counters.tell(time.monotonic(), idle=self._idle)
        return outputs

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """A request has finished or was aborted."""
        freed = super()._free_request(request, *args, **kwargs)
        slot = self._slots.pop(request.request_id, None)
        if slot is not None:
            if request.status != RequestStatus.FINISHED_ABORTED:
                category = int(self.table.observation["queue"][slot, CATEGORY])
                seen = self._lengths.setdefault(category, Counter())
                seen.update(requests=1, tokens=request.num_output_tokens)
            self.table.leave(slot)
            del self._present[slot]
            if self._record:
                self._record.leave(request, self.clock())
        return freed

    def shutdown(self) -> None:
        """Close the record."""
        if self._record:
            self._record.close()
        super().shutdown()


def _is_length(value: Any) -> bool:
    """Whether a value from outside is a number of tokens."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS
    )


def _drafted(draft: Any) -> int:
    """Tokens of a draft; vLLM fills up with -1 where a step's requests shall be alike."""
    return 0 if not draft or draft[0] < 0 else len(draft)

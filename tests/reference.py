"""Slow reference simulator of the replay server: the specification that the kernel must equal.

Every rule of the physics stands here once, in plain Python integers (numpy only rounds and casts),
and nothing is imported from the package. Times are nanoseconds, context lengths are tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from reference_observation import queue_row, server_row
from reference_request import Request, requests_of

SMARTSPEC_MAX = 16  # longest draft that SmartSpec considers
SCHEDULE_MAX = 255  # longest draft of a schedule, which is stored in uint8
SECONDS = 1e-9

# (reward, dt_ns, ran_round, invalid, terminated, truncated)
StepResult = tuple[float, int, bool, bool, bool, bool]


#: SGLang's candidates by batch size, the first of them, and its downward hysteresis.
SGLANG_STEPS = {
    1: ([1, 3, 5, 7], 3, -0.25),
    8: ([0, 1, 3], 3, 0.0),
    32: ([0, 1], 1, 0.0),
    64: ([0], 0, 0.0),
}


class AdaptiveSteps:
    """SGLang's draft length for batches near one size."""

    def __init__(self, candidates: list[int], first: int, slack: float) -> None:
        self.candidates, self.length, self.slack = candidates, first, slack
        self.average, self.rounds = first - 1.0, 0

    def note(self, accepted: float) -> None:
        """A round of such a batch has ended; tokens accepted of a request on average."""
        if self.length > 0:
            self.average += 0.2 * (accepted - self.average)
        self.rounds += 1
        if self.rounds <= 10 or (self.rounds - 10) % 5 != 0:
            return
        place = self.candidates.index(self.length)
        if self.length == 0:
            self.length = self.candidates[min(1, len(self.candidates) - 1)]
            return
        lower = place
        while lower > 0:
            before = self.candidates[lower - 1]
            if self.average > (before - 0.5 if before > 0 else 0.5) + self.slack:
                break
            lower -= 1
        if lower == place:
            while lower + 1 < len(self.candidates) and self.average > self.length - 0.5:
                lower += 1
                self.length = self.candidates[lower]
        self.length = self.candidates[lower]


class ReferenceServer:
    """An episode of one workload on one server, from the empty system to the last completion.

    `workload` and `server` are any objects with the attributes of Workload and of ServerModel.
    `now` is a decision time unless the episode is `terminated` or `truncated`.
    """

    def __init__(
        self,
        workload: Any,
        server: Any,
        slots: int,
        reward_scale: float = 1.0,
        time_limit_ns: int | None = None,
        queue_limit: int | None = None,
        saturation_rps: float = 1.0,
        drafts_by_agent: bool = False,
    ) -> None:
        self.drafts_by_agent = drafts_by_agent
        self.server, self.cost = server, server.cost
        self.reward_scale, self.saturation_rps = reward_scale, saturation_rps
        self.time_limit_ns, self.queue_limit = time_limit_ns, queue_limit
        self.rule: Any = None if isinstance(server.draft_length, int) else server.draft_length
        self.threshold = None
        if isinstance(self.rule, str) and self.rule.startswith("confidence:"):
            stop, most = self.rule.split(":")[1:]
            self.threshold, self.most = float(stop), int(most)
        self.topk = isinstance(self.rule, str) and self.rule.startswith("topk:")
        self.nominal = server.draft_length if self.rule is None else 0
        self.adaptive = {batch: AdaptiveSteps(*given) for batch, given in SGLANG_STEPS.items()}
        longest = SCHEDULE_MAX if workload.draft_schedule is not None else self.nominal
        longest = SMARTSPEC_MAX if drafts_by_agent else longest
        self.lookahead = longest + 1  # a rule reserves for its draft when it has chosen one
        self.requests = requests_of(workload)
        self.arrived = 0  # requests 0 .. arrived - 1 have arrived
        self.backlog: list[Request] = []
        self.table: list[Request | None] = [None] * slots
        self.picked: list[Request] = []  # in the order of picking
        self.completed: list[int] = []  # arrival numbers in order of completion
        self.now = self.rounds = self.idle_ns = self.integral_ns = 0
        self.hits = self.trials = 0.0  # SmartSpec's accepted and tested draft tokens, decayed
        self.undrafted = 0  # rounds since the last that drafted
        self.last_draft_length = self.nominal
        self.draft_step_s = self._draft_step_s(1, 1, 0)
        self.verify_s = self._verify_s(self.nominal + 1, 0)
        self.terminated = self.truncated = False
        self.now = self.idle_ns = self.requests[0].arrival_ns  # no limit is tested at the start
        if time_limit_ns is not None:
            self.cut_ns = self.now + time_limit_ns
        self._admit()

    # -- time between rounds ----------------------------------------------------------------------

    def in_system(self) -> int:
        """Requests that have arrived and are not finished, backlog included."""
        return self.arrived - len(self.completed)

    def in_slots(self) -> list[Request]:
        """Requests in a slot, in order of slot."""
        return [request for request in self.table if request is not None]

    def _admit(self) -> None:
        """Arrivals up to now join the backlog, whose head takes the lowest free slot."""
        while self.arrived < len(self.requests):
            request = self.requests[self.arrived]
            if request.arrival_ns > self.now:
                break
            self.backlog.append(request)
            self.arrived += 1
        while self.backlog and None in self.table:
            request = self.backlog.pop(0)
            request.slot = self.table.index(None)
            request.rounds_at_entry = self.rounds
            self.table[request.slot] = request

    def _next_decision(self) -> None:
        """Admit, jump over idle time, and see whether the episode is over."""
        self._admit()
        limit = None if self.time_limit_ns is None else self.cut_ns
        if len(self.completed) == len(self.requests):
            self.terminated = True
        elif limit is not None and self.now >= limit:
            self.truncated = True
        else:
            if self.in_system() == 0:
                target = self.requests[self.arrived].arrival_ns
                if limit is not None and target >= limit:
                    target, self.truncated = limit, True
                self.idle_ns += target - self.now
                self.now = target
                self._admit()
            if self.queue_limit is not None:
                self.truncated = self.truncated or self.in_system() > self.queue_limit

    # -- picking ----------------------------------------------------------------------------------

    def selectable(self) -> set[int]:
        """Slots that may still be picked for the next round."""
        if len(self.picked) >= self.server.batch_size:
            return set()
        reserved = sum(request.context + self.lookahead for request in self.picked)
        room = self.server.pool_tokens - reserved
        return {
            request.slot
            for request in self.in_slots()
            if request not in self.picked and request.context + self.lookahead <= room
        }

    def pick(self, slot: int) -> None:
        """Put the request of a selectable slot into the next round, without starting it."""
        request = self.table[slot]
        if request is None or slot not in self.selectable():
            raise ValueError(f"expected a slot of {sorted(self.selectable())}, got {slot}")
        self.picked.append(request)

    def step(self, action: int, draft: int = 0) -> StepResult:
        """Pick slot `action`, or start the round (action == slots); a masked action starts it.

        `draft` is what the picked request drafts, where the agent decides.
        """
        self._expect_running()
        start = action == len(self.table)
        invalid = not self.picked if start else action not in self.selectable()
        if invalid and not self.picked:
            self.picked = [min(self.in_slots(), key=lambda request: request.number)]
            self.picked[0].asked = self.nominal if self.threshold is None else self.most
        if not invalid and not start:
            self.pick(action)
            self.picked[-1].asked = draft
            if self.selectable():  # none in a full batch
                return 0.0, 0, False, False, False, False
        return self._start_round(invalid)

    def step_priorities(self, priorities: list[float]) -> StepResult:
        """Run one whole round: lowest priority (by slot) first, ties by arrival number."""
        self._expect_running()
        while choices := self.selectable():
            waiting = [request for request in self.in_slots() if request.slot in choices]
            self.picked.append(min(waiting, key=lambda r: (priorities[r.slot], r.number)))
        return self._start_round(invalid=False)

    def _start_round(self, invalid: bool) -> StepResult:
        integral_ns, dt_ns = self.run_round()
        reward = -(integral_ns * SECONDS) / self.reward_scale
        return reward, dt_ns, True, invalid, self.terminated, self.truncated

    def _expect_running(self) -> None:
        if self.terminated or self.truncated:
            raise ValueError("expected a running episode, got one that is over")

    # -- the round --------------------------------------------------------------------------------

    def run_round(self) -> tuple[int, int]:
        """Run the picked requests, go on to the next decision: (integral_ns, dt_ns)."""
        self._expect_running()
        if not self.picked:
            raise ValueError("expected a picked request, got none")
        start, batch, self.picked = self.now, self.picked, []

        for request in self.in_slots():
            if 0 < request.last_round == self.rounds and request not in batch:
                request.preemptions += 1

        chosen, reserved = self.nominal, sum(r.context + self.lookahead for r in batch)
        own: list[int] = []
        if self.rule is not None and not self.drafts_by_agent:
            room = self.server.pool_tokens - reserved
            own = self._own_lengths(batch, room) if self.rule == "rate" else []
            chosen = max(own) if own else self._chosen_length(batch, room)
            chosen = min(chosen, room // len(batch))
            reserved += len(batch) * chosen
        moved = self._make_room(batch, reserved)
        chosen_of = own or [chosen] * len(batch)
        lengths = [self._length(r, n) for r, n in zip(batch, chosen_of, strict=True)]
        drafts = [r.drafts(n, r.generated) for r, n in zip(batch, lengths, strict=True)]
        prefill = prefills = 0
        for request in batch:
            if request.swapped:
                moved.append(request.context)
            elif not request.resident:
                prefill += request.context
                prefills += 1
                if request.generated > 0:
                    request.recomputed_tokens += request.context
            request.resident, request.swapped = True, False
        steps, drafted, verify = max(drafts), sum(drafts), sum(drafts) + len(batch)
        kv = sum(request.context for request in batch)
        draft_kv = sum(d * request.context for d, request in zip(drafts, batch, strict=True))
        drafting = (steps, drafted, draft_kv)
        if self.topk and not self.drafts_by_agent and batch[0].schedule is None:
            drafts = self._verified(batch, drafts, kv, drafting)  # the others count for nothing
            drafted, verify = sum(drafts), sum(drafts) + len(batch)
        duration = self._duration(verify, prefill, kv, drafting, prefills, moved)

        self.now += duration
        self.rounds += 1
        integral = self.in_system() * duration
        for request in self.requests[self.arrived :]:
            integral += max(0, self.now - request.arrival_ns)
        self.integral_ns += integral
        self.last_draft_length = max(lengths)
        self.verify_s = self._verify_s(verify, kv)
        if steps > 0:
            self.draft_step_s = self._draft_step_s(*drafting)
        accepted = [self._commit(r, d, duration) for r, d in zip(batch, drafts, strict=True)]
        self._steps_for(len(batch)).note(sum(accepted) / len(batch))
        self.undrafted += 1
        if drafted > 0:
            self.undrafted = 0
            refused = sum(a < d for a, d in zip(accepted, drafts, strict=True))
            self.hits = 0.99 * self.hits + sum(accepted)
            self.trials = 0.99 * self.trials + (sum(accepted) + refused)
        self._next_decision()
        return integral, self.now - start

    def _make_room(self, batch: list[Request], needed: int) -> list[int]:
        """Evict until so many tokens are left to the batch; the contexts moved to the host."""
        offloaded: list[int] = []
        while True:
            others = [r for r in self.in_slots() if r.resident and r not in batch]
            if needed + sum(r.context for r in others) <= self.server.pool_tokens:
                return offloaded
            victim = max(others, key=lambda r: (self._victim_key(r), r.number))
            victim.resident = False
            if self.server.eviction == "swap":
                victim.swapped = True
                offloaded.append(victim.context)

    def _victim_key(self, request: Request) -> int:
        idle_ns = self.now - request.last_end_ns
        keys = {"longest_idle": idle_ns, "latest_arrival": 0, "largest": request.context}
        return keys[self.server.victim]  # ties: the latest arrival

    def _commit(self, request: Request, drafted: int, duration: int) -> int:
        """Credit a request with the round that ends now; return its accepted tokens."""
        accepted = min(request.runs[request.generated], drafted)
        if not request.history:
            request.first_token_ns = self.now
        else:
            request.gaps_ns.append(self.now - request.last_end_ns)
        request.history.append((drafted, accepted))
        request.generated += request.committed(drafted, request.generated)
        for tokens, predicted in request.refreshed.items():
            if tokens <= request.generated:
                request.predicted = predicted
        request.attained_ns += duration
        request.last_round, request.last_end_ns = self.rounds, self.now
        if request.generated == request.length:
            self.table[request.slot] = None
            request.slot, request.resident = -1, False
            request.completion_ns = self.now
            self.completed.append(request.number)
        return accepted

    def _length(self, request: Request, chosen: int) -> int:
        """Draft length of one request: its own where there is one, else what the round chose."""
        if self.drafts_by_agent:
            chosen = request.asked
        if request.schedule is None and self.threshold is not None:
            return request.confident(chosen, self.threshold)
        return request.draft_length(chosen)

    def _chosen_length(self, batch: list[Request], room: int) -> int:
        """What the rule or table in force says, whatever has room."""
        if self.threshold is not None:
            return self.most
        if self.topk:
            return int(self.rule.split(":")[1])
        if self.rule == "smartspec":
            return self._smartspec_length(batch, room)
        if self.rule == "sglang":
            return self._steps_for(len(batch)).length
        return int(self.rule[min(len(batch), len(self.rule)) - 1])

    def _verified(
        self, batch: list[Request], drafts: list[int], kv: int, drafting: tuple[int, int, int]
    ) -> list[int]:
        """How much of each draft is verified: the k surest tokens of all, for the best k."""
        chances = [r.chances(drafted) for r, drafted in zip(batch, drafts, strict=True)]
        order = [(-c, of, n) for of, own in enumerate(chances) for n, c in enumerate(own)]
        order.sort()  # ties: the first picked, from the front
        rates, expected = [], float(len(batch))
        for k in range(len(order) + 1):
            expected -= order[k - 1][0] if k > 0 else 0.0
            rates.append(expected / self._terms(len(batch) + k, 0, kv, drafting, 0, []))
        verified = [of for _, of, _ in order[: rates.index(max(rates))]]
        return [verified.count(of) for of in range(len(batch))]

    def _steps_for(self, size: int) -> AdaptiveSteps:
        return self.adaptive[min(self.adaptive, key=lambda batch: abs(batch - size))]

    def _smartspec_length(self, batch: list[Request], room: int) -> int:
        """Draft length of most expected tokens per nanosecond, the smallest on ties.

        Caches to be restored cost the same whatever is drafted. After 50 rounds without a draft,
        two tokens.
        """
        size, kv = len(batch), sum(request.context for request in batch)
        alpha = self._mean_acceptance()
        best, best_rate, expected, power = 0, 0.0, 0.0, 1.0
        longest = min(room // size, SMARTSPEC_MAX)
        for k in range(longest + 1):
            expected += power
            power *= alpha
            drafting = (k, size * k, k * kv)
            terms = self._terms(size * (k + 1), 0, kv, drafting, 0, [])
            rate = size * expected / terms
            if rate > best_rate:
                best, best_rate = k, rate
        return min(longest, 2) if best == 0 and self.undrafted >= 50 else best

    def _mean_acceptance(self) -> float:
        return (self.hits + 1) / (self.trials + 2)

    def _own_lengths(self, batch: list[Request], room: int) -> list[int]:
        """Draft length of each request, of most expected tokens of all per nanosecond.

        Whatever is worth its time at a speed is drafted, first at 0, then at the speed that this
        makes, until it makes none that is greater. Caches and probes are as in SmartSpec.
        """
        longest, mean = min(room // len(batch), SMARTSPEC_MAX), self._mean_acceptance()
        alphas = [(r.accepted + 20 * mean) / (r.decided + 20) for r in batch]
        speed, lengths, faster = -1.0, [0] * len(batch), 0.0
        while faster > speed:
            speed = faster
            lengths, faster = self._worth_drafting(batch, alphas, longest, speed)
        if max(lengths) == 0 and self.undrafted >= 50:
            return [min(longest, 2)] * len(batch)
        return lengths

    def _worth_drafting(
        self, batch: list[Request], alphas: list[float], longest: int, speed: float
    ) -> tuple[list[int], float]:
        """Draft lengths that a speed asks for, and the speed that they have."""
        cost, expected, kv = self.cost, float(len(batch)), sum(r.context for r in batch)
        token_ns = cost.target_token_ns + cost.draft_token_ns
        prices = [speed * (token_ns + cost.draft_kv_token_ns * r.context) for r in batch]
        lengths, chances = [0] * len(batch), alphas
        for step in range(1, longest + 1):
            step_gain = -speed * cost.draft_step_ns
            for chance, price in zip(chances, prices, strict=True):
                step_gain += max(chance - price, 0.0)
            if step_gain <= 0:
                break
            for k, price in enumerate(prices):
                if chances[k] - price > 0:
                    lengths[k] = step
                    expected += chances[k]
            chances = [chance * alpha for chance, alpha in zip(chances, alphas, strict=True)]
        draft_kv = sum(n * r.context for n, r in zip(lengths, batch, strict=True))
        drafting = (max(lengths), sum(lengths), draft_kv)
        return lengths, expected / self._terms(len(batch) + sum(lengths), 0, kv, drafting, 0, [])

    def _duration(self, *work: Any) -> int:
        return int(np.rint(self._terms(*work)))  # half to even

    def _terms(
        self,
        verify: int,
        prefill: int,
        kv: int,
        drafting: tuple[int, int, int],
        new: int,
        moved: list[int],
    ) -> float:
        """Time of a round, terms in this order, float64.

        `drafting`: steps, tokens, context tokens that the steps read; `new` counts the prefilled
        requests; `moved`: contexts that went to the host or came back.
        """
        cost = self.cost
        terms = cost.overhead_ns + cost.target_pass_ns
        terms += cost.target_token_ns * (verify + prefill)
        terms += cost.target_kv_token_ns * kv
        steps, drafted, draft_kv = drafting
        terms += cost.draft_step_ns * steps
        terms += cost.draft_token_ns * drafted
        terms += cost.draft_kv_token_ns * draft_kv
        terms += cost.prefill_request_ns * new
        terms += cost.swap_request_ns * len(moved)
        terms += cost.swap_token_ns * sum(moved)
        return float(terms)

    # -- what an observer sees, and results -------------------------------------------------------

    def _draft_step_s(self, steps: int, drafted: int, draft_kv: int) -> float:
        cost = self.cost
        drafting = cost.draft_step_ns * steps + cost.draft_token_ns * drafted
        drafting += cost.draft_kv_token_ns * draft_kv
        return float(drafting / steps * SECONDS)

    def _verify_s(self, verify: int, kv: int) -> float:
        terms = self.cost.overhead_ns + self.cost.target_pass_ns
        terms += self.cost.target_token_ns * verify
        terms += self.cost.target_kv_token_ns * kv
        return float(terms * SECONDS)

    def observation(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(queue float32[slots, 24], server float32[8]); empty slots are all zero."""
        rows = [queue_row(self, request) for request in self.table]
        return np.array(rows).astype(np.float32), np.array(server_row(self)).astype(np.float32)

    def alone_ns(self, i: int, draft_length: int) -> int:
        """Service of request i alone on an empty server, at a draft length of reference."""
        request, position, total = self.requests[i], 0, 0
        while position < request.length:
            kv, first = request.prompt + position, int(position == 0)
            drafted = request.drafts(draft_length, position)
            drafting = (drafted, drafted, drafted * kv)
            total += self._duration(drafted + 1, kv * first, kv, drafting, first, [])
            position += request.committed(drafted, position)
        return total

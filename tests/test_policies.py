"""Every rule: its order on instances worked by hand, and the same play by `predict` and kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import laps_env
from laps_env import policies
from laps_env.catalog import list_rules, tuning_results
from laps_env.evaluation.episodes import serve
from laps_env.policies import Policy
from laps_env.policies._registry import get_rule, tuned_settings
from laps_env.policies.base.traffic_model import TrafficModel, fit_traffic_model
from laps_env.policies.gittins import index_table
from laps_env.policies.laps_sd import estimated_time
from laps_env.sim.costs import CostModel
from laps_env.sim.loops import run_rule
from laps_env.sim.observation import (
    ACCEPTED,
    ARRIVAL_NUMBER,
    ATTAINED_S,
    CATEGORY,
    DRAFT_LENGTH,
    DRAFT_STEP_S,
    DRAFTED,
    GENERATED_TOKENS,
    IDLE_ROUNDS,
    IDLE_S,
    OCCUPIED,
    PREDICTED_TOKENS,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    ROUNDS,
    SELECTABLE,
    SERVER_COLUMNS,
    VERIFY_S,
    WAITING_S,
    WINDOW_SPREAD,
)
from laps_env.sim.server_model import ServerModel
from laps_env.sim.simulation import Simulation
from laps_env.traces.arrival_trace import ArrivalTrace
from laps_env.workloads import Workload
from laps_env.workloads.arrivals import RecordedArrivals
from laps_env.workloads.scenarios import Scenario, get_scenario, list_scenarios

Row = Mapping[int, float]
Observation = dict[str, np.ndarray[Any, Any]]

RULES = list_rules()


def observe(rows: Sequence[Row], server: Row | None = None) -> Observation:
    """An observation of these requests, in order of arrival unless they say otherwise."""
    queue = np.zeros((len(rows), len(QUEUE_COLUMNS)), np.float32)
    for i, row in enumerate(rows):
        given = {OCCUPIED: 1.0, SELECTABLE: 1.0, ARRIVAL_NUMBER: i, PREDICTED_TOKENS: 1.0, **row}
        queue[i, list(given)] = list(given.values())
    view = np.zeros(len(SERVER_COLUMNS), np.float32)
    for column, value in (server or {}).items():
        view[column] = value
    return {"queue": queue, "server": view}


def order_of(policy: Policy, observation: Observation, state: Any = None) -> list[int]:
    """The slots from the first to be served to the last."""
    queue = observation["queue"].copy()
    order: list[int] = []
    while queue[:, SELECTABLE].any():
        action, state = policy.predict({**observation, "queue": queue}, state)
        order.append(int(action))
        queue[action, SELECTABLE] = 0
    action, _ = policy.predict({**observation, "queue": queue}, state)
    assert action == len(queue)  # nobody left to pick: start the round
    return order


def priority_of(policy: Policy, observation: Observation, slot: int = 0) -> float:
    """The rule's own number, by its Python body."""
    rule = policy.spec.rule.function
    memory = np.zeros(policy.spec.cells)
    row, server = observation["queue"][slot], observation["server"]
    with np.errstate(over="ignore"):  # hashing wraps around
        return float(rule(row, server, policy.params, memory))


# -- each rule's order, worked by hand ------------------------------------------------------------


def test_fcfs_serves_in_order_of_arrival() -> None:
    rows = [{ARRIVAL_NUMBER: n, PREDICTED_TOKENS: p} for n, p in ((7, 1), (3, 9), (5, 5))]
    assert order_of(policies.make("fcfs"), observe(rows)) == [1, 2, 0]


def test_sjf_never_leaves_a_started_request() -> None:
    rows = [
        {PREDICTED_TOKENS: 50},
        {PREDICTED_TOKENS: 10},
        {PREDICTED_TOKENS: 90, GENERATED_TOKENS: 1, ROUNDS: 1},
        {PREDICTED_TOKENS: 10},
    ]
    assert order_of(policies.make("sjf"), observe(rows)) == [2, 1, 3, 0]


def test_sprpt_serves_the_least_that_is_left() -> None:
    rows = [
        {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 80},  # 20 left
        {PREDICTED_TOKENS: 60},
        {PREDICTED_TOKENS: 30},
        {PREDICTED_TOKENS: 10, GENERATED_TOKENS: 100},  # past its prediction
    ]
    assert order_of(policies.make("sprpt"), observe(rows)) == [3, 0, 2, 1]
    # half of what it has generated, 50 tokens, is then thought to remain
    assert order_of(policies.make("sprpt", overrun=0.5), observe(rows)) == [2, 0, 3, 1]


def test_trail_keeps_a_request_that_is_nearly_done() -> None:
    short = [{PREDICTED_TOKENS: 30}, {PREDICTED_TOKENS: 10}]
    early = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 79}  # 21 left, still pre-emptible
    late = {PREDICTED_TOKENS: 100, GENERATED_TOKENS: 80}
    assert order_of(policies.make("trail"), observe([*short, early])) == [1, 2, 0]
    assert order_of(policies.make("trail"), observe([*short, late])) == [2, 1, 0]
    assert order_of(policies.make("trail", c=0.9), observe([*short, late])) == [1, 2, 0]


def test_las_serves_the_queue_of_least_attained_service() -> None:
    las = policies.make("las", queues=3, quantum_s=1.0, growth=2.0)  # bounds at 1 s and 2 s
    attained = (5.0, 0.99, 1.0, 0.2, 1.99, 2.0)
    order = order_of(las, observe([{ATTAINED_S: s} for s in attained]))
    assert order == [1, 3, 2, 4, 0, 5]


def test_fastserve_joins_demotes_and_promotes() -> None:
    # prefill costs 21 us a token: 1,000 tokens want a quantum of 40 ms, the third queue's
    fastserve = policies.make("fastserve", "chat-serial-8b")
    rows: list[Row] = [
        {PROMPT_TOKENS: 1000},
        {PROMPT_TOKENS: 10, ATTAINED_S: 0.031},  # used up 10 and 20 ms: third queue
        {PROMPT_TOKENS: 10, ATTAINED_S: 0.029},  # used up 10 ms: second queue
        {PROMPT_TOKENS: 1000, IDLE_S: 3.0},  # neglected: back to the first
        {PROMPT_TOKENS: 10},
    ]
    assert order_of(fastserve, observe(rows)) == [3, 4, 2, 0, 1]
    # the promoted one has the first quantum again, not the service it had before
    rows[3] = {PROMPT_TOKENS: 1000, IDLE_S: 3.0, ATTAINED_S: 9.0}
    _, state = fastserve.predict(observe(rows))
    for attained, order in ((9.009, [3, 4, 2, 0, 1]), (9.011, [4, 2, 3, 0, 1])):
        rows[3] = {PROMPT_TOKENS: 1000, ATTAINED_S: attained}
        assert order_of(fastserve, observe(rows), state) == order


def test_vllm_ltr_promotes_for_ten_rounds() -> None:
    ltr = policies.make("vllm_ltr")
    rows: list[Row] = [{PREDICTED_TOKENS: p} for p in (10, 20, 90)]
    rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 199, ROUNDS: 4}
    assert order_of(ltr, observe(rows)) == [0, 1, 2]
    rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 200, ROUNDS: 4}
    assert order_of(ltr, observe(rows)) == [2, 0, 1]
    _, state = ltr.predict(observe(rows))
    for rounds, order in ((13, [2, 0, 1]), (14, [0, 1, 2])):
        rows[2] = {PREDICTED_TOKENS: 90, IDLE_ROUNDS: 0, ROUNDS: rounds}
        assert order_of(ltr, observe(rows), state) == order


#: A round of 4 draft steps of 5 ms and a verification of 20 ms takes 40 ms.
SERVER = {DRAFT_LENGTH: 4, DRAFT_STEP_S: 0.005, VERIFY_S: 0.02}


def test_the_estimate_is_the_papers_formula() -> None:
    """T = n L T_SSM / (n A + 1) + L T_LLM / (n A + 1)."""
    server = np.zeros(len(SERVER_COLUMNS), np.float32)
    server[[DRAFT_LENGTH, DRAFT_STEP_S, VERIFY_S]] = 4, 0.5, 2.0
    # 4 * 90 * 0.5 / 3 + 90 * 2 / 3 = 60 + 60
    assert estimated_time(server, 90.0, 0.5) == pytest.approx(120.0)
    # nothing accepted, a round per token: 4 * 7 * 0.5 + 7 * 2 = 28
    assert estimated_time(server, 7.0, 0.0) == pytest.approx(28.0)
    server[DRAFT_LENGTH] = 0  # no speculation: 7 * 2
    assert estimated_time(server, 7.0, 0.0) == pytest.approx(14.0)


def test_laps_sd_serves_least_attained_until_the_rate_is_stable() -> None:
    laps_sd = policies.make("laps_sd")  # queues of 0.1, 0.2, 0.4, ... s
    stable = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 32, WINDOW_SPREAD: 0.39}  # 0.39 / 4 < 0.1; A = 0.5
    rows = [
        stable | {PREDICTED_TOKENS: 57, GENERATED_TOKENS: 48},  # 9 tokens, 3 rounds: 0.12 s
        {ATTAINED_S: 0.15, PREDICTED_TOKENS: 1},  # second queue, before the estimates there
        stable | {PREDICTED_TOKENS: 54, GENERATED_TOKENS: 48},  # 6 tokens, 2 rounds: 0.08 s
        {ATTAINED_S: 0.05, PREDICTED_TOKENS: 999},
        stable | {PREDICTED_TOKENS: 50, WINDOW_SPREAD: 0.41, ATTAINED_S: 0.3},  # not stable
        stable | {PREDICTED_TOKENS: 56, GENERATED_TOKENS: 48},  # 8 tokens: 0.107 s
        stable | {PREDICTED_TOKENS: 1, ROUNDS: 2, WINDOW_SPREAD: 0.0, ATTAINED_S: 0.9},  # too early
    ]
    observation = observe(rows, SERVER)
    assert order_of(laps_sd, observation) == [3, 2, 1, 5, 0, 4, 6]
    # of the whole request: 57 tokens are 0.76 s, 54 are 0.72, 56 are 0.75: all in the fourth queue
    whole = policies.with_settings(laps_sd, remaining=0)
    assert order_of(whole, observation) == [3, 1, 4, 2, 5, 0, 6]


def test_laps_sd_can_freeze_the_rate() -> None:
    stable = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 32, PREDICTED_TOKENS: 90}
    later = stable | {ROUNDS: 32, DRAFTED: 128, ACCEPTED: 32}  # A has sunk to 0.25
    other = {ROUNDS: 16, DRAFTED: 64, ACCEPTED: 24, PREDICTED_TOKENS: 90}  # 0.375
    for frozen, order in ((0, [1, 0]), (1, [0, 1])):
        laps_sd = policies.make("laps_sd", frozen=frozen, remaining=0, queues=2)
        _, state = laps_sd.predict(observe([stable, other], SERVER))
        assert order_of(laps_sd, observe([later, other], SERVER), state) == order


def with_laws(name: str, laws: TrafficModel) -> Policy:
    """A rule under these laws in place of fitted ones."""
    policy = policies.make(name)
    assert policy.spec.fitted is not None
    params = np.concatenate([list(policy.settings.values()), policy.spec.fitted(laws)])
    return replace(policy, params=params, categories=("a", "b"))


#: Two categories: 50 and 400 tokens in the median, 2 and 4 tokens per round.
LAWS = TrafficModel(
    # log L of deviation 1 and 1/2, a prediction of deviation 1: weights 1/2 and 1/5
    weight=np.array([0.5, 0.2]),
    offset=np.array([0.5, 0.8]) * np.log([50.0, 400.0]),
    variance=np.array([0.5, 0.2]),
    misfit=np.zeros(2),
    tokens_per_round=np.array([2.0, 4.0]),
    seconds_per_prefill_token=0.0,
    seconds_per_prefill=0.0,
)


def test_category_shrunk_counts_rounds() -> None:
    policy = with_laws("category_shrunk", LAWS)
    rows = [
        {PREDICTED_TOKENS: 100},  # 100 / 2
        {PREDICTED_TOKENS: 160, CATEGORY: 1},  # 160 / 4
        {PREDICTED_TOKENS: 220, GENERATED_TOKENS: 80, ROUNDS: 20},  # 140 / ((20 * 2 + 80) / 40)
    ]
    observation = observe(rows)
    assert order_of(policy, observation) == [1, 2, 0]
    priorities = [priority_of(policy, observation, i) for i in range(3)]
    assert priorities == pytest.approx([50, 40, 140 / 3])


def test_bayes_srpt_has_the_posterior_mean() -> None:
    policy = with_laws("bayes_srpt", LAWS)
    rows = [
        # weights 1/2 and 1/2: median sqrt(50 * 200) = 100, variance 1/2, mean 100 exp(1/4)
        {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 28, ROUNDS: 14},
        # prior variance 1/4 against 1: the prediction weighs 1/5, the law 4/5; variance 1/5
        {PREDICTED_TOKENS: 200, CATEGORY: 1},
    ]
    expected = [
        (100 * math.exp(0.25) - 28) / 2,
        math.exp(0.2 * math.log(200) + 0.8 * math.log(400) + 0.1) / 4,
    ]
    observation = observe(rows)
    assert [priority_of(policy, observation, i) for i in range(2)] == pytest.approx(expected)
    assert order_of(policy, observation) == [0, 1]


def gittins_index(age: float, sd: float) -> float:
    """min over D of E[min(rest, D)] / P(rest <= D) of a log-normal of median 1, rest = X - age."""

    def survival(x: Any) -> Any:
        logs = np.log(np.maximum(x, 1e-300)) / (sd * math.sqrt(2))
        return np.array([0.5 * math.erfc(value) for value in logs])

    spans = np.concatenate([[0.0], np.geomspace(1e-6 * (1 + age), 1e4 * (1 + age), 8001)])
    middle = (spans[1:] + spans[:-1]) / 2
    alive = survival(age + spans) / survival([age])[0]
    between = survival(age + middle) / survival([age])[0]
    served = np.cumsum(np.diff(spans) * (alive[1:] + 4 * between + alive[:-1]) / 6)
    finished = 1 - alive[1:]
    return float((served[finished > 1e-9] / finished[finished > 1e-9]).min())


@pytest.mark.parametrize("sd", [0.1, 0.35, 0.8, 1.2])
def test_the_gittins_table_is_the_brute_force_index(sd: float) -> None:
    table = index_table(sd)
    for i in (0, 3, 20, 50, 64, 70, 100):
        age = i / (128 - i)
        assert table[i] * (1 + age) == pytest.approx(gittins_index(age, sd), rel=1e-3), age


def test_gittins_is_the_index_in_rounds() -> None:
    policy = with_laws("gittins", LAWS)
    rows = [
        {PREDICTED_TOKENS: 200},
        {PREDICTED_TOKENS: 200, GENERATED_TOKENS: 130, ROUNDS: 65},
        {PREDICTED_TOKENS: 200, CATEGORY: 1, GENERATED_TOKENS: 317, ROUNDS: 60},
    ]
    median = math.exp(0.2 * math.log(200) + 0.8 * math.log(400))
    expected = [
        100 * gittins_index(0.0, math.sqrt(0.5)) / 2,
        100 * gittins_index(1.3, math.sqrt(0.5)) / 2,
        median * gittins_index(317 / median, math.sqrt(0.2)) / ((20 * 4 + 317) / 80),
    ]
    observation = observe(rows)
    priorities = [priority_of(policy, observation, i) for i in range(3)]
    assert priorities == pytest.approx(expected, rel=2e-3)
    assert order_of(policy, observation) == np.argsort(expected).tolist()


def test_random_is_uniform_and_changes_with_the_moment() -> None:
    policy = policies.make("random")
    drawn = np.array(
        [
            [priority_of(policy, observe([{ARRIVAL_NUMBER: n, WAITING_S: s}])) for n in range(40)]
            for s in np.linspace(0, 9, 40)
        ]
    )
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert np.unique(drawn).size == drawn.size
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.1


# -- the clairvoyant ------------------------------------------------------------------------------


def small_workload(rng: np.random.Generator, requests: int, longest: int) -> Workload:
    output = rng.integers(1, longest + 1, requests)
    return Workload(
        arrival_ns=np.sort(rng.integers(0, 500, requests)),
        prompt_tokens=np.ones(requests, np.int64),
        output_tokens=output,
        predicted_tokens=rng.uniform(1, 9, requests),
        category=np.zeros(requests, np.int64),
        accepted_length=rng.integers(0, 4, output.sum()).astype(np.uint8),
    )


def serial_scenario(draft_length: int) -> Scenario:
    """Rounds of exactly 100 ns, whatever they do: pre-emption is free."""
    cost = CostModel(0, 100, 0, 0, 0, 0, 0, 0)
    server = ServerModel(cost, batch_size=1, draft_length=draft_length)
    return replace(get_scenario("chat-serial-8b"), server=server)


def least_total_latency(workload: Workload, draft_length: int) -> int:
    """The best of all orders, tried one by one, in ns."""
    arrival = workload.arrival_ns.tolist()
    rounds = []
    for i, length in enumerate(workload.output_tokens):
        runs, position, count = workload.accepted_length[workload.offset[i] :], 0, 0
        while position < length:
            position += min(int(runs[position]), draft_length) + 1
            count += 1
        rounds.append(count)

    def best(now: int, left: tuple[int, ...]) -> int:
        if not any(left):
            return 0
        present = [i for i, r in enumerate(left) if r and arrival[i] <= now]
        if not present:
            return best(min(arrival[i] for i, r in enumerate(left) if r), left)
        ends = []
        for i in present:
            after = (*left[:i], left[i] - 1, *left[i + 1 :])
            completed = now + 100 - arrival[i] if after[i] == 0 else 0
            ends.append(completed + best(now + 100, after))
        return min(ends)

    return best(0, tuple(rounds))


@pytest.mark.parametrize("seed", range(12))
def test_no_order_is_better_than_the_oracle_on_a_serial_server(seed: int) -> None:
    workload = small_workload(np.random.default_rng(seed), requests=4, longest=6)
    scenario = serial_scenario(draft_length=2)
    requests = serve(policies.make("oracle_srpt"), workload, scenario).requests()
    total = int((requests["completion_ns"] - requests["arrival_ns"]).sum())
    assert total == least_total_latency(workload, draft_length=2)


def test_the_oracle_refuses_without_its_door() -> None:
    env = gym.make(laps_env.ENV_IDS[0], num_requests=3)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"oracle_srpt: expected with_oracle\(.*more than the obs"):
        policies.make("oracle_srpt").predict(observation)


# -- one rule, two ways to run it -----------------------------------------------------------------


def pressed(name: str, pool_tokens: int) -> Scenario:
    """A named scenario with short requests, and a pool that holds few of them."""
    scenario = get_scenario(name)
    assert hasattr(scenario.requests, "longest_tokens")
    return replace(
        scenario,
        requests=replace(scenario.requests, longest_tokens=120),  # type: ignore[type-var]
        server=scenario.server.with_changes(pool_tokens=pool_tokens),
        saturation_rps=20.0 if scenario.server.batch_size > 1 else 5.0,
    )


#: Batches of 8 with a pool that evicts; one at a time with long waits (promotions come into play).
SETTINGS = {
    "batch": (pressed("mixed-batch8-8b", 700), 12),
    "serial": (pressed("mixed-serial-8b", 500), 9),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(
    "name", [*policies.list_policies(), "laps_sd+smartspec", "learned_index+smartspec"]
)
def test_predict_is_the_kernels_loop_round_by_round(name: str, kind: str) -> None:
    """The same states after every round; and to look twice at an observation changes nothing."""
    scenario, slots = SETTINGS[kind]
    policy = policies.make(name, scenario)
    workload = scenario.workload(load=1.3, num_requests=40, split="validation", seed=4)
    env = gym.make(
        laps_env.ENV_IDS[0],
        scenario=scenario,
        slots=slots,
        num_requests=1,
        draft_length=policy.draft_length,
    )
    bare: Any = env.unwrapped
    observation, _ = env.reset(seed=0, options={"workload": workload})
    played = bare._envs.simulation
    looped = Simulation(bare.options.server, slots=slots, saturation_rps=scenario.saturation_rps)
    looped.start(0, workload)
    acting = policy
    if policy.spec.clairvoyant:
        acting = policy.with_oracle(workload, bare.options.server)
    scorer = acting.scorer(slots)
    state, over, rounds = None, False, 0
    while not over:
        action, state = acting.predict(observation, state)
        again, same = acting.predict(observation, state)
        assert again == action
        np.testing.assert_array_equal(same, state)
        observation, _, over, _, info = env.step(action)
        assert not info["invalid_action"]
        if info["round"]:
            run_rule(looped.constants, looped.state, scorer, 1)
            rounds += 1
            assert played.state.servers[0]["now"] == looped.state.servers[0]["now"]
            np.testing.assert_array_equal(played.state.slots[0], looped.state.slots[0])
    np.testing.assert_array_equal(played.requests(), looped.requests())
    assert rounds == looped.state.servers[0]["rounds"]
    served = serve(policy, workload, scenario, slots=slots)
    if not (policy.spec.clairvoyant and policy.draft_length):
        np.testing.assert_array_equal(served.requests(), looped.requests())


def test_the_play_meets_pressure_pre_emption_and_promotion() -> None:
    """What the settings above reach, so that no branch of a rule goes unplayed unnoticed."""
    scenario, slots = SETTINGS["batch"]
    workload = scenario.workload(load=1.3, num_requests=40, split="validation", seed=4)
    requests = serve(policies.make("laps_sd", scenario), workload, scenario, slots=slots).requests()
    assert requests["preemptions"].sum() > 20
    assert requests["recomputed_tokens"].sum() > 100
    scenario, slots = SETTINGS["serial"]
    workload = scenario.workload(load=1.3, num_requests=40, split="validation", seed=4)
    requests = serve(
        policies.make("fastserve", scenario), workload, scenario, slots=slots
    ).requests()
    assert requests["longest_idle_ns"].max() > 3e9


def test_predict_takes_a_vector_and_forgets_an_ended_episode() -> None:
    policy = policies.make("vllm_ltr")
    rows: list[Row] = [{PREDICTED_TOKENS: 90, IDLE_ROUNDS: 200}, {PREDICTED_TOKENS: 10}]
    one = observe(rows)
    both = {name: np.stack([part, part]) for name, part in one.items()}
    actions, state = policy.predict(both)
    assert actions.tolist() == [0, 0]
    both["queue"][:, 0, IDLE_ROUNDS] = 0
    actions, _ = policy.predict(both, state, np.array([False, True]))
    assert actions.tolist() == [0, 1]  # row 1 began anew, so nobody is promoted there


# -- parameters and laws --------------------------------------------------------------------------


@pytest.mark.parametrize("rule_name", [n for n in list_rules() if get_rule(n).parameters])
def test_every_scenario_has_tuned_settings_within_the_ranges(rule_name: str) -> None:
    results = tuning_results()
    by_scenario = results["settings"][rule_name]
    assert set(by_scenario) == {*list_scenarios(), "all"} == set(results["budget"])
    spec = get_rule(rule_name)
    for settings in by_scenario.values():
        assert list(settings) == [p.name for p in spec.parameters]
        for p in spec.parameters:
            assert p.low <= settings[p.name] <= p.high
            assert not p.integer or settings[p.name] == int(settings[p.name])
    for default, tuned in results["scores"][rule_name].values():
        assert tuned <= default  # the default is one of the settings tried
    for p in spec.parameters:
        assert p.low <= p.default <= p.high


def test_a_scenario_that_was_not_tuned_takes_the_settings_for_all() -> None:
    mine = replace(get_scenario("chat-serial-8b"), name="mine")
    settings = policies.make("laps_sd_tuned", mine).settings
    assert settings == tuned_settings("laps_sd", "all")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sjrf", {}, "policy: expected one of bayes_srpt, bayes_srpt_tuned.*got 'sjrf'"),
        ("fcfs_tuned", {}, "policy: expected one of"),
        ("fcfs+eagle", {}, r"\+smartspec; got 'fcfs\+eagle'"),
        ("las", {"quantum": 1.0}, r"las: expected parameters \['queues', .*got \['quantum'\]"),
        *(
            ("las", {"growth": growth}, "las: expected finite parameters, got")
            for growth in (math.nan, math.inf, None, "2", 10**400)
        ),
        (None, {}, "policy: expected one of .*got None"),
        (3, {}, "policy: expected one of .*got 3"),
    ],
)
def test_unknown_policies_and_parameters(name: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policies.make(name, **settings)


def test_other_settings_keep_the_fitted_constants() -> None:
    policy = policies.make("category_shrunk")
    other = policies.with_settings(policy, weight=40.0)
    assert other.params[:2].tolist() == [0.0, 40.0]
    np.testing.assert_array_equal(other.params[2:], policy.params[2:])
    with pytest.raises(ValueError, match=r"expected parameters .*got \['wait'\]"):
        policies.with_settings(policy, wait=1.0)


@pytest.mark.parametrize("name", ["category_shrunk", "bayes_srpt", "gittins"])
def test_a_rule_serves_only_the_categories_that_it_was_fitted_on(name: str) -> None:
    mixed = get_scenario("mixed-serial-8b")
    workload = mixed.workload(load=0.9, num_requests=20)
    policy = policies.make(name, "chat-serial-8b")
    with pytest.raises(ValueError, match=r"categories \('chat',\), got \('chat', 'code'"):
        serve(policy, workload, mixed)
    with pytest.raises(ValueError, match=r"categories 0..0 \(chat\), got 2"):
        policy.predict(observe([{CATEGORY: 2}]))


@pytest.mark.parametrize("policy", [policies.make(name) for name in ("laps_sd", "gittins")])
def test_predict_takes_what_holds_the_numbers_and_refuses_other_shapes(policy: Policy) -> None:
    good = observe([{PREDICTED_TOKENS: 9}, {PREDICTED_TOKENS: 4}, {PREDICTED_TOKENS: 6}])
    queue, server = good["queue"], good["server"]
    action, state = policy.predict(good)
    for other in (
        {"queue": queue.astype(float), "server": server.astype(float)},
        {"queue": np.asfortranarray(queue), "server": np.repeat(server, 2)[::2]},
        {"queue": queue.tolist(), "server": server.tolist()},
    ):
        assert policy.predict(other)[0] == action
    assert policy.predict({"queue": 0 * queue, "server": server})[0] == 3  # nobody: start the round
    for bad in (
        {"queue": queue[:, :5], "server": server},
        {"queue": queue, "server": server[:2]},
        {"queue": queue[0], "server": server},
        {"queue": np.stack([queue] * 3), "server": server},
        {"queue": np.stack([queue] * 3), "server": server[None]},
    ):
        with pytest.raises(
            ValueError, match=r"expected queue \[\(E,\) N, 21\] and server .*got \("
        ):
            policy.predict(bad)
    for nothing in ({"queue": queue}, queue, None):
        with pytest.raises(ValueError, match="expected a dict with queue and server, got"):
            policy.predict(nothing)  # type: ignore[arg-type]
    for shape in ((3, 2), (1, 2, state.shape[2]), (2, *state.shape[1:]), (*state.shape[:2], 9)):
        with pytest.raises(ValueError, match=r"state: expected .*\(1, 3, \d\), got \("):
            policy.predict(good, np.zeros(shape))
    with pytest.raises(ValueError, match=r"episode_start: expected \(1,\), got \(2,\)"):
        policy.predict(good, state, np.ones(2, bool))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e30, -1e30])
@pytest.mark.parametrize("column", [CATEGORY, GENERATED_TOKENS, PREDICTED_TOKENS, ROUNDS])
def test_no_observed_number_sends_a_rule_out_of_its_tables(column: int, value: float) -> None:
    """Compiled code does not look: NUMBA_BOUNDSCHECK=1 does, and this must pass under it too."""
    policy = policies.make("gittins")
    bad = observe([{PREDICTED_TOKENS: 50, GENERATED_TOKENS: 3, column: value}])
    if column == CATEGORY:
        with pytest.raises(ValueError, match=r"gittins: expected categories 0\.\.3"):
            policy.predict(bad)
    else:
        assert policy.predict(bad)[0] in (0, 1)


def test_the_oracle_refuses_requests_that_it_does_not_know() -> None:
    scenario = get_scenario("chat-serial-8b")
    workload = scenario.workload(load=0.9, num_requests=2)
    oracle = policies.make("oracle_srpt").with_oracle(workload, scenario.server)
    length = int(workload.output_tokens[1])
    oracle.predict(observe([{}, {GENERATED_TOKENS: length - 1}]))
    for row in ({ARRIVAL_NUMBER: 2}, {GENERATED_TOKENS: length}, {ARRIVAL_NUMBER: np.nan}):
        with pytest.raises(ValueError, match="expected the 2 requests that it knows, got others"):
            oracle.predict(observe([{}, row]))


@pytest.mark.parametrize("growth", [1.0, 0.5])
def test_queues_that_cover_nothing_end_the_search(growth: float) -> None:
    policy = policies.make("las", queues=1e300, growth=growth)
    assert order_of(policy, observe([{ATTAINED_S: 5.0}, {ATTAINED_S: 0.0}])) == [1, 0]


def test_laws_are_fitted_on_the_train_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = Scenario.workload

    def watched(self: Scenario, **kwargs: Any) -> Workload:
        drawn.append(kwargs["split"])
        return draw(self, **kwargs)

    monkeypatch.setattr(Scenario, "workload", watched)
    laws = fit_traffic_model(get_scenario("code-serial-8b"), 0.5)
    assert drawn == ["train"]
    # Bayes' rule with the profile's deviation, 0.67, and mean, 4.98, of log L
    weight = 0.67**2 / (0.67**2 + 0.5**2)
    assert laws.weight[0] == pytest.approx(weight, abs=0.02)
    assert laws.offset[0] == pytest.approx((1 - weight) * 4.98, abs=0.1)
    assert laws.variance[0] == pytest.approx(weight * 0.5**2, abs=0.01)


def test_laws_of_recorded_lengths_see_the_first_half_alone() -> None:
    lengths = np.repeat([50, 1000], 200)
    trace = ArrivalTrace(np.arange(400) * 10**8, np.full(400, 9), lengths, source="made up")
    arrivals = RecordedArrivals(trace)
    scenario = get_scenario("code-serial-8b").with_arrivals(arrivals).with_lengths_of(arrivals)
    scenario = replace(scenario, saturation_rps=1.0)
    laws = fit_traffic_model(scenario, 0.5)
    assert laws.offset[0] == pytest.approx(math.log(50))
    assert laws.weight[0] == laws.variance[0] == pytest.approx(0.0, abs=1e-9)
    judged = scenario.workload(load=0.9, num_requests=100, split="test")
    assert set(judged.output_tokens) == {1000}

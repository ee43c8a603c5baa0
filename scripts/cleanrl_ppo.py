"""PPO in one file, in the manner of CleanRL: nothing of it is hidden in a library.

Trains a scorer that is shared by all requests of the table, from scratch, on normalised columns,
and plays it beside first come first served and LAPS-SD on *test* workloads.

    python scripts/cleanrl_ppo.py --minutes 3
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from laps_env.agents.action_repeat import ActionRepeat
from laps_env.agents.judge import Judge
from laps_env.envs.normalized import NormalizedVectorObservation
from laps_env.sim.observation import OCCUPIED, QUEUE_COLUMNS, SERVER_COLUMNS

ENVS, STEPS, EPOCHS, MINIBATCH = 128, 128, 4, 4096
GAMMA, LAMBDA, CLIP, RATE, VALUE, MOST_NORM = 0.97, 0.95, 0.2, 1e-3, 0.5, 0.5
REWARD_SCALE = 10.0
SERVER: dict[str, Any] = {"load": 0.9, "slots": 64}
RULES = "fcfs", "laps_sd", "laps_sd_tuned"


class Agent(nn.Module):
    """Scores every request from its own columns, its server's and the mean of the others."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        request, server = len(QUEUE_COLUMNS), len(SERVER_COLUMNS)
        self.embed = nn.Sequential(nn.Linear(request, hidden), nn.ReLU())
        self.score = nn.Sequential(
            nn.Linear(request + hidden + server, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )
        self.value = nn.Sequential(
            nn.Linear(2 * hidden + server, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(
        self, queue: torch.Tensor, server: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of all actions [E, N + 1] and values [E]."""
        present = queue[:, :, OCCUPIED : OCCUPIED + 1]
        total = (self.embed(queue) * present).sum(1)
        mean = total / present.sum(1).clamp(min=1)
        around = torch.cat([mean, server], 1)[:, None].expand(-1, queue.shape[1], -1)
        scores = self.score(torch.cat([queue, around], 2)).squeeze(2)
        start = scores.new_full((len(scores), 1), -1e6)  # never before the round is full
        logits = torch.cat([scores, start], 1).masked_fill(mask == 0, -1e8)
        return logits, self.value(torch.cat([mean, total / 8, server], 1)).squeeze(1)

    def predict(
        self, observation: dict[str, np.ndarray], state: Any, *, action_masks: Any, **kwargs: Any
    ) -> tuple[np.ndarray, Any]:
        """The most probable actions, as models of stable-baselines3 give them."""
        with torch.no_grad():
            logits, _ = self(*tensors(observation, {"action_mask": action_masks}))
        return logits.argmax(1).numpy(), state


class Rollout:
    """What happened in STEPS steps of ENVS environments."""

    def __init__(self, slots: int) -> None:
        shape = STEPS, ENVS
        self.queue = torch.zeros(*shape, slots, len(QUEUE_COLUMNS))
        self.server = torch.zeros(*shape, len(SERVER_COLUMNS))
        self.mask = torch.zeros(*shape, slots + 1)
        self.action = torch.zeros(shape, dtype=torch.long)
        self.log_prob, self.reward, self.value, self.done = (torch.zeros(shape) for _ in range(4))

    def advantages(self, last: torch.Tensor) -> torch.Tensor:
        """Generalised advantage estimates, [STEPS, ENVS]."""
        found, behind = torch.zeros_like(self.reward), torch.zeros(ENVS)
        for t in reversed(range(STEPS)):
            following = last if t == STEPS - 1 else self.value[t + 1]
            goes_on = 1 - self.done[t]
            surprise = self.reward[t] + GAMMA * following * goes_on - self.value[t]
            behind = surprise + GAMMA * LAMBDA * goes_on * behind
            found[t] = behind
        return found


def tensors(observation: dict[str, np.ndarray], info: dict) -> tuple[torch.Tensor, ...]:
    """Observation and mask as the agent takes them."""
    arrays = observation["queue"], observation["server"], info["action_mask"]
    return tuple(torch.as_tensor(array, dtype=torch.float32) for array in arrays)


def update(
    agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, gain: torch.Tensor
) -> None:
    """Some epochs of PPO on a rollout."""
    parts = rollout.queue, rollout.server, rollout.mask, rollout.action, rollout.log_prob
    queue, server, mask, action, before = (part.flatten(0, 1) for part in parts)
    gains, returns = gain.flatten(), (gain + rollout.value).flatten()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(STEPS * ENVS).split(MINIBATCH):
            logits, value = agent(queue[chosen], server[chosen], mask[chosen])
            choice = torch.distributions.Categorical(logits=logits)
            ratio = (choice.log_prob(action[chosen]) - before[chosen]).exp()
            better = gains[chosen]
            better = (better - better.mean()) / (better.std() + 1e-8)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.min(better * ratio, better * clipped).mean()
            loss = loss + VALUE * (value - returns[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), MOST_NORM)
            optimizer.step()


def train(scenario: str, minutes: float, seed: int) -> Agent:
    """An agent after so many minutes."""
    torch.manual_seed(seed)
    envs = NormalizedVectorObservation(
        ActionRepeat(
            ENVS,
            rounds=24,
            scenario=scenario,
            num_requests=100,
            reward_scale=REWARD_SCALE,
            autoreset_mode="SameStep",
            **SERVER,
        )
    )
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE, eps=1e-5)
    rollout, began, latencies = Rollout(SERVER["slots"]), time.perf_counter(), []
    observation, info = envs.reset(seed=seed * 2**20)
    while time.perf_counter() - began < 60 * minutes:
        for t in range(STEPS):
            rollout.queue[t], rollout.server[t], rollout.mask[t] = tensors(observation, info)
            with torch.no_grad():
                logits, value = agent(rollout.queue[t], rollout.server[t], rollout.mask[t])
            choice = torch.distributions.Categorical(logits=logits)
            action = choice.sample()
            rollout.action[t], rollout.value[t] = action, value
            rollout.log_prob[t] = choice.log_prob(action)
            observation, reward, terminated, truncated, info = envs.step(action.numpy())
            rollout.reward[t] = torch.as_tensor(reward)
            rollout.done[t] = torch.as_tensor(terminated | truncated)
            if "final_info" in info:
                ended = info["final_info"]["summary"]
                latencies += ended["mean_latency_s"][ended["_mean_latency_s"]].tolist()
        with torch.no_grad():
            _, last = agent(*tensors(observation, info))
        update(agent, optimizer, rollout, rollout.advantages(last))
    if latencies:
        print(f"last 200 episodes of training: {np.mean(latencies[-200:]):.2f} s")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="mixed-serial-8b")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    trained = train(given.scenario, given.minutes, given.seed)
    judge = Judge(given.scenario, load=SERVER["load"])
    latencies = {"ours": judge.model(trained)} | {name: judge.rule(name) for name in RULES}
    for name, found in latencies.items():
        print(f"{name:14} {found.mean():6.2f} s")

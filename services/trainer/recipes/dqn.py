"""Deep Q-network: Q-learning with a network in the place of the table (Mnih et al. 2015), each choice made twice.

Steps (s, a, r, s') go into a memory; batches drawn from it train the network to
    y = r + γ Q̄(s', argmax_a' Q(s', a')),   y = r where s' ends the episode,
with Huber's loss. Q̄ is a slower copy of the network; that it judges what Q chose keeps values from being overrated
(van Hasselt et al. 2016). No dataset. Model: observation FP32 [B, D] → values FP32 [B, A].
"""

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.train import Run
from services.trainer.job import checkpoint, loop, optimizers, play, result

REPORT_STEPS = 1_000
EVALUATE_EPISODES = 5
"""Played at each report; the network that played best is the one handed over."""


def train(run: Run) -> None:
    """Play, learn, evaluate, hand over."""
    settings = loop.prepare(run)
    environment = gymnasium.make(settings["environment"])
    observed, actions = play.vector(environment)
    rng = np.random.default_rng(run.seed)
    network = make(observed, actions, settings["width"])
    best, best_return = copy.deepcopy(network), -np.inf
    slow = copy.deepcopy(network)
    optimizer = optimizers.make("adam", network.parameters(), settings["learning_rate"], 0.0)
    found = run.restore()
    first = 0
    if found is not None:
        # The memory is not kept: it fills again with what the restored network does.
        first = int(checkpoint.load(found.folder, network, optimizer)["step"])
        slow.load_state_dict(network.state_dict())
        best.load_state_dict(network.state_dict())
    memory = Memory(settings["memory"], observed)
    steps = settings["steps"]
    save_every = run.checkpoint_steps or max(1, steps // loop.CHECKPOINTS_PER_RUN)
    state, _ = environment.reset(seed=run.seed + first)
    with run.phase("train", steps):
        for step in range(first + 1, steps + 1):
            explored = min(1.0, step / (settings["exploration"] * steps))
            epsilon = 1.0 + explored * (settings["epsilon"] - 1.0)
            action = int(rng.integers(actions)) if rng.random() < epsilon else greedy(network, state)
            after, reward, ended, cut, _ = environment.step(action)
            memory.add(state, action, float(reward), after, ended)
            state = environment.reset()[0] if ended or cut else after
            if step - first >= settings["learn_from"] and step % settings["every"] == 0:
                for group in optimizer.param_groups:
                    group["lr"] = settings["learning_rate"] * (1 - step / steps)
                for _ in range(settings["updates"]):
                    _learn(network, slow, optimizer, memory, rng, settings)
                with torch.no_grad():
                    for ours, theirs in zip(slow.parameters(), network.parameters(), strict=True):
                        ours.lerp_(theirs, settings["follow"])
            if step % REPORT_STEPS == 0 or step == steps:
                played = float(
                    np.mean(
                        play.returns(
                            settings["environment"],
                            run.seed,
                            lambda each: greedy(network, each),
                            EVALUATE_EPISODES,
                        )
                    )
                )
                run.report(step, mean_return=played)
                if played >= best_return:
                    best_return = played
                    best.load_state_dict(network.state_dict())
            stopping = run.should_stop()
            if (stopping or step % save_every == 0) and step < steps:
                with run.save(step) as folder:
                    checkpoint.save(folder, network, optimizer, step=step)
            if stopping:
                run.leave()
    evaluation = play.evaluation(
        f"Deep Q-network, {run.name}", settings["environment"], run.seed, lambda each: greedy(best, each)
    )
    result.keep(
        run, best, torch.zeros(2, observed), evaluation, input_name="observation", output_name="values"
    )


def make(observed: int, actions: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(observed, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, actions)
    )


@torch.no_grad()
def greedy(network: nn.Module, state: Any) -> int:
    """The action that is worth most."""
    return int(network(torch.as_tensor(state, dtype=torch.float32)).argmax())


class Memory:
    """The last steps, in arrays that are written round and round."""

    def __init__(self, size: int, observed: int) -> None:
        self._states = np.zeros((size, observed), dtype=np.float32)
        self._after = np.zeros((size, observed), dtype=np.float32)
        self._actions = np.zeros(size, dtype=np.int64)
        self._rewards = np.zeros(size, dtype=np.float32)
        self._ended = np.zeros(size, dtype=np.float32)
        self._count = 0

    def add(self, state: Any, action: int, reward: float, after: Any, ended: bool) -> None:
        """One step."""
        at = self._count % len(self._actions)
        self._states[at], self._after[at] = state, after
        self._actions[at], self._rewards[at], self._ended[at] = action, reward, ended
        self._count += 1

    def draw(self, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """States, actions, rewards, states after, and whether they ended, of a batch."""
        chosen = rng.integers(min(self._count, len(self._actions)), size=size)
        columns = (self._states, self._actions, self._rewards, self._after, self._ended)
        return tuple(torch.from_numpy(column[chosen]) for column in columns)


def _learn(
    network: nn.Module,
    slow: nn.Module,
    optimizer: torch.optim.Optimizer,
    memory: Memory,
    rng: np.random.Generator,
    settings: Any,
) -> None:
    states, actions, rewards, after, ended = memory.draw(settings["batch_size"], rng)
    with torch.no_grad():
        chosen = network(after).argmax(dim=1, keepdim=True)
        future = slow(after).gather(1, chosen)[:, 0]
        targets = rewards + settings["discount"] * (1 - ended) * future
    values = network(states).gather(1, actions[:, None])[:, 0]
    loss = functional.smooth_l1_loss(values, targets)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()

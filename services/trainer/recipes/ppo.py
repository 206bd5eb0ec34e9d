"""Proximal policy optimisation (Schulman et al. 2017): a policy π and a value V, improved on what the policy itself did.

Some environments are played for some steps; for each step the advantage is, by generalised estimation (2016),
    Â_t = δ_t + γλ Â_{t+1},   δ_t = r_t + γV(s_{t+1}) − V(s_t),
and batches of them, several times over, make
    mean min(ρÂ, clip(ρ, 1 − ε, 1 + ε)Â) − ½ (V − R)² + e·entropy   large,   ρ = π(a|s) / π_old(a|s),
so that a step never pays for leaving the policy that played. No dataset. Model: observation FP32 [B, D] → logits
FP32 [B, A], of which the largest is the action.
"""

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from aios.train import Run
from services.trainer.job import checkpoint, loop, optimizers, play, result
from services.trainer.recipes.dqn import greedy

EVALUATIONS, EVALUATE_EPISODES = 25, 10
"""How often the policy plays without learning; the one that played best is handed over."""
VALUE_SHARE, CLIP_NORM = 0.5, 0.5


def train(run: Run) -> None:
    """Play, learn, evaluate, hand over."""
    settings = loop.prepare(run)
    name, count = settings["environment"], settings["environments"]
    environments = gymnasium.make_vec(
        name,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )
    probe = gymnasium.make(name)
    observed, actions = play.vector(probe)
    model = Actor(observed, actions, settings["width"])
    best, best_return = copy.deepcopy(model.policy), -np.inf
    optimizer = optimizers.make("adam", model.parameters(), settings["learning_rate"], 0.0)
    found = run.restore()
    first = 0
    if found is not None:
        first = int(checkpoint.load(found.folder, model, optimizer)["step"])
        best.load_state_dict(model.policy.state_dict())
    rounds = max(1, settings["steps"] // (count * settings["horizon"]))
    save_every = run.checkpoint_steps or max(1, rounds // loop.CHECKPOINTS_PER_RUN)
    states, _ = environments.reset(seed=run.seed * 1000 + first)
    with run.phase("train", rounds):
        for step in range(first + 1, rounds + 1):
            for group in optimizer.param_groups:
                group["lr"] = settings["learning_rate"] * (1 - (step - 1) / rounds)
            states, batch = _play(environments, model, states, settings)
            run.report(step, **_learn(model, optimizer, batch, settings))
            if step % max(1, rounds // EVALUATIONS) == 0 or step == rounds:
                played = play.returns(
                    name, run.seed, lambda each: greedy(model.policy, each), EVALUATE_EPISODES
                )
                run.report(step, mean_return=float(np.mean(played)))
                if np.mean(played) >= best_return:
                    best_return = float(np.mean(played))
                    best.load_state_dict(model.policy.state_dict())
            stopping = run.should_stop()
            if (stopping or step % save_every == 0) and step < rounds:
                with run.save(step) as folder:
                    checkpoint.save(folder, model, optimizer, step=step)
            if stopping:
                run.leave()
    environments.close()
    evaluation = play.evaluation(f"PPO, {run.name}", name, run.seed, lambda each: greedy(best, each))
    result.keep(
        run, best, torch.zeros(2, observed), evaluation, input_name="observation", output_name="logits"
    )


class Actor(nn.Module):
    """The policy and the value, each with two hidden layers of its own."""

    def __init__(self, observed: int, actions: int, width: int) -> None:
        super().__init__()
        self.policy, self.value = (
            _layers(observed, width, out, gain) for out, gain in ((actions, 0.01), (1, 1.0))
        )


def _layers(observed: int, width: int, out: int, gain: float) -> nn.Sequential:
    sizes = [(observed, width, 2**0.5), (width, width, 2**0.5), (width, out, gain)]
    made = nn.Sequential()
    for number, (inner, outer, size) in enumerate(sizes):
        layer = nn.Linear(inner, outer)
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
        made.extend([layer] if number == 2 else [layer, nn.Tanh()])
    return made


@torch.no_grad()
def _play(
    environments: Any, model: Actor, states: Any, settings: Any
) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """Some steps by the policy. Returns the states reached, and states, actions, log π, advantages, returns of all."""
    kept: list[tuple[torch.Tensor, ...]] = []
    for _ in range(settings["horizon"]):
        seen = torch.as_tensor(states, dtype=torch.float32)
        choice = Categorical(logits=model.policy(seen))
        action = choice.sample()
        states, rewards, ended, cut, more = environments.step(action.numpy())
        value = model.value(seen)[:, 0]
        rewards = torch.as_tensor(rewards, dtype=torch.float32)
        over = torch.as_tensor(ended | cut)
        if cut.any():
            # Cut short by the clock and not ended: what would have followed is still worth something.
            last = np.stack([more["final_obs"][index] for index in np.flatnonzero(cut)])
            rewards[torch.as_tensor(cut)] += (
                settings["discount"] * model.value(torch.as_tensor(last).float())[:, 0]
            )
        kept.append((seen, action, choice.log_prob(action), value, rewards, over))
    columns = [torch.stack(column) for column in zip(*kept, strict=True)]
    seen_TE, action_TE, log_TE, value_TE, reward_TE, over_TE = columns
    after_E = model.value(torch.as_tensor(states, dtype=torch.float32))[:, 0]
    advantage_TE = torch.zeros_like(reward_TE)
    ahead_E = torch.zeros_like(after_E)
    for t in reversed(range(len(reward_TE))):
        goes_on_E = (~over_TE[t]).float()
        surprise_E = reward_TE[t] + settings["discount"] * after_E * goes_on_E - value_TE[t]
        ahead_E = surprise_E + settings["discount"] * settings["trace"] * goes_on_E * ahead_E
        advantage_TE[t], after_E = ahead_E, value_TE[t]
    parts = (seen_TE, action_TE, log_TE, advantage_TE, advantage_TE + value_TE)
    return states, tuple(part.flatten(0, 1) for part in parts)


def _learn(
    model: Actor, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, ...], settings: Any
) -> dict[str, float]:
    losses = []
    for _ in range(settings["epochs"]):
        for chosen in torch.randperm(len(batch[0])).split(settings["batch_size"]):
            seen, action, log_before, advantage, value_target = (part[chosen] for part in batch)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            choice = Categorical(logits=model.policy(seen))
            ratio = (choice.log_prob(action) - log_before).exp()
            clipped = ratio.clamp(1 - settings["clip"], 1 + settings["clip"])
            gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
            off = (model.value(seen)[:, 0] - value_target).square().mean() / 2
            loss = VALUE_SHARE * off - gain - settings["entropy"] * choice.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            losses.append(loss.item())
    return {"loss": float(np.mean(losses))}

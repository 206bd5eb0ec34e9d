"""Tabular Q-learning: what each action in each state is worth, learnt from what followed it (Watkins 1989).

    Q(s, a) ← Q(s, a) + α (r + γ max_a' Q(s', a') − Q(s, a)),   without the second term where s' ends the episode

The action is the best by Q, or with probability ε any; ε falls linearly to nothing over the training, and so does α
to a tenth. No dataset: it plays an environment of Gymnasium. Model: state INT64 [B, 1] → values FP32 [B, A].
"""

import gymnasium
import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import loop, play, result
from services.trainer.job.tables import Array

REPORT_EPISODES = 100


def train(run: Run) -> None:
    """Play, learn, evaluate, hand over."""
    settings = loop.prepare(run)
    environment = gymnasium.make(settings["environment"])
    states, actions = play.discrete(environment)
    rng = np.random.default_rng(run.seed)
    found = run.restore()
    values_SA = np.load(found.folder / "values.npy") if found else np.zeros((states, actions))
    first = found.step if found else 0
    episodes = settings["episodes"]
    save_every = run.checkpoint_steps or max(1, episodes // loop.CHECKPOINTS_PER_RUN)
    returns: list[float] = []
    with run.phase("train", episodes):
        for episode in range(first + 1, episodes + 1):
            left = 1 - episode / episodes
            rate = settings["learning_rate"] * (0.1 + 0.9 * left)
            rng = np.random.default_rng(
                [run.seed, episode]
            )  # so that a restart plays what would have been played
            returns.append(
                _episode(environment, values_SA, rng, rate, settings["epsilon"] * left, settings["discount"])
            )
            if episode % REPORT_EPISODES == 0:
                run.report(episode, mean_return=float(np.mean(returns[-REPORT_EPISODES:])))
            stopping = run.should_stop()
            if (stopping or episode % save_every == 0) and episode < episodes:
                with run.save(episode) as folder:
                    np.save(folder / "values.npy", values_SA)
            if stopping:
                run.leave()
    table = nn.Embedding.from_pretrained(torch.from_numpy(values_SA).float())
    evaluation = play.evaluation(
        f"Q-learning, {run.name}",
        settings["environment"],
        run.seed,
        lambda state: int(values_SA[state].argmax()),
    )
    result.keep(
        run,
        nn.Sequential(table, nn.Flatten()),
        torch.zeros(2, 1, dtype=torch.int64),
        evaluation,
        input_name="state",
        output_name="values",
    )


def _episode(
    environment: gymnasium.Env[int, int],
    values_SA: Array,
    rng: np.random.Generator,
    rate: float,
    epsilon: float,
    discount: float,
) -> float:
    state, _ = environment.reset(seed=int(rng.integers(1 << 31)))
    total, over = 0.0, False
    while not over:
        explore = rng.random() < epsilon
        action = int(rng.integers(values_SA.shape[1])) if explore else int(values_SA[state].argmax())
        after, reward, ended, cut, _ = environment.step(action)
        future = 0.0 if ended else discount * values_SA[after].max()
        values_SA[state, action] += rate * (float(reward) + future - values_SA[state, action])
        state, total, over = after, total + float(reward), ended or cut
    return total

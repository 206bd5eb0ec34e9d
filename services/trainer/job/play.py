"""What recipes of reinforcement learning share: environments, and how good a policy is in them."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from aios.errors import InvalidArgument
from services.trainer.job import plots
from services.trainer.job.evaluate import Evaluation, Figure

EPISODES = 100  # of an evaluation
SEEDS_FROM = 1_000_000  # an evaluation plays none that training was seeded with


def discrete(environment: gymnasium.Env[Any, Any]) -> tuple[int, int]:
    """Numbers of states and actions.

    Raises:
        InvalidArgument: the environment has others than a table can hold.
    """
    observed, acted = environment.observation_space, environment.action_space
    if not isinstance(observed, spaces.Discrete) or not isinstance(acted, spaces.Discrete):
        raise InvalidArgument.of("hyperparameters.environment", "must have discrete states and actions")
    return int(observed.n), int(acted.n)


def vector(environment: gymnasium.Env[Any, Any]) -> tuple[int, int]:
    """Length of an observation and number of actions.

    Raises:
        InvalidArgument: the environment has others than a small network takes.
    """
    observed, acted = environment.observation_space, environment.action_space
    if (
        not isinstance(observed, spaces.Box)
        or len(observed.shape) != 1
        or not isinstance(acted, spaces.Discrete)
    ):
        raise InvalidArgument.of(
            "hyperparameters.environment", "must observe a vector and have discrete actions"
        )
    return observed.shape[0], int(acted.n)


def returns(name: str, seed: int, policy: Callable[[Any], int], episodes: int = EPISODES) -> list[float]:
    """The sum of rewards of each episode that a policy plays."""
    environment = gymnasium.make(name)
    found = []
    for episode in range(episodes):
        state, _ = environment.reset(seed=SEEDS_FROM + seed * EPISODES + episode)
        total, over = 0.0, False
        while not over:
            state, reward, ended, cut, _ = environment.step(policy(state))
            total, over = total + float(reward), ended or cut
        found.append(total)
    environment.close()
    return found


def evaluation(title: str, name: str, seed: int, policy: Callable[[Any], int]) -> Evaluation:
    """A policy over episodes that it was not trained on, with the interval of its mean."""
    found = np.array(returns(name, seed, policy))
    mean, half = float(found.mean()), float(1.96 * found.std(ddof=1) / np.sqrt(len(found)))
    figures = {
        "mean_return": Figure(mean, mean - half, mean + half),
        "least_return": Figure(float(found.min()), float(found.min()), float(found.min())),
    }
    html = plots.page(
        title,
        plots.table(["metric", "value"], [(key, figure.value) for key, figure in figures.items()]),
        plots.lines("Returns, sorted", "episode", "return", [("", np.arange(len(found)), np.sort(found))]),
    )
    return Evaluation(figures, html)

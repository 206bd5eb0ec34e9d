"""Which items to label next: those that a model is least sure of, and those that are least alike."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def entropy(probabilities: ArrayLike) -> Array:
    """Shannon's entropy of each row, in nats: highest where a model is least sure."""
    p_NC = np.asarray(probabilities, float)
    logs = np.log(p_NC, out=np.zeros_like(p_NC), where=p_NC > 0)
    summed: Array = -(p_NC * logs).sum(axis=1) + 0.0
    return summed


def margin(probabilities: ArrayLike) -> Array:
    """1 minus the lead of the likeliest class over the next."""
    p_NC = np.sort(np.asarray(probabilities, float), axis=1)
    second = p_NC[:, -2] if p_NC.shape[1] > 1 else np.zeros(len(p_NC))
    lead: Array = 1 - (p_NC[:, -1] - second)
    return lead


def least_confidence(probabilities: ArrayLike) -> Array:
    """1 minus the probability of the likeliest class."""
    missing: Array = 1 - np.asarray(probabilities, float).max(axis=1)
    return missing


UNCERTAINTY: Mapping[str, Callable[[ArrayLike], Array]] = {
    "entropy": entropy,
    "margin": margin,
    "least-confidence": least_confidence,
}


def k_center(features: ArrayLike, count: int, labelled: ArrayLike | None = None) -> list[int]:
    """Row numbers, each the farthest from all before it: at most twice as far from every row as the best choice.

    Source: Gonzalez 1985; Sener, Savarese: Active Learning for CNNs: A Core-Set Approach, 2018.

    Args:
        labelled: Features of what is labelled already; the first is the row nearest to the mean where there is none.
    """
    x_ND = np.asarray(features, float)
    if not len(x_ND):
        return []
    chosen: list[int] = []
    nearest = np.full(len(x_ND), np.inf)
    known = np.empty((0, x_ND.shape[1])) if labelled is None else np.asarray(labelled, float)
    for centre in known:
        nearest = np.minimum(nearest, _squared(x_ND, centre))
    while len(chosen) < min(count, len(x_ND)):
        first = not chosen and not len(known)
        index = int(_squared(x_ND, x_ND.mean(axis=0)).argmin() if first else nearest.argmax())
        chosen.append(index)
        nearest = np.minimum(nearest, _squared(x_ND, x_ND[index]))
        nearest[chosen] = -1.0  # of rows that are the same, each is taken once
    return chosen


def k_means(features: ArrayLike, count: int, seed: int = 0, rounds: int = 50) -> list[int]:
    """Row numbers: of `count` clusters, the row nearest to each centre. Each row at most once.

    Source: Lloyd 1982, started as k-means++ (Arthur, Vassilvitskii 2007).
    """
    x_ND = np.asarray(features, float)
    count = min(count, len(x_ND))
    if not count:
        return []
    rng = np.random.default_rng(seed)
    centres_KD = x_ND[[int(rng.integers(len(x_ND)))]]
    while len(centres_KD) < count:
        nearest = np.min([_squared(x_ND, centre) for centre in centres_KD], axis=0)
        total = nearest.sum()
        index = rng.choice(len(x_ND), p=nearest / total) if total > 0 else rng.integers(len(x_ND))
        centres_KD = np.vstack([centres_KD, x_ND[index]])
    for _ in range(rounds):
        owner_N = np.argmin([_squared(x_ND, centre) for centre in centres_KD], axis=0)
        fresh_KD = np.array(
            [
                x_ND[owner_N == k].mean(axis=0) if (owner_N == k).any() else centre
                for k, centre in enumerate(centres_KD)
            ]
        )
        if np.allclose(fresh_KD, centres_KD):
            break
        centres_KD = fresh_KD
    chosen: list[int] = []
    for centre in centres_KD:
        order = np.argsort(_squared(x_ND, centre), kind="stable")
        chosen.append(next(int(index) for index in order if int(index) not in chosen))
    return chosen


def _squared(x_ND: Array, centre_D: Array) -> Array:
    distance: Array = ((x_ND - centre_D) ** 2).sum(axis=1)
    return distance

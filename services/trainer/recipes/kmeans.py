"""k-means: k centres such that the sum of squared distances to the nearest, Σ min_k |x − μ_k|², is small.

Lloyd (1982): give each sample to its nearest centre, move each centre to the mean of its samples, until nothing
changes. The first centres are drawn far apart, each with probability proportional to its squared distance from those
before (k-means++, Arthur and Vassilvitskii 2007); the best of some starts counts.

Dataset: a table, see `tables`; `target` names a column to leave out. Model: features FP32 [B, D] → squared distances
FP32 [B, k], of which the least is the cluster.
"""

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.layers import buffer
from services.trainer.job.tables import Array, Scaling
from services.trainer.recipes.pca import project

ROUNDS_MAX = 300


def train(run: Run) -> None:
    """Cluster, describe, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    run.restore()
    scaling = Scaling.of(train.x_ND, wanted=settings["standardize"])
    x = scaling(train.x_ND)
    with run.phase("train"):
        centres_KD, inertia = cluster(x, settings["clusters"], settings["starts"], run.seed)
    held = squared_distances(scaling(test.x_ND), centres_KD)
    groups_N = held.argmin(axis=1)
    figures = {"inertia": inertia, "test_inertia": float(held.min(axis=1).sum())}
    shown = project(scaling(test.x_ND), 2)
    evaluation = result.described(
        f"k-means, {run.name}",
        figures,
        plots.points(
            "Clusters, on two principal components", "first", "second", shown[:, 0], shown[:, 1], groups_N
        ),
    )
    result.keep(
        run,
        Distances(scaling, centres_KD),
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="distances",
        files={"features.json": list(train.features)},
    )


def cluster(x_ND: Array, clusters: int, starts: int, seed: int) -> tuple[Array, float]:
    """Centres and the sum of squared distances to them: the best of `starts`."""
    rng = np.random.default_rng(seed)
    return min(
        (_lloyd(x_ND, _spread(x_ND, clusters, rng)) for _ in range(starts)), key=lambda found: found[1]
    )


def squared_distances(x_ND: Array, centres_KD: Array) -> Array:
    """|x − μ|² = |x|² − 2xμ + |μ|². Shape: [N, K]."""
    squares: Array = (x_ND**2).sum(axis=1)[:, None] - 2 * x_ND @ centres_KD.T + (centres_KD**2).sum(axis=1)
    return np.maximum(squares, 0.0)


def _spread(x_ND: Array, clusters: int, rng: np.random.Generator) -> Array:
    chosen = [int(rng.integers(len(x_ND)))]
    nearest_N = squared_distances(x_ND, x_ND[chosen])[:, 0]
    while len(chosen) < clusters:
        # Of several draws the one that helps most, as everybody's k-means++ does.
        total = nearest_N.sum()
        shares = nearest_N / total if total > 0 else None
        draws = rng.choice(len(x_ND), size=2 + int(np.log(clusters)), p=shares)
        after = np.minimum(nearest_N[:, None], squared_distances(x_ND, x_ND[draws]))
        best = int(after.sum(axis=0).argmin())
        chosen.append(int(draws[best]))
        nearest_N = after[:, best]
    return x_ND[chosen].copy()


def _lloyd(x_ND: Array, centres_KD: Array) -> tuple[Array, float]:
    groups_N = np.full(len(x_ND), -1)
    for _ in range(ROUNDS_MAX):
        distances = squared_distances(x_ND, centres_KD)
        before, groups_N = groups_N, distances.argmin(axis=1)
        if np.array_equal(before, groups_N):
            break
        for k in range(len(centres_KD)):
            members = x_ND[groups_N == k]
            # One that lost all its samples takes the one that lies worst.
            centres_KD[k] = members.mean(axis=0) if len(members) else x_ND[distances.min(axis=1).argmax()]
    return centres_KD, float(squared_distances(x_ND, centres_KD).min(axis=1).sum())


class Distances(nn.Module):
    """Scaling, then squared distances to the centres."""

    centres_KD: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, scaling: Scaling, centres_KD: Array) -> None:
        super().__init__()
        # In the data's own units |(x − m)/s − μ|² is a sum over features, without a difference of large squares.
        buffer(self, "centres_KD", centres_KD * scaling.scale_D + scaling.mean_D)
        buffer(self, "scale_D", scaling.scale_D)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        distances_BK: torch.Tensor = (
            ((x_BD.unsqueeze(1) - self.centres_KD) / self.scale_D).square().sum(dim=2)
        )
        return distances_BK

"""A mixture of k normal distributions, p(x) = Σ π_k N(x; μ_k, Σ_k), fitted by expectation and maximisation.

E: r_nk = π_k N(x_n; μ_k, Σ_k) / p(x_n). M: N_k = Σ_n r_nk, π_k = N_k / N, μ_k = Σ r_nk x_n / N_k, and Σ_k the weighted
covariance, with a little added to its diagonal so that no component falls onto one sample (Dempster et al. 1977). It
begins at k-means; the likelihood rises at each round, and the fit ends when it rises by less than a tolerance.

Dataset: a table, see `tables`; `target` names a column to leave out. Model: features FP32 [B, D] → log densities of the
components with their weights FP32 [B, k]: their softmax are the r of a sample, their logsumexp its log p.
"""

import math

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.layers import Scale, buffer
from services.trainer.job.tables import Array, Scaling
from services.trainer.recipes.kmeans import cluster, squared_distances
from services.trainer.recipes.pca import project

ROUNDS_MAX = 200
TOLERANCE = 1e-4  # of the mean log likelihood of a sample
FLOOR = 1e-6  # added to each variance


def train(run: Run) -> None:
    """Fit, describe, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    run.restore()
    scaling = Scaling.of(train.x_ND)
    x = scaling(train.x_ND)
    with run.phase("train"):
        weights_K, means_KD, covariances_KDD = fit(x, settings["components"], run.seed, run)
    held = log_densities(scaling(test.x_ND), weights_K, means_KD, covariances_KDD)
    free = len(weights_K) * (1 + x.shape[1] + x.shape[1] * (x.shape[1] + 1) / 2) - 1
    likelihood = float(log_sum(log_densities(x, weights_K, means_KD, covariances_KDD)).sum())
    figures = {
        "log_likelihood": likelihood / len(x),
        "test_log_likelihood": float(log_sum(held).mean()),
        "bic": free * math.log(len(x)) - 2 * likelihood,
    }
    shown = project(scaling(test.x_ND), 2)
    evaluation = result.described(
        f"Gaussian mixture, {run.name}",
        figures,
        plots.points("Components", "first", "second", shown[:, 0], shown[:, 1], held.argmax(axis=1)),
    )
    result.keep(
        run,
        Densities(scaling, weights_K, means_KD, covariances_KDD),
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="log_densities",
        files={"features.json": list(train.features)},
    )


def fit(x_ND: Array, components: int, seed: int, run: Run | None = None) -> tuple[Array, Array, Array]:
    """Weights, means and covariances."""
    centres_KD, _ = cluster(x_ND, components, starts=3, seed=seed)
    shares_NK = np.eye(components)[squared_distances(x_ND, centres_KD).argmin(axis=1)]
    before = -math.inf
    found = _maximise(x_ND, shares_NK)
    for step in range(1, ROUNDS_MAX + 1):
        densities_NK = log_densities(x_ND, *found)
        total_N = log_sum(densities_NK)
        now = float(total_N.mean())
        if run is not None:
            run.report(step, log_likelihood=now)
        if now - before < TOLERANCE:
            break
        before = now
        found = _maximise(x_ND, np.exp(densities_NK - total_N[:, None]))
    return found


def log_densities(x_ND: Array, weights_K: Array, means_KD: Array, covariances_KDD: Array) -> Array:
    """log π_k N(x; μ_k, Σ_k), by the Cholesky factor of Σ. Shape: [N, K]."""
    columns = []
    for weight, mean, covariance in zip(weights_K, means_KD, covariances_KDD, strict=True):
        factor = np.linalg.cholesky(covariance)
        z = np.linalg.solve(factor, (x_ND - mean).T)
        volume = np.log(np.diag(factor)).sum() + len(mean) / 2 * math.log(2 * math.pi)
        columns.append(math.log(weight) - volume - (z**2).sum(axis=0) / 2)
    return np.stack(columns, axis=1)


def log_sum(values_NK: Array) -> Array:
    """log Σ exp, without overflow."""
    largest = values_NK.max(axis=1)
    sums: Array = largest + np.log(np.exp(values_NK - largest[:, None]).sum(axis=1))
    return sums


def _maximise(x_ND: Array, shares_NK: Array) -> tuple[Array, Array, Array]:
    counts_K = shares_NK.sum(axis=0) + 10 * np.finfo(float).eps
    means_KD = shares_NK.T @ x_ND / counts_K[:, None]
    covariances = []
    for k, mean in enumerate(means_KD):
        off = x_ND - mean
        covariances.append((shares_NK[:, k, None] * off).T @ off / counts_K[k] + FLOOR * np.eye(len(mean)))
    return counts_K / counts_K.sum(), means_KD, np.stack(covariances)


class Densities(nn.Module):
    """Scaling, then |A_k (x − μ_k)|² with A_k the inverse of the Cholesky factor."""

    means_KD: torch.Tensor
    inverses_KDD: torch.Tensor
    constant_K: torch.Tensor

    def __init__(self, scaling: Scaling, weights_K: Array, means_KD: Array, covariances_KDD: Array) -> None:
        super().__init__()
        factors = np.linalg.cholesky(covariances_KDD)
        volumes = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        constant = np.log(weights_K) - volumes - means_KD.shape[1] / 2 * math.log(2 * math.pi)
        self.scale = Scale(scaling)
        buffer(self, "means_KD", means_KD)
        buffer(self, "inverses_KDD", np.linalg.inv(factors))
        buffer(self, "constant_K", constant)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        off_KBD = self.scale(x_BD).unsqueeze(0) - self.means_KD.unsqueeze(1)
        z_KBD = off_KBD @ self.inverses_KDD.transpose(1, 2)
        densities_BK: torch.Tensor = self.constant_K - z_KBD.square().sum(dim=2).T / 2
        return densities_BK

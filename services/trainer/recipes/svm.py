"""Support vector machine, one class against the rest: s = φ(x)W + b, and the largest s is the guess.

Loss: mean over samples of Σ_c max(0, 1 − t s)², t = ±1, + ½ λ|W|² (squared hinge; Cortes and Vapnik 1995). `linear` has
φ(x) = x. `rbf` has the kernel k(x, x') = exp(−γ|x − x'|²) by L landmarks, drawn from the samples: with K the kernel
between them, φ(x) = k(x, landmarks) K^(−½) has φ(x)·φ(x') ≈ k(x, x'), and equal to it where all samples are landmarks
(Nyström's method; Williams and Seeger 2001). So it trains in time linear in N and is served as three small layers.

Dataset: a table, see `tables`. Model: features FP32 [B, D] → scores FP32 [B, C]. Scores are no probabilities: the
report's are their softmax, and its calibration says how far that is off.
"""

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables
from services.trainer.job.layers import Scale, buffer
from services.trainer.job.tables import Array, Scaling
from services.trainer.recipes.kmeans import squared_distances

LEAST = 1e-6  # eigenvalue of the landmarks' kernel that still says something in float32


def train(run: Run) -> None:
    """Fit, evaluate, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    scaling = Scaling.of(train.x_ND)
    x, y = torch.from_numpy(train.x_ND).float(), torch.from_numpy(train.y_N)
    held_x, held_y = torch.from_numpy(test.x_ND).float(), torch.from_numpy(test.y_N)
    landmarks_LD = None
    if settings["kernel"] == "rbf":
        chosen = np.random.default_rng(run.seed).permutation(len(x))[: settings["landmarks"]]
        landmarks_LD = scaling(train.x_ND)[chosen]
    model = Machine(scaling, len(train.classes), landmarks_LD, settings["gamma"])
    signs_NC = 2 * nn.functional.one_hot(y, len(train.classes)).float() - 1

    def loss(chosen_B: torch.Tensor) -> torch.Tensor:
        short_BC: torch.Tensor = (1 - signs_NC[chosen_B] * model(x[chosen_B])).clamp(min=0)
        size: torch.Tensor = model.layer.weight.square().sum()
        decay: float = settings["weight_decay"]
        return short_BC.square().sum(dim=1).mean() + decay / 2 * size

    loop.fit(
        run,
        model,
        len(x),
        loss,
        lambda: {"test_accuracy": float((model(held_x).argmax(1) == held_y).float().mean())},
        decay=False,
    )
    with torch.no_grad():
        probabilities = model(held_x).softmax(dim=1).numpy()
    evaluation = evaluate.classification(
        f"Support vector machine, {run.name}", probabilities, test.y_N, train.classes
    )
    result.keep(
        run,
        model,
        held_x[:8],
        evaluation,
        output_name="scores",
        labels=train.classes,
        files={"features.json": list(train.features)},
    )


class Machine(nn.Module):
    """Scaling, the kernel with its landmarks where there are any, and a layer."""

    landmarks_LD: torch.Tensor
    whitening_LL: torch.Tensor

    def __init__(self, scaling: Scaling, classes: int, landmarks_LD: Array | None, gamma: float) -> None:
        super().__init__()
        features = len(scaling.mean_D)
        self.scale = Scale(scaling)
        self.gamma = gamma or 1 / features  # scikit-learn's `scale`, for features of unit variance
        self.kernel = landmarks_LD is not None
        if landmarks_LD is not None:
            between_LL = np.exp(-self.gamma * squared_distances(landmarks_LD, landmarks_LD))
            values_L, vectors_LL = np.linalg.eigh(between_LL)
            roots_L = 1 / np.sqrt(np.maximum(values_L, LEAST))
            buffer(self, "landmarks_LD", landmarks_LD)
            buffer(self, "whitening_LL", (vectors_LL * roots_L) @ vectors_LL.T)
            features = len(landmarks_LD)
        self.layer = nn.Linear(features, classes)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.scale(x_BD)
        if self.kernel:
            squares_BL = h.square().sum(1, keepdim=True) + self.landmarks_LD.square().sum(1)
            squares_BL = (squares_BL - 2 * h @ self.landmarks_LD.T).clamp(min=0)
            h = torch.exp(-self.gamma * squares_BL) @ self.whitening_LL
        scores_BC: torch.Tensor = self.layer(h)
        return scores_BC

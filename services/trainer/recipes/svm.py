"""Support vector machine, one class against the rest: s = φ(x)W + b, and the largest s is the guess.

Loss: mean over classes of max(0, 1 − t s)², t = ±1, + ½ λ|W|² (squared hinge; Cortes and Vapnik 1995). `linear` has
φ(x) = x. `rbf` has the kernel exp(−γ|x − x'|²) by F random waves: φ(x) = √(2/F) cos(xΩ + u), Ω ~ N(0, 2γ), u ~ U(0, 2π)
(Rahimi and Recht 2007), so that it trains in time linear in N and is served as two layers.

Dataset: a table, see `tables`. Model: features FP32 [B, D] → scores FP32 [B, C]. Scores are no probabilities: the
report's are their softmax, and its calibration says how far that is off.
"""

import math

import torch
from torch import nn

from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables
from services.trainer.job.layers import Scale
from services.trainer.job.tables import Scaling


def train(run: Run) -> None:
    """Fit, evaluate, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.dataset(), settings["target"], classes=True, seed=run.seed)
    scaling = Scaling.of(train.x_ND)
    x, y = torch.from_numpy(train.x_ND).float(), torch.from_numpy(train.y_N)
    held_x, held_y = torch.from_numpy(test.x_ND).float(), torch.from_numpy(test.y_N)
    model = Machine(scaling, len(train.classes), settings["kernel"], settings["waves"], settings["gamma"])
    signs_NC = 2 * nn.functional.one_hot(y, len(train.classes)).float() - 1
    loop.fit(
        run,
        model,
        len(x),
        lambda chosen_B: (1 - signs_NC[chosen_B] * model(x[chosen_B])).clamp(min=0).square().mean(),
        lambda: {"test_accuracy": float((model(held_x).argmax(1) == held_y).float().mean())},
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
    """Scaling, waves where the kernel has them, and a layer."""

    waves_DF: torch.Tensor
    phase_F: torch.Tensor

    def __init__(self, scaling: Scaling, classes: int, kernel: str, waves: int, gamma: float) -> None:
        super().__init__()
        features = len(scaling.mean_D)
        self.scale = Scale(scaling)
        self.rbf = kernel == "rbf"
        gamma = gamma or 1 / features  # scikit-learn's `scale`, for features of unit variance
        self.register_buffer("waves_DF", torch.randn(features, waves) * math.sqrt(2 * gamma))
        self.register_buffer("phase_F", torch.rand(waves) * 2 * math.pi)
        self.layer = nn.Linear(waves if self.rbf else features, classes)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        h = self.scale(x_BD)
        if self.rbf:
            h = math.sqrt(2 / self.phase_F.shape[0]) * torch.cos(h @ self.waves_DF + self.phase_F)
        scores_BC: torch.Tensor = self.layer(h)
        return scores_BC

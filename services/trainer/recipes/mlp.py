"""A multilayer perceptron over a table: h₀ = x, hᵢ = max(0, hᵢ₋₁Wᵢ + bᵢ) with dropout, and a layer at the end.

Loss: cross-entropy over classes, or half the mean squared error of a number; gradients by backpropagation (Rumelhart
et al. 1986).

Dataset: a table, see `tables`. Model: features FP32 [B, D] → probabilities FP32 [B, C], or value FP32 [B, 1].
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables
from services.trainer.job.layers import Scale
from services.trainer.job.tables import Scaling


def train(run: Run) -> None:
    """Train, evaluate, hand over."""
    settings = loop.prepare(run)
    classes = settings["task"] == "classes"
    train, test = tables.load(run.files(), settings["target"], classes=classes, seed=run.seed)
    device = loop.device()
    x, held_x = (torch.from_numpy(part.x_ND).float().to(device) for part in (train, test))
    target = Scaling.of(train.y_N[:, None], wanted=not classes)
    y, held_y = (torch.from_numpy(part.y_N).to(device) for part in (train, test))
    model = Perceptron(
        Scaling.of(train.x_ND),
        [settings["width"]] * settings["layers"],
        len(train.classes) or 1,
        settings["dropout"],
    ).to(device)
    mean, scale = float(target.mean_D[0]), float(target.scale_D[0])

    def loss(chosen_B: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(x[chosen_B])
        if classes:
            return functional.cross_entropy(out, y[chosen_B])
        off_B = out[:, 0] - (y[chosen_B].float() - mean) / scale
        return off_B.square().mean() / 2

    def figures() -> dict[str, float]:
        if classes:
            return {"test_accuracy": float((model(held_x).argmax(1) == held_y).float().mean())}
        return {"test_rmse": float(((model(held_x)[:, 0] * scale + mean) - held_y).square().mean().sqrt())}

    loop.fit(run, model, len(x), loss, figures)
    served = nn.Sequential(model, nn.Softmax(dim=1)) if classes else _rescaled(model, mean, scale)
    served = served.cpu().eval()
    with torch.no_grad():
        out = served(held_x.cpu()).numpy()
    title = f"Multilayer perceptron, {run.name}"
    if classes:
        evaluation = evaluate.classification(title, out, test.y_N, train.classes)
    else:
        evaluation = evaluate.regression(title, out[:, 0], test.y_N)
    result.keep(
        run,
        served,
        held_x[:8].cpu(),
        evaluation,
        output_name="probabilities" if classes else "value",
        labels=train.classes,
        files={"features.json": list(train.features)},
    )


class Perceptron(nn.Module):
    """Scaling, hidden layers, and the last."""

    def __init__(self, scaling: Scaling, widths: list[int], out: int, dropout: float) -> None:
        super().__init__()
        self.scale = Scale(scaling)
        sizes = [len(scaling.mean_D), *widths]
        hidden = [
            layer
            for inner, outer in pairwise(sizes)
            for layer in (nn.Linear(inner, outer), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], out))

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(self.scale(x_BD))
        return out


def _rescaled(model: nn.Module, mean: float, scale: float) -> nn.Module:
    """A model of a number in its own units."""
    last = nn.Linear(1, 1)
    last.load_state_dict({"weight": torch.tensor([[scale]]), "bias": torch.tensor([mean])})
    return nn.Sequential(model, last)

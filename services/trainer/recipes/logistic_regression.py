"""Logistic regression over any number of classes: p = softmax(xW + b).

Loss: mean −log p[label] + ½ λ|W|² (cross-entropy; Cox 1958). Its gradient is Xᵀ(p − onehot)/N + λW. `lbfgs` follows
it with a memory of its curvature to the minimum (Liu and Nocedal 1989); the other optimizers by steps of batches.

Dataset: a table, see `tables`. Model: features FP32 [B, D] → probabilities FP32 [B, C], scaling folded in.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables
from services.trainer.job.layers import linear
from services.trainer.job.tables import Array, Scaling


def train(run: Run) -> None:
    """Fit, evaluate, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    scaling = Scaling.of(train.x_ND)
    x, y = torch.from_numpy(scaling(train.x_ND)), torch.from_numpy(train.y_N)
    held_x, held_y = torch.from_numpy(scaling(test.x_ND)), torch.from_numpy(test.y_N)
    layer = nn.Linear(x.shape[1], len(train.classes), dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    if settings["optimizer"] == "lbfgs":
        run.restore()
        minimise(layer, x, y, settings["weight_decay"])
    else:
        loop.fit(
            run,
            layer,
            len(x),
            lambda chosen_B: _loss(layer, x[chosen_B], y[chosen_B], settings["weight_decay"]),
            lambda: {"test_accuracy": float((layer(held_x).argmax(1) == held_y).double().mean())},
            decay=False,
        )
    weights_CD = layer.weight.detach().numpy() / scaling.scale_D
    bias_C = layer.bias.detach().numpy() - weights_CD @ scaling.mean_D
    probabilities = softmax(test.x_ND @ weights_CD.T + bias_C)
    evaluation = evaluate.classification(
        f"Logistic regression, {run.name}", probabilities, test.y_N, train.classes
    )
    result.keep(
        run,
        nn.Sequential(linear(weights_CD, bias_C), nn.Softmax(dim=1)),
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="probabilities",
        labels=train.classes,
        files={"features.json": list(train.features)},
    )


def minimise(layer: nn.Linear, x: torch.Tensor, y: torch.Tensor, decay: float, steps: int = 1000) -> None:
    """Bring a layer to the minimum of the loss."""
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=steps,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = _loss(layer, x, y, decay)
        value.backward()
        return value

    optimizer.step(loss)


def _loss(layer: nn.Linear, x: torch.Tensor, y: torch.Tensor, decay: float) -> torch.Tensor:
    return functional.cross_entropy(layer(x), y) + decay / 2 * layer.weight.square().sum()


def softmax(logits_NC: Array) -> Array:
    """Probabilities, without overflow."""
    powers = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares

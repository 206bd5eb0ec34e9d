"""Linear regression: ŷ = xw + b, with the w and b that make ½ mean (ŷ − y)² + ½ λ|w|² least.

`closed` solves (XᵀX + NλI) w = Xᵀy on centred data, by singular values where λ is 0 (Gauss 1809; ridge: Hoerl and
Kennard 1970). The other optimizers walk down the gradient Xᵀ(ŷ − y)/N + λw: of all samples (`gd`) or of a batch.

Dataset: a table, see `tables`. Model: features FP32 [B, D] → value FP32 [B, 1], scaling folded in.
"""

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables
from services.trainer.job.layers import linear
from services.trainer.job.tables import Array, Scaling


def train(run: Run) -> None:
    """Fit, evaluate, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=False, seed=run.seed)
    scaling = Scaling.of(train.x_ND)
    if settings["optimizer"] == "closed":
        run.restore()
        w_D, b = solve(train.x_ND, train.y_N, settings["weight_decay"])
    else:
        w_D, b = _descend(run, scaling(train.x_ND), train.y_N, scaling(test.x_ND), test.y_N)
        w_D = w_D / scaling.scale_D
        b = b - float(scaling.mean_D @ w_D)
    evaluation = evaluate.regression(f"Linear regression, {run.name}", test.x_ND @ w_D + b, test.y_N)
    result.keep(
        run,
        linear(w_D[None, :], np.array([b])),
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="value",
        files={"features.json": list(train.features)},
    )


def solve(x_ND: Array, y_N: Array, decay: float) -> tuple[Array, float]:
    """The least w and b, exactly."""
    x_mean, y_mean = x_ND.mean(axis=0), y_N.mean()
    x, y = x_ND - x_mean, y_N - y_mean
    if decay:
        w_D = np.linalg.solve(x.T @ x + len(y) * decay * np.eye(x.shape[1]), x.T @ y)
    else:
        w_D = np.linalg.lstsq(x, y, rcond=None)[0]  # also where columns depend on each other
    return w_D, float(y_mean - x_mean @ w_D)


def _descend(run: Run, x_ND: Array, y_N: Array, test_x: Array, test_y: Array) -> tuple[Array, float]:
    """By steps, in units in which y has no mean and unit spread, so that one learning rate fits all data."""
    mean, spread = y_N.mean(), y_N.std() or 1.0
    x, y = torch.from_numpy(x_ND), torch.from_numpy((y_N - mean) / spread)[:, None]
    held_x, held_y = torch.from_numpy(test_x), torch.from_numpy((test_y - mean) / spread)[:, None]
    decay = run.hparams["weight_decay"]
    model = nn.Linear(x.shape[1], 1, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    loop.fit(
        run,
        model,
        len(x),
        lambda chosen_B: (
            (model(x[chosen_B]) - y[chosen_B]).square().mean() / 2 + decay / 2 * model.weight.square().sum()
        ),
        lambda: {"test_rmse": float((model(held_x) - held_y).square().mean().sqrt() * spread)},
        decay=False,
    )
    w_D = model.weight.detach().numpy()[0] * spread
    return w_D, float(model.bias.item() * spread + mean)

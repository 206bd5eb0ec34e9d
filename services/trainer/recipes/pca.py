"""Principal components: the directions of greatest variance, by the singular value decomposition X − x̄ = U S Vᵀ.

The rows of Vᵀ are the components, S²/(N − 1) their variances (Pearson 1901; Hotelling 1933). Each component's largest
loading is positive, so that its sign means the same on every machine.

Dataset: a table, see `tables`; `target` names a column to leave out, by which the plot is coloured.
Model: features FP32 [B, D] → components FP32 [B, k].
"""

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.layers import linear
from services.trainer.job.tables import Array, Scaling


def train(run: Run) -> None:
    """Decompose, describe, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    run.restore()
    scaling = Scaling.of(train.x_ND, wanted=settings["standardize"])
    x = scaling(train.x_ND)
    count = min(settings["components"], *x.shape)
    components_KD, variances_K = decompose(x, count)
    explained = variances_K / x.var(axis=0, ddof=1).sum()
    mean_D = x.mean(axis=0)
    held = scaling(test.x_ND) - mean_D
    lost = held - held @ components_KD.T @ components_KD
    figures = {
        "explained_variance": float(explained.sum()),
        "test_reconstruction_error": float((lost**2).mean()),
    }
    shown = held @ components_KD[:2].T
    parts = [
        plots.lines(
            "Explained variance", "components", "share", [("", np.arange(1, count + 1), explained.cumsum())]
        )
    ]
    if count > 1:
        groups = test.y_N if len(test.y_N) else None
        parts.append(plots.points("The first two", "first", "second", shown[:, 0], shown[:, 1], groups))
    evaluation = result.described(f"Principal components, {run.name}", figures, *parts)
    weights_KD = components_KD / scaling.scale_D
    model: nn.Module = linear(weights_KD, -weights_KD @ scaling.mean_D - components_KD @ mean_D)
    result.keep(
        run,
        model,
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="components",
        files={"features.json": list(train.features)},
    )


def decompose(x_ND: Array, count: int) -> tuple[Array, Array]:
    """The first components and their variances."""
    _, singular, components = np.linalg.svd(x_ND - x_ND.mean(axis=0), full_matrices=False)
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return components[:count], (singular**2 / (len(x_ND) - 1))[:count]


def project(x_ND: Array, count: int) -> Array:
    """Samples on their first components, with zeros where they have fewer."""
    components_KD, _ = decompose(x_ND, count)
    shown = (x_ND - x_ND.mean(axis=0)) @ components_KD.T
    return np.pad(shown, ((0, 0), (0, count - shown.shape[1])))

"""Optimizers by the names that `catalog` offers, with the update each makes.

θ parameters, g gradient, η learning rate, λ weight decay.
"""

from collections.abc import Iterable

import torch
from torch import nn


def make(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer called `name`.

    sgd: θ ← θ − η (g + λθ)
    momentum: v ← 0.9 v + g + λθ; θ ← θ − η v  (Polyak 1964)
    adam: θ ← θ − η m̂ / (√v̂ + ε), with g + λθ in the moments  (Kingma and Ba 2015)
    adamw: adam on g alone, and θ ← θ − η λ θ beside it  (Loshchilov and Hutter 2019)
    """
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay)
        case "momentum":
            return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    raise ValueError(f"no optimizer is called {name!r}")

"""Layers that several recipes have."""

import torch
from torch import nn

from services.trainer.job.tables import Array, Scaling


class Scale(nn.Module):
    """Features in units of their spread around their mean, as the training part has them."""

    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        buffer(self, "mean_D", scaling.mean_D)
        buffer(self, "scale_D", scaling.scale_D)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return (x_BD - self.mean_D) / self.scale_D


def buffer(module: nn.Module, name: str, value: Array) -> None:
    """Give a module numbers that belong to it and are not trained."""
    module.register_buffer(name, torch.from_numpy(value).float())


def linear(weights_CD: Array, bias_C: Array) -> nn.Linear:
    """A layer with these weights."""
    layer = nn.Linear(weights_CD.shape[1], weights_CD.shape[0])
    layer.load_state_dict({"weight": torch.from_numpy(weights_CD), "bias": torch.from_numpy(bias_C)})
    return layer

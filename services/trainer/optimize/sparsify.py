"""Unstructured pruning: the smallest weights become zero, over all layers by one threshold (Han et al. 2015).

Zeros stay zero when the network is trained on. The file keeps its size and the arithmetic its speed: this pays where
files are compressed, or on hardware that skips zeros.
"""

from collections.abc import Mapping
from typing import Any

import torch

from services.trainer.optimize import networks
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network with that share of its weights at zero."""
    found = net.copy()
    weights = [layer.weight for layer in networks.layers(found.module).values()]
    every = torch.cat([each.detach().abs().flatten() for each in weights])
    threshold = every.kthvalue(max(1, round(settings["share"] * len(every)))).values
    with torch.no_grad():
        for each in weights:
            each.mul_(each.abs() > threshold)
    return found

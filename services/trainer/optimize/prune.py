"""Structured pruning: whole channels and neurons go, with everything that only they fed.

The importance of a channel is the L2 norm of all weights that would go with it, over the layers that it links
(Fang et al., DepGraph, 2023, by the library torch-pruning); the least important `share` of each layer goes. The last
layer keeps its outputs. Fine-tune afterwards: this changes what the layers compute.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch_pruning
from torch import nn

from services.trainer.optimize import networks
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import NotOptimizable, Task


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network without its least important channels."""
    networks.plain(net, "prune")
    if net.description.get("ranks"):
        raise NotOptimizable("Prune before svd: channels of factored layers mean nothing by themselves.")
    found = net.copy()
    found.module.eval()
    *_, last = networks.layers(found.module).values()
    torch_pruning.pruner.BasePruner(
        found.module,
        task.train.inputs[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=settings["share"],
        ignored_layers=[last],
    ).step()
    for each in found.module.parameters():
        each.grad = None
    layers = networks.layers(found.module)
    convolutions = [each.out_channels for each in layers.values() if isinstance(each, nn.Conv2d)]
    hidden = next(each.out_features for each in layers.values() if isinstance(each, nn.Linear))
    pruned = networks.build({**net.description, "channels": convolutions, "hidden": hidden})
    state = {name: torch.as_tensor(each).detach().clone() for name, each in found.module.state_dict().items()}
    pruned.module.load_state_dict(state)
    return pruned

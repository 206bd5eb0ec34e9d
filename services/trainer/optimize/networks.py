"""Networks from what recipes leave beside a model, `network.json` and `network.safetensors`, and back.

    {"recipe": "image_classifier", "classes": 10, "size": [28, 28], "channels": [32, 64, 64], "hidden": 128,
     "ranks": {"head.0": 16}}

`ranks` names the layers that are products of two thin ones. An ensemble holds the descriptions of its `members`, and
whether they are `stacked`.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from services.trainer.job.result import NETWORK_FILE, WEIGHTS_FILE, save_network
from services.trainer.optimize.task import NotOptimizable
from services.trainer.recipes import image_classifier

RECIPES = ("image_classifier",)
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Net:
    """A network, and what it can be built from."""

    module: nn.Module
    description: Mapping[str, Any] = field(default_factory=dict)

    def copy(self) -> "Net":
        """Another with the same weights."""
        return Net(copy.deepcopy(self.module), dict(self.description))

    @property
    def parameters(self) -> int:
        """How many numbers it has learnt."""
        return sum(each.numel() for each in self.module.parameters())

    def save(self, folder: Path) -> None:
        """Write both files."""
        save_network(folder, self.module, self.description)


class Ensemble(nn.Module):
    """Networks that answer together.

    Args:
        classes: Of a layer over what they say; 0: their mean, without one.
    """

    def __init__(self, members: Sequence[nn.Module], classes: int = 0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stack = nn.Linear(len(members) * classes, classes) if classes else None
        if self.stack is not None:
            with torch.no_grad():
                self.stack.weight.copy_(torch.eye(classes).repeat(1, len(members)) / len(members))
                self.stack.bias.zero_()

    def said(self, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the members beside each other. Shape: [B, MC]."""
        return torch.cat([member(inputs).log_softmax(1) for member in self.members], dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape: [B, C]."""
        if self.stack is not None:
            logits: torch.Tensor = self.stack(self.said(inputs))
            return logits
        shares = [member(inputs).softmax(1) for member in self.members]
        return torch.stack(shares).mean(0).clamp_min(1e-12).log()


def load(folder: Path) -> Net:
    """The network of a model version's files.

    Raises:
        NotOptimizable: its recipe left none.
    """
    if not (folder / NETWORK_FILE).is_file():
        raise NotOptimizable(
            f"This model version holds no weights that can be trained on: those of {', '.join(RECIPES)} do. "
            "Techniques that change the exported file alone can take it: int8_static, int8_dynamic, float16."
        )
    net = build(json.loads((folder / NETWORK_FILE).read_text()))
    net.module.load_state_dict(load_file(folder / WEIGHTS_FILE))
    net.module.eval()
    return net


def build(description: Mapping[str, Any]) -> Net:
    """An untrained network.

    Raises:
        NotOptimizable: of a recipe that this release cannot build.
    """
    if description.get("recipe") == ENSEMBLE:
        members = [build(each).module for each in description["members"]]
        together = Ensemble(members, description["classes"] if description.get("stacked") else 0)
        return _factored(Net(together, description))
    if description.get("recipe") not in RECIPES:
        raise NotOptimizable(f"Networks of {description.get('recipe')!r} cannot be built.")
    shape = {key: description[key] for key in ("channels", "hidden", "norm") if key in description}
    module = image_classifier.Network(description["classes"], description["size"], **shape)
    return _factored(Net(module, description))


def _factored(net: Net) -> Net:
    for name, rank in net.description.get("ranks", {}).items():
        factor(net.module, name, rank)
    return net


def plain(net: Net, technique: str) -> None:
    """Refuse an ensemble.

    Raises:
        NotOptimizable: it is one.
    """
    if net.description.get("recipe") == ENSEMBLE:
        raise NotOptimizable(f"{technique} takes one network, and this is an ensemble: distil it first.")


def widths(description: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same kind of network with every width multiplied; each is at least 1. Of an ensemble, its first member's."""
    if description.get("recipe") == ENSEMBLE:
        return widths(description["members"][0], factor)
    channels, hidden = description.get("channels", (32, 64, 64)), description.get("hidden", 128)
    return {
        **{key: value for key, value in description.items() if key != "ranks"},
        "channels": [max(1, round(width * factor)) for width in channels],
        "hidden": max(1, round(hidden * factor)),
    }


def factor(module: nn.Module, name: str, rank: int) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
    """Put two thin layers in place of one; returns them, with the bias and not yet the weights."""
    layer = module.get_submodule(name)
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features)
    elif isinstance(layer, nn.Conv2d):
        first = nn.Conv2d(
            layer.in_channels,
            rank,
            pair(layer.kernel_size),
            pair(layer.stride),
            pair(layer.padding),
            bias=False,
        )
        second = nn.Conv2d(rank, layer.out_channels, 1)
    else:
        raise NotOptimizable(f"{name} is no linear layer and no convolution.")
    with torch.no_grad():
        assert second.bias is not None
        second.bias.copy_(torch.zeros(()) if layer.bias is None else layer.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Sequential(first, second))
    return first, second


def pair(value: Any) -> tuple[int, int]:
    """A convolution's setting, down and across."""
    return int(value[0]), int(value[1])


def layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every linear layer and plain convolution, by name, in the order in which they are defined."""
    return {
        name: each
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear)
        or (isinstance(each, nn.Conv2d) and each.groups == 1 and pair(each.dilation) == (1, 1))
    }


def matrix(layer: nn.Linear | nn.Conv2d) -> torch.Tensor:
    """A layer's weights, one row an output; a convolution's are reshaped. Shape: [M, N]."""
    return layer.weight.detach().flatten(1)

"""A language model on its way through the steps, and the directory that it ends in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios.train import light
from aios.train.light import Adapters


@dataclass
class Model:
    """Weights in float32, and what is said of their layers. A step changes it in place."""

    folder: Path
    """Of the original: tokenizer, configuration."""
    module: Any
    ranks: dict[str, int]
    bits: dict[str, int] = field(default_factory=dict)
    """Of what this plan rounded."""
    was_rounded: bool = False
    """Its files hold whole numbers, which are floats here, and will be in what is written."""
    group: int = 0
    half: bool = False
    adapters: Adapters | None = None

    def write(self, folder: Path) -> None:
        """The directory that is registered and served. What is in 16 bits there is so here afterwards."""
        if self.adapters is not None:
            self.adapters.save(folder)
            self.adapters.detach()
        told = {"ranks": self.ranks, "bits": self.bits, "group": self.group}
        light.save(self.module, self.folder, folder, told if self.ranks or self.bits else {}, half=self.half)


def read(folder: Path) -> Model:
    """A model version's files."""
    module = light.load(folder)
    adapters = module._modules.pop("adapters", None)
    told = light.layers_of(folder)
    return Model(folder, module, told.get("ranks", {}), was_rounded=bool(told.get("bits")), adapters=adapters)

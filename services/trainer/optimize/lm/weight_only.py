"""Weight-only rounding: W ≈ s·Q with whole numbers Q of 8 or 4 bits and a scale s for each row, or each group of a row's
columns; activations stay as they are (`aios.train.light`). Needs no calibration, since weights are known.

Everything else that is a matrix, such as the embedding, is stored in 16 bits. What becomes smaller is the store, what a
replica fetches, and its disk: floats are made of the numbers when it reads them, so neither time nor memory changes.
A processor without instructions for it is many times slower at multiplying by whole numbers (docs/optimization.md).
"""

from collections.abc import Mapping
from typing import Any

from aios.train import light
from services.trainer.optimize.lm.models import Model
from services.trainer.optimize.lm.texts import Texts
from services.trainer.optimize.task import NotOptimizable


def apply(model: Model, texts: Texts, settings: Mapping[str, Any]) -> None:
    """Round every linear layer of the blocks, thin ones too.

    Raises:
        NotOptimizable: a group does not divide a layer's columns, or the layers have adapters.
    """
    del texts
    if model.adapters is not None:
        raise NotOptimizable("Adapters are folded in by `merge` before weights are rounded.")
    bits = int(settings["bits"])
    group = 0 if bits == 8 else settings["group"]
    for name, layer in light.named_linears(model.module).items():
        columns = layer.in_features
        if bits == 4 and (columns % 2 or (group and columns % group)):
            raise NotOptimizable(f"{name} has {columns} columns, which groups of {group} do not divide.")
        light.replace(model.module, name, light.Rounded.of(layer, bits, group))
        model.bits[name] = bits
    model.group, model.half = group, True

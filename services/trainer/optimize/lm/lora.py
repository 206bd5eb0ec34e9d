"""Trained on by low-rank adapters (LoRA, Hu et al. 2021; `aios.train.light.Adapters`): AdamW, the learning rate falling to
nothing along a cosine. Thin layers get adapters on both parts. The better of before and after is kept, by the perplexity
of blocks that were set aside.

Without `merge` the result is the base with the adapters in a file beside it: the store holds a base once, however many
adapters it has, and the step `merge` folds them in later. Weights that were read as whole numbers are floats by then, and
would be written as such, so a rounded base is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch

from aios.train.light import Adapters
from services.trainer.optimize.lm.models import Model
from services.trainer.optimize.lm.texts import Texts, losses
from services.trainer.optimize.task import NotOptimizable
from services.trainer.recipes import lora


def apply(model: Model, texts: Texts, settings: Mapping[str, Any]) -> None:
    """Train adapters and fold them in, or leave them beside the weights.

    Raises:
        NotOptimizable: it has adapters already, its weights were rounded, or they would be floats beside adapters.
    """
    if model.adapters is not None:
        raise NotOptimizable("The model has adapters already: `merge` folds them in.")
    if model.bits:
        raise NotOptimizable("Rounded weights take no small change: train before weight_only.")
    if model.was_rounded and not settings["merge"]:
        raise NotOptimizable(
            "Its weights are stored rounded, and beside adapters they would be floats: train with merge, or train the "
            "version that it was rounded from."
        )
    before = float(losses(model.module, texts.validation_NT).mean())
    adapters = Adapters(model.module, settings["rank"], settings["alpha"])
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=settings["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["steps"])
    for step in range(settings["steps"]):
        first = step * settings["batch_size"]
        rows_B = torch.arange(first, first + settings["batch_size"]) % len(texts.train_NT)
        value = lora.loss(model.module, texts.train_NT[rows_B])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        print(f"    step {step + 1}: loss {value.item():.3f}", flush=True)
    after = float(losses(model.module, texts.validation_NT).mean())
    print(f"    loss of the blocks that were set aside: {before:.3f}, then {after:.3f}", flush=True)
    adapters.requires_grad_(False)
    if after >= before:
        adapters.detach()
    elif settings["merge"]:
        adapters.merge()
    else:
        model.adapters = adapters

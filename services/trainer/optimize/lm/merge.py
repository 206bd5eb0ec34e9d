"""Adapters folded into the weights that they belong to: W + (α/r) B A takes W's place, and the model is plain again.

What it answers is the same but for the order of additions: `TOLERANCE` is on logits in float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from services.trainer.optimize.lm.models import Model
from services.trainer.optimize.lm.texts import BATCH, Texts
from services.trainer.optimize.task import NotOptimizable

TOLERANCE = 1e-3


def apply(model: Model, texts: Texts, settings: Mapping[str, Any]) -> None:
    """Fold them in.

    Raises:
        NotOptimizable: there are none, or the merged model answers otherwise.
    """
    del settings
    if model.adapters is None:
        raise NotOptimizable("The model has no adapters to be folded in.")
    blocks_NT = texts.validation_NT[:BATCH]
    before = _logits(model, blocks_NT)
    model.adapters.merge()
    model.adapters = None
    difference = float((_logits(model, blocks_NT) - before).abs().max())
    print(f"    logits differ by at most {difference:.1e}", flush=True)
    if difference > TOLERANCE:
        raise NotOptimizable(
            f"The merged model's logits differ by {difference:.1e}, more than {TOLERANCE:g}."
        )


@torch.no_grad()
def _logits(model: Model, blocks_NT: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.module(input_ids=blocks_NT).logits
    return logits

"""Adversarial training (Madry et al. 2018): the network is trained on inputs that were moved against it.

Loss of a batch: the mean of the cross-entropies of the inputs and of the same after PGD of a few steps within ε. What is
kept is what came last: a network that resists mostly knows clean inputs a little worse.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from services.trainer.optimize import attack
from services.trainer.optimize.fine_tune import fit
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import NotOptimizable, Task


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network, trained to resist."""
    if not task.images:
        raise NotOptimizable("harden moves values between 0 and 1: it takes images.")
    hardened = net.copy()
    module = hardened.module

    def loss(inputs: torch.Tensor, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        moved = attack.perturb(module, inputs, labels_B, settings["epsilon"], settings["attack_steps"])
        module.train()
        attacked = functional.cross_entropy(module(moved), labels_B)
        return (functional.cross_entropy(logits_BC, labels_B) + attacked) / 2

    fit(hardened, task, settings, loss)
    return hardened

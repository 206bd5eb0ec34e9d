"""Adversarial examples: inputs moved by at most ε in each value so that the loss rises.

One step, FGSM (Goodfellow et al. 2015): x' = x + ε·sign ∇L(x). Several, PGD (Madry et al. 2018): from a random point of
the ball, steps of 2.5·ε/k along the sign, each projected back onto it. Values stay within 0 and 1, as images do.
"""

import torch
from torch import nn
from torch.nn import functional

from services.trainer.optimize.task import EVALUATE_BATCH, Split

STEPS = 7
EPSILONS = {"2/255": 2 / 255, "8/255": 8 / 255}


def perturb(
    module: nn.Module, inputs: torch.Tensor, labels_B: torch.Tensor, epsilon: float, steps: int
) -> torch.Tensor:
    """The inputs, moved; the module is put into evaluation mode."""
    module.eval()
    one = steps == 1
    size = epsilon if one else 2.5 * epsilon / steps
    start = torch.zeros_like(inputs) if one else torch.empty_like(inputs).uniform_(-epsilon, epsilon)
    moved = (inputs + start).clamp(0, 1)
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = functional.cross_entropy(module(moved), labels_B, reduction="sum")
        (slope,) = torch.autograd.grad(loss, moved)
        near = torch.clamp(moved.detach() + size * slope.sign(), inputs - epsilon, inputs + epsilon)
        moved = near.clamp(0, 1)
    return moved.detach()


def withstood(module: nn.Module, split: Split, epsilon: float, steps: int = STEPS) -> torch.Tensor:
    """Which samples a network still gets right. Shape: [N]."""
    right = []
    for inputs, labels_B in zip(
        split.inputs.split(EVALUATE_BATCH), split.labels_N.split(EVALUATE_BATCH), strict=True
    ):
        moved = perturb(module, inputs, labels_B, epsilon, steps)
        with torch.no_grad():
            right.append(module(moved).argmax(1) == labels_B)
    return torch.cat(right)


def accuracy(module: nn.Module, split: Split, epsilon: float, samples: int, steps: int = STEPS) -> float:
    """Share of the first samples that a network still gets right."""
    some = Split(split.inputs[:samples], split.labels_N[:samples])
    return float(withstood(module, some, epsilon, steps).float().mean())

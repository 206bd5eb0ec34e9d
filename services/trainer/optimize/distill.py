"""Distillation: a small network learns from the answers of a large one (Hinton et al. 2015).

Loss of a sample with teacher logits t, student logits s and label y, at temperature T:
    w·T²·KL(softmax(t/T) ‖ softmax(s/T)) + (1 − w)·(−log softmax(s)[y]).

The student is of the teacher's kind with every width multiplied by one factor, the largest that leaves at most
1/`smaller` of the parameters. With `weight: 0` it learns alone, which is what a teacher's worth is measured against.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from services.trainer.optimize import networks
from services.trainer.optimize.fine_tune import fit
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task

BISECTIONS = 30


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The student, trained."""
    torch.manual_seed(task.seed)
    student = derive(net, settings["smaller"])
    teacher, temperature, weight = net.module.eval(), settings["temperature"], settings["weight"]

    def loss(inputs: torch.Tensor, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        alone = functional.cross_entropy(logits_BC, labels_B)
        if not weight:
            return alone
        with torch.no_grad():
            taught_BC = (teacher(inputs) / temperature).log_softmax(1)
        said_BC = (logits_BC / temperature).log_softmax(1)
        apart = functional.kl_div(said_BC, taught_BC, reduction="batchmean", log_target=True)
        both: torch.Tensor = weight * temperature**2 * apart + (1 - weight) * alone
        return both

    fit(student, task, settings, loss)
    return student


def derive(net: Net, smaller: float) -> Net:
    """An untrained network of the same kind with at most 1/`smaller` of the parameters."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = networks.build(networks.widths(net.description, middle)).parameters * smaller <= net.parameters
        low, high = (middle, high) if fits else (low, middle)
    return networks.build(networks.widths(net.description, low))

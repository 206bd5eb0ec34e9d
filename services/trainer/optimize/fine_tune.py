"""Training on: some epochs of Adam on the cross-entropy, the learning rate falling to nothing along a cosine
(Loshchilov and Hutter 2017). Weights that are zero stay zero. The better of before and after is kept, by accuracy on
the validation part: it happens that training on makes a network worse.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from services.trainer.job import data
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task, accuracy

BATCH = 64
ZEROS_MIN = 0.01  # share of a layer's weights: fewer are zero by chance
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of a batch: inputs, logits, labels."""


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network, trained on where that helps."""
    tuned = net.copy()
    fit(tuned, task, settings, lambda _, logits, labels: functional.cross_entropy(logits, labels))
    return max(net, tuned, key=lambda each: accuracy(each.module, task.validation))


def fit(net: Net, task: Task, settings: Mapping[str, Any], loss: Loss) -> None:
    """Minimise a loss over the first `samples` training samples (0: all)."""
    module = net.module
    samples = min(settings["samples"] or len(task.train.inputs), len(task.train.inputs))
    epochs = settings["epochs"]
    masks = [  # of parameters: a captured graph, as `qat` trains one, has no layers to be known by
        (weight, weight != 0)
        for weight in module.parameters()
        if weight.dim() > 1 and float((weight == 0).float().mean()) > ZEROS_MIN
    ]
    optimizer = torch.optim.Adam(module.parameters(), lr=settings["learning_rate"])
    total = epochs * data.steps_per_epoch(samples, BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    module.train()
    for _, _, chosen_B in data.batches(samples, BATCH, epochs, task.seed, 0):
        inputs = task.batch(chosen_B, net.description)
        value = loss(inputs, module(inputs), task.train.labels_N[chosen_B])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)
    module.eval()

"""Accuracy against ε: how far inputs must be moved until a classifier is wrong.

FGSM and PGD as in `services.trainer.optimize.attack`. Strong: a sample counts as right only where it withstands PGD and
every attack of an ensemble without parameters (AutoAttack, Croce and Hein 2020): APGD on the cross-entropy, APGD on the
difference of logits ratio, and Square, which sees answers alone (Andriushchenko et al. 2020). A model without weights to
differentiate is attacked by Square only. Implementation of these: the Adversarial Robustness Toolbox.

A curve of PGD that lies above that of Square says that gradients are masked, not that the model is robust.
Shapes: N samples, C classes.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from services.trainer.optimize import attack, task
from services.trainer.optimize.task import EVALUATE_BATCH, Array, Split

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the largest ε: where the curves have points."""
APGD_STEPS, SQUARE_QUERIES = 50, 200
SCALE = 255


@dataclass(frozen=True)
class Curve:
    """Accuracy of one attack. Shapes: [points]."""

    name: str
    epsilons: Array
    accuracy: Array


def curves(module: nn.Module, split: Split, epsilon: float, *, strong: bool) -> Iterator[Curve]:
    """Of a network, one attack after the other.

    Args:
        strong: Also the ensemble, at the largest ε alone: it costs a hundred times as much.
    """
    clean = float(attack.withstood(module, split, 0.0, steps=1).float().mean())
    sizes = np.array([0.0, *(share * epsilon for share in SHARES)])
    stand = []
    for name, steps in (("FGSM", 1), (f"PGD-{attack.STEPS}", attack.STEPS)):
        stand = [attack.withstood(module, split, size, steps).numpy() for size in sizes[1:]]
        yield Curve(name, sizes, np.array([clean, *(each.mean() for each in stand)]))
    if strong:
        found = _strong(_network(module, split), split, epsilon, stand[-1], gradients=True)
        yield Curve("AutoAttack", sizes[[0, -1]], np.array([clean, found]))


def black_box(file: Path, split: Split, epsilon: float, threads: int) -> Curve:
    """Of an exported model: what an attacker reaches who can only ask it."""
    ask = task.opened(file, threads)

    def answer(inputs: Array) -> Array:
        return ask(torch.from_numpy(inputs.astype(np.float32)))

    shape = tuple(split.inputs.shape[1:])
    classes = ask(split.inputs[:1]).shape[1]
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    asked = BlackBoxClassifierNeuralNetwork(
        answer, shape, classes, channels_first=True, clip_values=(0.0, 1.0)
    )
    clean_N = ask(split.inputs).argmax(1) == split.labels_N.numpy()
    right = [_strong(asked, split, share * epsilon, clean_N, gradients=False) for share in SHARES]
    sizes = np.array([0.0, *(share * epsilon for share in SHARES)])
    return Curve("Square", sizes, np.array([clean_N.mean(), *right]))


def said(epsilon: float) -> str:
    """ε as images have it: 8/255."""
    return f"{epsilon * SCALE:.3g}/{SCALE}"


def _network(module: nn.Module, split: Split) -> Any:
    # The toolbox reads every framework that is installed: some seconds, for who needs it alone.
    from art.estimators.classification import PyTorchClassifier

    module.eval()
    with torch.no_grad():
        classes = module(split.inputs[:1]).shape[1]
    return PyTorchClassifier(
        module,
        nn.CrossEntropyLoss(),
        tuple(split.inputs.shape[1:]),
        classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def _strong(asked: Any, split: Split, epsilon: float, standing_N: Array, *, gradients: bool) -> float:
    """Share of samples that withstand every attack, of those that stand so far."""
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack

    logging.getLogger("art").setLevel(logging.ERROR)
    inputs, labels_N = split.inputs.numpy(), split.labels_N.numpy()
    common = {"norm": np.inf, "eps": epsilon, "batch_size": EVALUATE_BATCH, "verbose": False}
    attacks = [SquareAttack(asked, max_iter=SQUARE_QUERIES, nb_restarts=1, **common)]
    if gradients:
        attacks = [
            AutoProjectedGradientDescent(
                asked,
                eps_step=epsilon / 4,
                max_iter=APGD_STEPS,
                nb_random_init=1,
                loss_type=loss,
                **common,
            )
            for loss in ("cross_entropy", "difference_logits_ratio")
        ] + attacks
    standing_N = standing_N.copy()
    for each in attacks:
        left = np.flatnonzero(standing_N)
        if not len(left):
            break
        moved = each.generate(inputs[left], labels_N[left])
        standing_N[left] = asked.predict(moved).argmax(1) == labels_N[left]
    return float(standing_N.mean())

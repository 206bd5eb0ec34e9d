"""Membership inference: can somebody who knows a sample tell from the model's answer whether it was trained on?

The attack is a threshold on the logit of the probability of the true class, log p_y − log(1 − p_y) (Yeom et al. 2018;
the score of Carlini et al. 2022). Members are from the training part, the others from the test part, as many of each.

AUC: 0.5 is a coin. Advantage: max over thresholds of TPR − FPR; a model that is (ε, δ)-differentially private keeps it
below (e^ε − 1 + 2δ)/(e^ε + 1) (Humphries et al. 2023). TPR at a FPR of 1%: what a careful attacker gets.
Shapes: N samples, C classes.
"""

import math
from dataclasses import dataclass

import numpy as np

from services.trainer.job import evaluate
from services.trainer.optimize.task import Array

LOW_FPR = 0.01


@dataclass(frozen=True)
class Leak:
    """What the attack reaches."""

    auc: float
    low: float
    high: float
    """Ends of the AUC's 95% interval."""
    advantage: float
    tpr_at_low_fpr: float
    samples: int
    """Of members, and of others."""


def measure(member_p_NC: Array, member_y_N: Array, other_p_NC: Array, other_y_N: Array) -> Leak:
    """From the probabilities that the model gives, and the true classes. Equal numbers are compared."""
    count = min(len(member_y_N), len(other_y_N))
    scores = np.concatenate(
        [score(member_p_NC[:count], member_y_N[:count]), score(other_p_NC[:count], other_y_N[:count])]
    )
    member = np.repeat([1, 0], count)
    auc = evaluate.roc_auc(np.stack([-scores, scores], axis=1), member)
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    tpr = np.cumsum(member[order])[last_of_tie] / count
    fpr = np.cumsum(1 - member[order])[last_of_tie] / count
    careful = tpr[fpr <= LOW_FPR]
    half = evaluate.Z95 * _spread(auc, count)
    return Leak(
        auc,
        auc - half,
        auc + half,
        float(max(0.0, (tpr - fpr).max())),
        float(careful.max()) if len(careful) else 0.0,
        count,
    )


def score(p_NC: Array, y_N: Array) -> Array:
    """The higher, the surer the model is of the truth. Shape: [N]."""
    p_N = np.clip(p_NC[np.arange(len(y_N)), y_N], 1e-12, 1 - 1e-12)
    found: Array = np.log(p_N) - np.log1p(-p_N)
    return found


def bound(epsilon: float, delta: float) -> float:
    """What differential privacy promises of the advantage."""
    return (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1)


def _spread(auc: float, count: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982)."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (count - 1) * (one - auc**2 + two - auc**2)
    return math.sqrt(max(0.0, variance)) / count

"""Whether an answer was right, and how good a revision is by what came back. Pure."""

import math
from dataclasses import dataclass

LATELY = 1_000
"""Answers that live quality is of: the newest of a revision that feedback came for."""
SURE = 50
"""Answers below which live quality decides nothing."""
ACCURACY = "live_accuracy"
"""What gates and alerts call it."""


@dataclass(frozen=True)
class Said:
    """A class or a number: what was answered, or what would have been right."""

    label: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, of classes; how far off, of numbers. Neither where the two are of different kinds."""

    correct: bool | None = None
    off: float | None = None


@dataclass(frozen=True)
class Quality:
    """Of one revision."""

    count: int = 0
    """Answers that were compared."""
    accuracy: float | None = None
    mae: float | None = None

    @property
    def sure(self) -> bool:
        """Whether it is of enough answers to decide something."""
        return self.accuracy is not None and self.count >= SURE


def judge(answer: Said, truth: Said) -> Verdict:
    """Compare. A class that is a number is the same as text: 7 is "7"."""
    if answer.label is not None:
        right = truth.label if truth.label is not None else f"{truth.value:.15g}"
        return Verdict(correct=answer.label == right)
    if answer.value is None:
        return Verdict()
    try:
        off = abs(answer.value - (float(truth.label or "") if truth.value is None else truth.value))
    except ValueError:
        return Verdict()
    return Verdict(off=off) if math.isfinite(off) else Verdict()

"""Original and variant side by side, and whether the variant may be promoted.

Accuracy: on the test part, with Wilson's 95% interval. Agreement: the share of test samples on which both say the same.
Calibration error: over ten bins of confidence (Guo et al. 2017). Numerics: the largest difference between what Triton
answered and what ONNX Runtime answers in this process.

Shapes: N samples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.job import evaluate
from services.trainer.job.evaluate import Figure
from services.trainer.optimize import count, task
from services.trainer.optimize.count import Size
from services.trainer.optimize.serving import Served
from services.trainer.optimize.task import Task

Array = NDArray[Any]
AGREEMENT_MIN = 0.98
"""Of the classes that a variant names through Triton and in this process. Answers that were rounded to 8 or 16 bits may
fall on the other side of a step where the two have other releases of ONNX Runtime."""


@dataclass(frozen=True)
class Side:
    """One model."""

    name: str
    size: Size
    accuracy: Figure
    recall_C: Sequence[float]
    calibration_error: float
    guesses_N: Array
    offline_NC: Array

    @classmethod
    def of(cls, name: str, file: Path, given: Task, threads: int) -> "Side":
        """Ask an exported model about the test part."""
        answers_NC = task.answers(file, given.test.inputs, threads)
        labels_N = given.test.labels_N.numpy()
        p_NC = task.probabilities(answers_NC)
        guesses_N = p_NC.argmax(axis=1)
        right_N = guesses_N == labels_N
        recall = [
            float(right_N[labels_N == c].mean()) if (labels_N == c).any() else 0.0
            for c in range(p_NC.shape[1])
        ]
        return cls(
            name=name,
            size=count.size(file),
            accuracy=evaluate.wilson(int(right_N.sum()), len(labels_N)),
            recall_C=recall,
            calibration_error=evaluate.calibration_error(p_NC, labels_N),
            guesses_N=guesses_N,
            offline_NC=answers_NC,
        )


@dataclass(frozen=True)
class Verdict:
    """Both sides, and what was missed."""

    original: Side
    variant: Side
    tuned: Side | None
    """The original after the same further training, where the variant was trained further."""
    served: Mapping[str, Served]
    """By `original` and `variant`."""
    limits: Mapping[str, float]
    missed: Sequence[str]
    attacked: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Accuracy of original and variant on inputs moved by at most so much, where both can be attacked."""

    @property
    def passed(self) -> bool:
        """It kept every limit."""
        return not self.missed

    @property
    def reference(self) -> Side:
        """What a fair comparison of accuracy is with: the better original."""
        sides = [each for each in (self.original, self.tuned) if each is not None]
        return max(sides, key=lambda each: each.accuracy.value)

    @property
    def points_lost(self) -> float:
        """Percentage points of accuracy."""
        return (self.reference.accuracy.value - self.variant.accuracy.value) * 100

    @property
    def smaller(self) -> float:
        """Times."""
        return self.original.size.bytes / self.variant.size.bytes

    @property
    def batch(self) -> int:
        """The measured batch size that is nearest to that of the limits."""
        return min(self.served["variant"].batches, key=lambda each: abs(each - self.limits["batch"]))

    @property
    def agreement(self) -> float:
        """Share of test samples on which both say the same."""
        return float((self.original.guesses_N == self.variant.guesses_N).mean())

    def times_as_long(self, batch: int) -> float:
        """The variant's latency over the original's."""
        return self.served["variant"].times(self.served["original"], batch)

    @property
    def numerics(self) -> float:
        """The largest difference between the variant's answers through Triton and here."""
        through = self.served["variant"].answers
        return float(np.abs(through - self.variant.offline_NC[: len(through)]).max())

    @property
    def metrics(self) -> dict[str, float]:
        """What the registry keeps of it: latencies at the batch size of the limits."""
        return {
            "accuracy": self.variant.accuracy.value,
            "points_lost": self.points_lost,
            "smaller": self.smaller,
            "times_as_long": self.times_as_long(self.batch),
            "p95_ms": float(self.served["variant"].batches[self.batch]["p95_ms"]),
            "agreement": self.agreement,
            "calibration_error": self.variant.calibration_error,
        }

    def told(self) -> dict[str, Any]:
        """As JSON."""
        sides = {"original": self.original, "variant": self.variant, "tuned_original": self.tuned}
        return {
            "passed": self.passed,
            "missed": list(self.missed),
            "limits": dict(self.limits),
            "points_lost": self.points_lost,
            "smaller": self.smaller,
            "agreement": self.agreement,
            "numerics": self.numerics,
            "attacked": {name: list(both) for name, both in self.attacked.items()},
            "times_as_long": {
                str(batch): self.times_as_long(batch) for batch in self.served["variant"].batches
            },
            **{
                name: {
                    "name": side.name,
                    **asdict(side.size),
                    "accuracy": asdict(side.accuracy),
                    "recall": list(side.recall_C),
                    "calibration_error": side.calibration_error,
                    "served": self.served[name].told() if name in self.served else None,
                }
                for name, side in sides.items()
                if side is not None
            },
        }


def judge(
    original: Side,
    variant: Side,
    tuned: Side | None,
    served: Mapping[str, Served],
    limits: Mapping[str, float],
) -> Verdict:
    """Hold a variant against the limits."""
    free = Verdict(original, variant, tuned, served, limits, ())
    batch = free.batch
    slower, p95 = free.times_as_long(batch), float(served["variant"].batches[batch]["p95_ms"])
    missed = []
    if free.points_lost > limits["points_lost"] + 1e-9:
        missed.append(f"lost {free.points_lost:.2f} points, {limits['points_lost']:g} are allowed")
    if free.smaller < limits["smaller"]:
        missed.append(f"is {free.smaller:.2f} times smaller, {limits['smaller']:g} are wanted")
    if slower > limits["slower"]:
        missed.append(f"takes {slower:.2f} times as long at batch {batch}, {limits['slower']:g} are allowed")
    if limits["p95_ms"] and p95 > limits["p95_ms"]:
        missed.append(f"has a p95 of {p95:.2f} ms at batch {batch}, {limits['p95_ms']:g} are allowed")
    through_N = served["variant"].answers.argmax(1)
    if float((through_N == variant.guesses_N[: len(through_N)]).mean()) < AGREEMENT_MIN:
        missed.append("answers otherwise through Triton than it did when it was made")
    return Verdict(original, variant, tuned, served, limits, tuple(missed))

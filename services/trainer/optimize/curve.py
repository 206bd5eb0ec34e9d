"""What a model of two stages answers and costs at other thresholds: accuracy over latency, through Triton.

The same graph is served at several thresholds beside the original, all asked in turns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aios.common.v1 import tensor_pb2
from services.trainer.optimize import gate, serving, task
from services.trainer.optimize.pipeline import Original, Variant

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Of validation samples that take the rest of the network."""
SECONDS = 1.0
ABOVE_ALL = 1.01


@dataclass(frozen=True)
class Point:
    """At one threshold."""

    threshold: float
    accuracy: float
    """On the test part."""
    times_as_long: float
    """Median latency over the original's, at the batch size of the limits."""
    p50_ms: float


def staged(variant: Variant) -> bool:
    """It has a threshold."""
    return any(name in ("cascade", "early_exit") for step in variant.steps for name in step)


def measure(
    original: Original, variant: Variant, plan: Mapping[str, Any], scratch: Path
) -> list[dict[str, float]]:
    """Points of the curve, from the first stage alone to everything."""
    given, threads = original.task, plan["threads"]
    sure_N = gate.asked(variant.file, given.validation.inputs)
    levels = [0.0, *gate.thresholds(sure_N, SHARES[1:-1]), ABOVE_ALL]
    files = [gate.at(variant.file, level, scratch / f"at-{number}") for number, level in enumerate(levels)]
    models: dict[str, tuple[Path, tensor_pb2.Signature]] = {
        "original": (scratch / "original", given.signature),
        **{file.parent.name: (file.parent, variant.signature) for file in files},
    }
    served = serving.measure(
        models,
        given.test.inputs,
        scratch,
        seconds=SECONDS,
        threads=threads,
        batches=[plan["limits"]["batch"]],
    )
    labels_N = given.test.labels_N.numpy()
    points = []
    for level, file in zip(levels, files, strict=True):
        cost = served[file.parent.name]
        (batch,) = cost.batches
        right_N = task.answers(file, given.test.inputs, threads).argmax(1) == labels_N
        points.append(
            Point(level, float(np.mean(right_N)), cost.times(served["original"], batch), cost.p50(batch))
        )
    return [asdict(point) for point in points]

"""Accuracy against ε on Fashion-MNIST: `python -m bench.optimize_privacy [EPSILON ...]`.

Data: Debian's package dataset-fashion-mnist, 60,000 images. One run of `image_classifier` without privacy and one for
each ε, and what membership inference reaches against each.
"""

import json
import sys
import tempfile
import threading
from pathlib import Path

import torch

from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from bench import fashion
from bench.report import Report
from services.trainer import catalog
from services.trainer.assess import membership
from services.trainer.optimize import task
from services.trainer.recipes import image_classifier

EPSILONS = (1.0, 3.0, 8.0)
SETTINGS = {"epochs": 4, "batch_size": 256, "shift_pixels": 0, "learning_rate": 0.003}
DELTA = 1e-5
"""Below one over the number of samples."""


def main() -> None:
    """Print each figure as it is known."""
    report = Report("optimize_privacy")
    epsilons = [float(word) for word in sys.argv[1:]] or EPSILONS
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-privacy-") as folder:
        root = Path(folder)
        report.say(f"data: {fashion.write(root / 'data')}")
        for epsilon in (0.0, *epsilons):
            figures = _train(root / f"{epsilon:g}", root / "data", epsilon)
            name = f"epsilon_{epsilon:g}" if epsilon else "without"
            for key in ("accuracy", "epsilon"):
                if key in figures:
                    report.figure(f"{name}_{key}", round(figures[key], 4))
            leak = _leak(root / f"{epsilon:g}" / "model" / "model.onnx", root / "data")
            report.figure(f"{name}_membership_auc", round(leak.auc, 4))
            report.figure(f"{name}_membership_advantage", round(leak.advantage, 4))
    report.finish()


def _train(folder: Path, data: Path, epsilon: float) -> dict[str, float]:
    given = {**SETTINGS, "dp_epsilon": epsilon, "dp_delta": DELTA}
    spec = run_pb2.RunSpec(recipe="image_classifier")
    spec.hyperparameters.update(dict(catalog.hyperparameters("image_classifier", given)))
    home = Local(folder, spec, {"dir": data})
    image_classifier.train(Run(home, threading.Event(), {}))
    home.close()
    metrics: dict[str, float] = json.loads((folder / "model.json").read_text())["metrics"]
    return metrics


def _leak(file: Path, data: Path) -> membership.Leak:
    parts = [image_classifier.load(data, split) for split in ("train", "test")]
    count = len(parts[1][0])
    asked = [
        (
            task.probabilities(task.answers(file, image_classifier.scaled(images[:count]), 1)),
            labels[:count].numpy(),
        )
        for images, labels in parts
    ]
    return membership.measure(*asked[0], *asked[1])


if __name__ == "__main__":
    main()

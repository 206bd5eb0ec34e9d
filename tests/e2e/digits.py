"""The digits as a small data set, and the run that trains on them: some seconds, always the same."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.cli import demo

TRAIN, TEST = 500, 200
STEPS_PER_EPOCH = 50
HYPERPARAMETERS = {"epochs": 4, "batch_size": TRAIN // STEPS_PER_EPOCH, "learning_rate": 0.003}
STEPS = STEPS_PER_EPOCH * 4
REPORTED = sorted({*range(10, STEPS + 1, 10)})
"""The steps that have a loss."""


def write(folder: Path) -> None:
    """A part of the demo's images, as the recipe reads them."""
    demo.write_dataset(folder / "all" / "digits")
    for split, count in (("train", TRAIN), ("test", TEST)):
        (folder / "digits" / split).mkdir(parents=True)
        for name in ("images", "labels"):
            part = np.load(folder / "all" / "digits" / split / f"{name}.npy")[:count]
            np.save(folder / "digits" / split / f"{name}.npy", part)


def held_out(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The test images as the model takes them, and their labels."""
    images = np.load(folder / "digits" / "test" / "images.npy")
    return images.astype(np.float32)[:, None] / 255, np.load(folder / "digits" / "test" / "labels.npy")


def spec(**changed: Any) -> dict[str, Any]:
    """What run.yaml says."""
    return {
        "recipe": "image_classifier",
        "dataset": "datasets/digits",
        "model": "digits",
        "seed": 7,
        "checkpoint_steps": 40,
        "hyperparameters": HYPERPARAMETERS,
        **changed,
    }


def curve(client: Any, run: str) -> dict[tuple[str, int], float]:
    """Every metric point of a run; a step that was stored twice is a failure."""
    points = list(client.runs.metrics(run))
    found = {(point.key, point.step): point.value for point in points}
    assert len(found) == len(points), "a step is there twice"
    return found

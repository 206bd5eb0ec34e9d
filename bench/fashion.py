"""70,000 images of Fashion-MNIST as arrays, from Debian's package `dataset-fashion-mnist`."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN = 60_000
FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"


def arrays() -> tuple[dict[str, NDArray[Any]], str]:
    """The images and labels, and what they are: noise of the same size where the package is not installed."""
    if not FOLDER.exists():
        noise = np.random.default_rng(0)
        images = noise.integers(0, 256, (70_000, 28, 28), np.uint8)
        return {"image": images, "label": noise.integers(0, 10, 70_000)}, "noise of the same size"
    parts = [(_read(IMAGES.format(name), 16), _read(LABELS.format(name), 8)) for name in ("train", "t10k")]
    images = np.concatenate([part[0] for part in parts]).reshape(-1, 28, 28)
    return {
        "image": images,
        "label": np.concatenate([part[1] for part in parts]).astype(np.int64),
    }, "fashion-mnist"


def write(folder: Path) -> str:
    """The same as the recipe `image_classifier` takes them; what they are."""
    found, what = arrays()
    for split, part in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        (folder / split).mkdir(parents=True)
        for name in ("image", "label"):
            np.save(folder / split / f"{name}s.npy", found[name][part])
    return what


def _read(name: str, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress((FOLDER / name).read_bytes())[header:], np.uint8)

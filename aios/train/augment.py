"""Batches changed at random as they are read: flips, crops, colours, mixtures, noise. The same seed and position change
a batch in the same way, whatever process reads it, so a run that is resumed sees what it would have seen.

    for position, batch in enumerate(records.loader(batch_size=256)):
        images = augment.images(batch["image"].numpy(), augment.generator(seed, epoch, position), crop=4)

Images are N x H x W or N x H x W x C, of bytes or of numbers between 0 and 1. Sources: Zhang et al., mixup, ICLR 2018;
Yun et al., CutMix, ICCV 2019; Cubuk et al., RandAugment, 2020.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CHANGES = ("flip", "crop", "shift", "brightness", "contrast", "invert", "erase", "noise")
"""What `rand_augment` chooses from."""


def generator(seed: int, *position: int) -> np.random.Generator:
    """Randomness of one batch: a function of the seed, the epoch and where the batch stands."""
    return np.random.default_rng([seed, *position])


def images(
    batch: Array,
    random: np.random.Generator,
    *,
    flip: bool = True,
    crop: int = 0,
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> Array:
    """Each image by chance: mirrored, moved by up to `crop` pixels, brighter or darker, with more or less contrast."""
    made = batch
    if flip:
        made = np.where(_each(random.random(len(batch)) < 0.5, batch), flipped(made), made)
    if crop:
        made = cropped(made, random, crop)
    if brightness:
        made = brightened(made, random.uniform(-brightness, brightness, len(batch)))
    if contrast:
        made = contrasted(made, 1 + random.uniform(-contrast, contrast, len(batch)))
    return made


def rand_augment(batch: Array, random: np.random.Generator, changes: int = 2, strength: float = 0.3) -> Array:
    """Each image changed so many times, each time in a way chosen at random, all of one strength, 0 to 1."""
    made = batch.copy()
    for _ in range(changes):
        chosen = random.integers(len(CHANGES), size=len(batch))
        for number, name in enumerate(CHANGES):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                made[rows] = _CHANGES[name](made[rows], random, strength)
    return made


def flipped(batch: Array) -> Array:
    """Mirrored left to right."""
    return batch[:, :, ::-1]


def cropped(batch: Array, random: np.random.Generator, pixels: int) -> Array:
    """Moved by up to so many pixels each way; what comes in is the mirrored border."""
    height, width = batch.shape[1:3]
    pixels = min(pixels, height - 1, width - 1)
    rest = [(0, 0)] * (batch.ndim - 3)
    padded = np.pad(batch, [(0, 0), (pixels, pixels), (pixels, pixels), *rest], mode="reflect")
    tops, lefts = random.integers(0, 2 * pixels + 1, (2, len(batch)))
    rows = tops[:, None] + np.arange(height)
    columns = lefts[:, None] + np.arange(width)
    moved: Array = padded[np.arange(len(batch))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def brightened(batch: Array, by: Array) -> Array:
    """Each image lighter by a share of white."""
    return _within(batch, batch + _each(by * _white(batch), batch))


def contrasted(batch: Array, factor: Array) -> Array:
    """Each image's distance from its own mean, times a factor."""
    mean = batch.mean(axis=tuple(range(1, batch.ndim)), keepdims=True)
    return _within(batch, mean + (batch - mean) * _each(factor, batch))


def erased(batch: Array, random: np.random.Generator, share: float) -> Array:
    """A square of each image, of so much of its sides, made grey."""
    made = batch.copy()
    for image, (top, bottom, left, right) in zip(made, _boxes(batch, random, share), strict=True):
        image[top:bottom, left:right] = _white(batch) // 2 if batch.dtype == np.uint8 else 0.5
    return made


def mixup(
    batch: Array, targets: Array, random: np.random.Generator, alpha: float = 0.2
) -> tuple[Array, Array]:
    """Each record mixed with another one of the batch, and its target too.

    Args:
        targets: N x C shares of the classes.
    """
    weight = random.beta(alpha, alpha, len(batch))
    other = random.permutation(len(batch))
    mixed = batch[other] + (batch.astype(np.float64) - batch[other]) * _each(weight, batch)
    return _within(batch, mixed), _mixed(targets, other, weight)


def cutmix(
    batch: Array, targets: Array, random: np.random.Generator, alpha: float = 1.0
) -> tuple[Array, Array]:
    """A box of each image taken from another one of the batch; its target by the share of the image that stayed."""
    other = random.permutation(len(batch))
    made = batch.copy()
    area = batch.shape[1] * batch.shape[2]
    stayed = np.ones(len(batch))
    sides = np.sqrt(1 - random.beta(alpha, alpha, len(batch)))
    for row, side in enumerate(sides):
        [(top, bottom, left, right)] = _boxes(batch[row : row + 1], random, float(side))
        made[row, top:bottom, left:right] = batch[other[row], top:bottom, left:right]
        stayed[row] = 1 - (bottom - top) * (right - left) / area
    return made, _mixed(targets, other, stayed)


def series(
    batch: Array, random: np.random.Generator, *, noise: float = 0.05, scale: float = 0.1, shift: int = 0
) -> Array:
    """Time series, N x T or N x T x D: noise of a share of their spread, another scale, moved in time."""
    spread = batch.std(axis=1, keepdims=True)
    made = batch * _each(1 + random.normal(0, scale, len(batch)), batch)
    made = made + random.normal(0, 1, batch.shape) * noise * spread
    if shift:
        steps = (np.arange(batch.shape[1]) - random.integers(-shift, shift + 1, len(batch))[:, None]).clip(
            0, batch.shape[1] - 1
        )
        made = made[np.arange(len(batch))[:, None], steps]
    changed: Array = made.astype(batch.dtype)
    return changed


def words(texts: Sequence[str], random: np.random.Generator, share: float = 0.1) -> list[str]:
    """Each text with some words left out and as many neighbours swapped; one word is always left."""
    made = []
    for text in texts:
        some = text.split()
        for _ in range(round(share * len(some))):
            place = int(random.integers(max(1, len(some) - 1)))
            some[place : place + 2] = some[place : place + 2][::-1]
        kept = [word for word in some if random.random() >= share] or some[:1]
        made.append(" ".join(kept))
    return made


def _moved(batch: Array, random: np.random.Generator, strength: float) -> Array:
    return cropped(batch, random, max(1, round(strength * min(batch.shape[1:3]) / 2)))


def _noisy(batch: Array, random: np.random.Generator, strength: float) -> Array:
    return _within(batch, batch + random.normal(0, strength / 2 * _white(batch), batch.shape))


_CHANGES: dict[str, Callable[[Array, np.random.Generator, float], Array]] = {
    "flip": lambda batch, random, strength: flipped(batch),
    "crop": lambda batch, random, strength: cropped(batch, random, 1),
    "shift": _moved,
    "brightness": lambda batch, random, strength: brightened(
        batch, random.uniform(-strength, strength, len(batch))
    ),
    "contrast": lambda batch, random, strength: contrasted(
        batch, 1 + random.uniform(-strength, strength, len(batch))
    ),
    "invert": lambda batch, random, strength: (_white(batch) - batch).astype(batch.dtype),
    "erase": erased,
    "noise": _noisy,
}


def _boxes(batch: Array, random: np.random.Generator, share: float) -> list[tuple[int, int, int, int]]:
    height, width = batch.shape[1:3]
    tall, wide = round(share * height), round(share * width)
    tops = random.integers(0, height - tall + 1, len(batch))
    lefts = random.integers(0, width - wide + 1, len(batch))
    return [
        (top, top + tall, left, left + wide) for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)
    ]


def _mixed(targets: Array, other: Array, weight: Array) -> Array:
    weight = weight.reshape(-1, *[1] * (targets.ndim - 1))
    made: Array = targets * weight + targets[other] * (1 - weight)
    return made


def _each(values: Array, batch: Array) -> Array:
    """One value for each record, so that it meets all of the record."""
    return values.reshape(-1, *[1] * (batch.ndim - 1))


def _white(batch: Array) -> int:
    return 255 if batch.dtype == np.uint8 else 1


def _within(batch: Array, changed: Array) -> Array:
    made: Array = np.clip(changed, 0, _white(batch))
    return (np.rint(made) if batch.dtype == np.uint8 else made).astype(batch.dtype)

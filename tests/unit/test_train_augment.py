"""Batches changed at random: the same way for the same place, within the range of a pixel, targets by their shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.train import augment
from aios.train.augment import Array


def pixels(kind: type = np.uint8, shape: tuple[int, ...] = (6, 12, 10, 3)) -> Array:
    made = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return made if kind is np.uint8 else (made / 255).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_same_place_is_changed_in_the_same_way_and_another_one_in_another(kind: type) -> None:
    batch = pixels(kind)
    one, same, other = (
        augment.rand_augment(augment.images(batch, random, crop=2, brightness=0.2, contrast=0.2), random)
        for random in (augment.generator(7, 0, 3), augment.generator(7, 0, 3), augment.generator(7, 0, 4))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert (one.dtype, one.shape) == (batch.dtype, batch.shape)
    assert one.min() >= 0
    assert one.max() <= (255 if kind is np.uint8 else 1)


def test_a_batch_that_was_given_is_left_as_it_was() -> None:
    batch = pixels()
    before = batch.copy()
    random = augment.generator(1)
    augment.rand_augment(augment.images(batch, random, crop=3, brightness=0.5), random, changes=5)
    augment.cutmix(batch, np.eye(6), random)
    assert np.array_equal(batch, before)


def test_a_crop_holds_only_pixels_of_its_own_image() -> None:
    batch = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 5), np.uint8)
    assert np.array_equal(augment.cropped(batch, augment.generator(0), 2), batch)


@given(st.integers(0, 1000), st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_mixed_targets_are_shares_that_say_what_is_in_the_image(seed: int, alpha: float) -> None:
    classes = 4
    batch = np.arange(classes, dtype=np.float64)[:, None, None] / 4 * np.ones((1, 8, 8))
    for mix in (augment.mixup, augment.cutmix):
        images, targets = mix(batch, np.eye(classes), augment.generator(seed), alpha)
        assert np.allclose(targets.sum(axis=1), 1)
        assert np.allclose(images.mean(axis=(1, 2)), targets @ (np.arange(classes) / 4))


def test_a_text_keeps_its_words_and_at_least_one() -> None:
    made = augment.words(["the quick brown fox", "one", ""], augment.generator(3), 0.5)
    assert set(made[0].split()) <= set("the quick brown fox".split())
    assert made[0]
    assert made[1:] == ["one", ""]


def test_a_series_keeps_its_shape_and_kind() -> None:
    batch = np.random.default_rng(0).normal(size=(5, 20, 2)).astype(np.float32)
    made = augment.series(batch, augment.generator(0), shift=3)
    assert (made.shape, made.dtype) == (batch.shape, batch.dtype)
    assert not np.array_equal(made, batch)

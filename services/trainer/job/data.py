"""The order in which samples are seen: a pure function of seed and step, so a resumed run sees what it would have."""

from collections.abc import Iterator

import torch


def batches(
    samples: int, batch_size: int, epochs: int, seed: int, first_step: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Step (from 1), epoch (from 1) and the sample indices of each batch after `first_step`.

    Every epoch is a new permutation of all samples; its last batch may be short. Shape: [batch].
    """
    per_epoch = steps_per_epoch(samples, batch_size)
    order = torch.empty(0)
    for step in range(first_step, epochs * per_epoch):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first_step:
            order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        yield step + 1, epoch + 1, order[position * batch_size : (position + 1) * batch_size]


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches that cover all samples once."""
    return -(-samples // batch_size)

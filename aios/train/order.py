"""The order of a dataset's records: a pure function of the shards, a seed, the epoch and a position.

No state is drawn forward and nothing is kept, so any position is found at once, and who resumes there, on any number of
processes, reads on as if nothing had happened. Shards are shuffled, then the records within a block of a few shards, so
that a reader needs only a block at a time.

Source: Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002 (a Feistel network with cycle walking).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
_Words = NDArray[np.uint64]

BLOCK_SHARDS = 8  # of 32 MiB: a quarter of a gigabyte on disk is shuffled as one
ROUNDS = 6  # four make it look random; two more against structure in small domains
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Order:
    """Where each record of an epoch lies.

    Args:
        rows: Records of each shard, in the order of the manifest.
        shuffle: False keeps the order of the manifest.
    """

    def __init__(
        self, rows: Sequence[int], seed: int, *, shuffle: bool = True, block_shards: int = BLOCK_SHARDS
    ) -> None:
        self._rows = np.asarray(rows, np.int64)
        self._seed = seed
        self._shuffle = shuffle
        self._block_shards = block_shards
        self._epoch = -1
        self._shards = self._ends = self._blocks = np.empty(0, np.int64)

    def __len__(self) -> int:
        return int(self._rows.sum())

    def locate(self, epoch: int, positions: Indices) -> tuple[Indices, Indices]:
        """Shard and row of each position, 0 to `len(self)` - 1, of an epoch."""
        self._enter(epoch)
        blocks = np.searchsorted(self._blocks, positions, side="right")
        shards, rows = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks):
            mine = blocks == block
            start = int(self._blocks[block - 1]) if block else 0
            within = positions[mine] - start
            if self._shuffle:
                size = int(self._blocks[block]) - start
                within = permute(within, size, key(self._seed, epoch, 1, int(block)))
            slots = np.searchsorted(self._ends, within + start, side="right")
            shards[mine] = self._shards[slots]
            rows[mine] = within + start - (self._ends[slots] - self._rows[self._shards[slots]])
        return shards, rows

    def block_of(self, epoch: int, position: int) -> Indices:
        """The shards that records near a position come from."""
        self._enter(epoch)
        block = int(np.searchsorted(self._blocks, position, side="right"))
        return self._shards[block * self._block_shards : (block + 1) * self._block_shards]

    def block_end(self, epoch: int, position: int) -> int:
        """The first position behind that block."""
        self._enter(epoch)
        return int(self._blocks[np.searchsorted(self._blocks, position, side="right")])

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        count = len(self._rows)
        shards = np.arange(count, dtype=np.int64)
        if self._shuffle:
            shards = permute(shards, count, key(self._seed, epoch, 0, 0))
        self._shards, self._ends = shards, np.cumsum(self._rows[shards])
        lasts = np.minimum(
            np.arange(self._block_shards, count + self._block_shards, self._block_shards), count
        )
        self._blocks = self._ends[lasts - 1]
        self._epoch = epoch


def key(*parts: int) -> int:
    """64 bits that differ where any of the numbers does."""
    state = 0
    for part in parts:
        state = _mix_one((state + _GOLDEN + part) & _MASK)
    return state


def permute(values: Indices, size: int, secret: int) -> Indices:
    """Where each value of `range(size)` goes under a permutation that a key chooses."""
    if size <= 1:
        return values
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    keys = [np.uint64(key(secret, number)) for number in range(ROUNDS)]
    words = values.astype(np.uint64)
    outside = np.ones(words.shape, bool)
    # The network permutes up to four times as many numbers: what falls outside goes through again.
    while outside.any():
        left, right = words[outside] >> shift, words[outside] & mask
        for each in keys:
            left, right = right, left ^ (_mix(right + each) & mask)
        words[outside] = (left << shift) | right
        outside = words >= size
    return words.astype(np.int64)


def _mix(words: _Words) -> _Words:
    """Spread each bit over all. Source: Steele et al., SplitMix64, OOPSLA 2014."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mix_one(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)

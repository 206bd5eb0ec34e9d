"""Records as PyTorch wants them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

if TYPE_CHECKING:
    from aios.train.data import Records


class Stream(IterableDataset[dict[str, Any]]):
    """One process's share of each batch, as tensors. Workers take turns, so that the order is that of one reader."""

    def __init__(
        self, records: "Records", batch_size: int, rank: int, world: int, *, drop_last: bool
    ) -> None:
        self._records = records
        self._batch_size = batch_size
        self._rank, self._world, self._drop_last = rank, world, drop_last

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        part = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = self._records.batches(
            self._batch_size, self._rank, self._world, drop_last=self._drop_last, part=part
        )
        for batch in batches:
            # The array is a copy of its own already: the tensor shares it.
            yield {
                name: torch.from_numpy(column) if isinstance(column, np.ndarray) else column
                for name, column in batch.items()
            }

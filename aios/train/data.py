"""Records of a dataset version, streamed in an order that any number of processes can resume in the middle of.

    records = aios.train.data.open("digits", seed=7)
    for batch in records.loader(batch_size=256, rank=rank, world=world):
        train(batch)
        records.commit(256)     # the optimizer has stepped: these are consumed
    state = records.state()     # into the checkpoint; `records.restore(state)` goes on from there

A version's shards are its `.arrow` files (`write_shards` makes them). What was handed out but not committed is read
again after a stop: workers that read ahead never move the state.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aios.errors import FailedPrecondition, InvalidArgument
from aios.train.fetch import HttpFetch
from aios.train.order import BLOCK_SHARDS, Indices, Order
from aios.train.shards import (
    CACHE_BYTES,
    Column,
    Mapped,
    Shard,
    ShardCache,
    ShardsInPlace,
    file_digest,
    write_shards,
)

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["Records", "State", "open", "open_folder", "write_shards"]

AHEAD = 4096
"""Records that are looked up at once: an array operation for many costs what it does for one."""


@dataclass
class State:
    """How far a run has read. Everything that the order depends on."""

    manifest: str
    """Digest that names the version."""
    seed: int
    epoch: int = 0
    samples_committed: int = 0
    """Of this epoch, by all processes together."""


class Records:
    """The records of one version."""

    def __init__(
        self,
        manifest: str,
        shards: Sequence[Shard],
        cache: ShardCache,
        seed: int,
        *,
        shuffle: bool = True,
        block_shards: int = BLOCK_SHARDS,
    ) -> None:
        if not shards:
            raise InvalidArgument.of(
                "dataset", "must hold `.arrow` shards: `aios.train.data.write_shards` makes them"
            )
        self._shards = shards
        self._cache = cache
        self._order = Order(
            [shard.rows for shard in shards], seed, shuffle=shuffle, block_shards=block_shards
        )
        self._state = State(manifest, seed)

    def __len__(self) -> int:
        return len(self._order)

    def close(self) -> None:
        """Stop reading ahead."""
        self._cache.close()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: taken after `commit`."""
        return asdict(self._state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, with any number of processes.

        Raises:
            FailedPrecondition: it is of another version or seed.
        """
        found = State(**state)
        if (found.manifest, found.seed) != (self._state.manifest, self._state.seed):
            raise FailedPrecondition(
                f"The checkpoint has read manifest {found.manifest} with seed {found.seed}, not "
                f"{self._state.manifest} with {self._state.seed}.",
                reason="OTHER_DATA",
            )
        self._state = found

    def commit(self, samples: int) -> None:
        """Count records as consumed: by all processes together, once the optimizer has stepped."""
        self._state.samples_committed += samples

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self._state.epoch += 1
        self._state.samples_committed = 0

    def batches(
        self,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        drop_last: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[dict[str, Column]]:
        """One process's share of each batch, from what is committed to the end of the epoch.

        Args:
            batch_size: Of all processes together. Keep it when their number changes.
            drop_last: Leave out a last batch that is not full.
            part: Number and count of the workers that share this process's batches: each yields every count-th.
        """
        epoch, start, total = self._state.epoch, self._state.samples_committed, len(self)
        count = (total - start) // batch_size if drop_last else -(-(total - start) // batch_size)
        mine = range(part[0], count, part[1])
        step = max(1, AHEAD * world // batch_size)
        for first in range(0, len(mine), step):
            spans = [
                _share(start + number * batch_size, batch_size, total, rank, world)
                for number in mine[first : first + step]
            ]
            columns = self._read(epoch, np.concatenate(spans))
            at = 0
            for span in spans:
                if len(span):
                    yield {name: column[at : at + len(span)] for name, column in columns.items()}
                at += len(span)

    def positions(
        self, batch_size: int, rank: int = 0, world: int = 1, *, drop_last: bool = True
    ) -> Iterator[Indices]:
        """Which records `batches` yields: shard and row of each, as one number of the whole version."""
        starts = np.concatenate([[0], np.cumsum([shard.rows for shard in self._shards])])
        epoch, start, total = self._state.epoch, self._state.samples_committed, len(self)
        count = (total - start) // batch_size if drop_last else -(-(total - start) // batch_size)
        for number in range(count):
            span = _share(start + number * batch_size, batch_size, total, rank, world)
            shards, rows = self._order.locate(epoch, span)
            yield starts[shards] + rows

    def loader(
        self, batch_size: int, rank: int = 0, world: int = 1, *, workers: int = 0, drop_last: bool = True
    ) -> "DataLoader[dict[str, Any]]":
        """A PyTorch DataLoader over `batches`, of tensors, in the same order whatever the number of workers."""
        from torch.utils.data import DataLoader

        from aios.train.torch_data import Stream

        stream = Stream(self, batch_size, rank, world, drop_last=drop_last)
        return DataLoader(stream, batch_size=None, num_workers=workers)

    def _read(self, epoch: int, positions: Indices) -> dict[str, Column]:
        shards, rows = self._order.locate(epoch, positions)
        needed = [self._shards[int(each)] for each in np.unique(shards)]
        self._look_ahead(epoch, positions, needed)
        out: dict[str, Column] = {}
        for number in np.unique(shards):
            mapped = self._cache.get(self._shards[int(number)])
            where = np.flatnonzero(shards == number)
            for name in mapped.names:
                _put(out, name, where, mapped.take(name, rows[where]), len(positions))
        return out

    def _look_ahead(self, epoch: int, positions: Indices, needed: Sequence[Shard]) -> None:
        """Fetch the block that is read and the one behind it; let go of the others."""
        last = int(positions[-1])
        blocks = [self._order.block_of(epoch, last)]
        end = self._order.block_end(epoch, last)
        if end < len(self):
            blocks.append(self._order.block_of(epoch, end))
        ahead = [self._shards[int(each)] for block in blocks for each in block]
        self._cache.prefetch([*needed, *ahead])
        self._cache.keep([*needed, *ahead])


def open(  # noqa: A001 - it is `data.open` where it is used
    dataset: str,
    seed: int,
    *,
    cache: str | Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    shuffle: bool = True,
    part: str = "",
) -> Records:
    """The records of a dataset version, `digits` or `digits/{version}`, fetched as they are needed.

    Finds the platform as every client does: in a job from its environment, elsewhere from what `aios login` saved.

    Args:
        cache: Where shards are kept; AIOS_SCRATCH of a job, else a folder in the user's cache.
        part: Only the shards in this folder, such as `train`.
    """
    from aios.client import Client

    with Client() as client:
        credentials, version = client.credentials, client.datasets.version(dataset)
        listed = [
            each
            for each in client.datasets.downloads(version.name)
            if each.row_count and each.file.path.startswith(f"{part}/" if part else "")
        ]
    shards = [
        Shard(each.file.path, each.file.sha256, each.file.size_bytes, each.row_count) for each in listed
    ]
    fetch = HttpFetch(
        credentials, version.name, {each.file.path: (each.url, each.encryption_key) for each in listed}
    )
    folder = Path(cache or os.environ.get("AIOS_SCRATCH") or Path.home() / ".cache" / "aios") / "shards"
    shard_cache = ShardCache(folder, fetch, cache_bytes)
    named = f"{version.manifest_sha256}/{part}" if part else version.manifest_sha256
    return Records(named, shards, shard_cache, seed, shuffle=shuffle)


def open_folder(
    folder: str | Path,
    seed: int,
    *,
    shuffle: bool = True,
    cache: str | Path | None = None,
    paths: Sequence[Path] = (),
) -> Records:
    """The records of shards that lie in a folder, without a platform.

    Args:
        cache: Where copies are kept, of shards on a slow disk; the shards are mapped in place where it is None.
        paths: Only these of them.
    """
    source = Path(folder)
    shards, whole = [], hashlib.sha256()
    for path in sorted(paths or source.rglob("*.arrow")):
        sha256, size = file_digest(path), path.stat().st_size
        shards.append(Shard(path.relative_to(source).as_posix(), sha256, size, len(Mapped(path))))
        whole.update(f"{shards[-1].path}\0{sha256}\n".encode())

    def copy(shard: Shard, target: Path) -> str:
        shutil.copyfile(source / shard.path, target)
        return file_digest(target)

    kept = ShardCache(Path(cache), copy) if cache else ShardsInPlace(source)
    return Records(whole.hexdigest(), shards, kept, seed, shuffle=shuffle)


def _share(start: int, batch_size: int, total: int, rank: int, world: int) -> Indices:
    """Positions of one process in one batch: processes take neighbouring ranges, whose sizes differ by one at most."""
    size = min(batch_size, total - start)
    return np.arange(start + size * rank // world, start + size * (rank + 1) // world, dtype=np.int64)


def _put(out: dict[str, Column], name: str, where: Indices, values: Column, total: int) -> None:
    if isinstance(values, np.ndarray):
        if name not in out:
            out[name] = np.empty((total, *values.shape[1:]), values.dtype)
        out[name][where] = values
        return
    column = out.setdefault(name, [None] * total)
    for index, value in zip(where.tolist(), values, strict=True):
        column[index] = value

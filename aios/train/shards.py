"""Shards of records: Arrow files of 16 to 64 MiB, written once, mapped into memory, checked when they are opened."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aios.errors import DataLoss, InvalidArgument
from aios.train.order import Indices

SHARD_BYTES = 32 << 20
CACHE_BYTES = 8 << 30
FETCHES_AT_ONCE = 4
SHAPE = b"shape"
"""Metadata of a column of arrays: its sizes with a comma between, as `28,28`."""

Column = NDArray[Any] | list[Any]
Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    path: str
    """In the version."""
    sha256: str
    size_bytes: int
    rows: int


Fetch = Callable[[Shard, Path], str]
"""Puts a shard's file at a path, and says what SHA-256 it has."""


def write_shards(
    folder: Path, columns: Mapping[str, NDArray[Any]], shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write records as shards, `00000.arrow` and so on.

    Args:
        columns: Arrays of equal length; each record is one row of all of them, whatever its shape.
    """
    lengths = {len(each) for each in columns.values()}
    if len(lengths) != 1:
        raise InvalidArgument.of("columns", "must be arrays of one length")
    total = lengths.pop()
    record = sum(each.nbytes for each in columns.values()) / max(1, total)
    step = max(1, int(shard_bytes / max(1.0, record)))
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, start in enumerate(range(0, total, step)):
        batch = _batch({name: each[start : start + step] for name, each in columns.items()})
        path = folder / f"{number:05}.arrow"
        # One batch in a file, and no compression: its columns are arrays in the mapped file.
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, batch.schema) as writer:
            writer.write_batch(batch)
        made.append(path)
    return made


def _batch(columns: Mapping[str, NDArray[Any]]) -> "pa.RecordBatch":
    fields, arrays = [], []
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        if values.ndim > 1:
            width = int(np.prod(values.shape[1:]))
            flat = pa.FixedSizeListArray.from_arrays(flat, width)
        shape = ",".join(map(str, values.shape[1:])).encode()
        fields.append(pa.field(name, flat.type, nullable=False, metadata={SHAPE: shape} if shape else None))
        arrays.append(flat)
    return pa.record_batch(arrays, schema=pa.schema(fields))


class Mapped:
    """The records of one shard, in place in a mapped file."""

    def __init__(self, path: Path) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        self._columns = {field.name: _view(self._table, field) for field in self._table.schema}

    def __len__(self) -> int:
        count: int = self._table.num_rows
        return count

    @property
    def names(self) -> Sequence[str]:
        return list(self._columns)

    def take(self, name: str, rows: Indices) -> Column:
        """Some rows of a column: a copy, in order."""
        view = self._columns[name]
        if view is not None:
            picked: Column = view[rows]
            return picked
        values: list[Any] = self._table[name].take(pa.array(rows)).to_pylist()
        return values


def _view(table: "pa.Table", field: "pa.Field") -> NDArray[Any] | None:
    """A column as an array without a copy; None for one of text, bytes or lists."""
    array = table[field.name].chunk(0) if table[field.name].num_chunks else pa.array([], field.type)
    if array.null_count:
        return None
    if pa.types.is_fixed_size_list(field.type) and not array.flatten().null_count:
        shape = (field.metadata or {}).get(SHAPE, b"").decode()
        sizes = tuple(map(int, shape.split(","))) if shape else (field.type.list_size,)
        flat: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(-1, *sizes)
    if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
        numbers: NDArray[Any] = array.to_numpy(zero_copy_only=True)
        return numbers
    return None


class ShardCache:
    """Shards on this machine's disk. Several processes may share a folder.

    Args:
        bytes_max: Beyond it, what was used longest ago is removed; what is needed now stays.
    """

    def __init__(self, folder: Path, fetch: Fetch, bytes_max: int = CACHE_BYTES) -> None:
        self._folder = folder
        self._fetch = fetch
        self._bytes_max = bytes_max
        folder.mkdir(parents=True, exist_ok=True)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(FETCHES_AT_ONCE, thread_name_prefix="shards")
        self._open: dict[str, Future[Mapped]] = {}
        self._checked: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(cancel_futures=True)

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Begin to fetch and check shards that are needed soon."""
        if self._process != os.getpid():
            self._begin()  # a forked worker: threads stay behind
        with self._lock:
            for shard in shards:
                if shard.sha256 not in self._open:
                    self._open[shard.sha256] = self._pool.submit(self._load, shard)

    def get(self, shard: Shard) -> Mapped:
        """A shard's records, fetched if they are not here.

        Raises:
            DataLoss: what was fetched, or lies here, is not what was registered.
        """
        self.prefetch([shard])
        return self._open[shard.sha256].result()

    def keep(self, shards: Sequence[Shard]) -> None:
        """Let go of all shards but these."""
        kept = {shard.sha256 for shard in shards}
        with self._lock:
            for sha256 in [each for each in self._open if each not in kept]:
                self._open.pop(sha256).cancel()

    def _load(self, shard: Shard) -> Mapped:
        target, digest = self._obtain(shard)
        stat = target.stat()
        seen = (shard.sha256, stat.st_ino, stat.st_mtime_ns)
        # Of a file that was here before, once per process: a disk may have changed a bit since the bytes came in.
        if seen not in self._checked and (digest or file_digest(target)) != shard.sha256:
            self._discard(target)
            raise DataLoss(f"{shard.path!r} is not the one registered: its SHA-256 differs.", path=shard.path)
        self._checked.add(seen)
        return Mapped(target)

    def _obtain(self, shard: Shard) -> tuple[Path, str]:
        """Where a shard lies, and its digest if that was taken just now."""
        target = self._folder / f"{shard.sha256}.arrow"
        if target.exists():
            os.utime(target, ns=(time.time_ns(), target.stat().st_mtime_ns))
            return target, ""
        self._make_room(shard.size_bytes)
        partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            digest = self._fetch(shard, partial)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        return target, digest

    def _discard(self, target: Path) -> None:
        target.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        with self._lock:
            needed = {f"{sha256}.arrow" for sha256 in self._open}
        found = sorted(_entries(self._folder))
        total = sum(size for _, size, _ in found) + wanted
        for _, size, path in found:
            if total <= self._bytes_max:
                return
            if path.name not in needed:
                # Who has it mapped goes on reading it.
                path.unlink(missing_ok=True)
                total -= size


class ShardsInPlace(ShardCache):
    """Shards of a folder of this machine, mapped where they lie."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda shard, target: "")

    def _obtain(self, shard: Shard) -> tuple[Path, str]:
        return self._folder / shard.path, ""

    def _discard(self, target: Path) -> None:
        """It is somebody's only copy."""


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.glob("*.arrow"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # another process made room
        yield stat.st_atime, stat.st_size, path


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

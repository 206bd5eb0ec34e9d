"""The records of one part of a dataset's files: shards as they lie, or a table made into shards first."""

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from aios.errors import InvalidArgument
from aios.train.data import Records, open_folder

SHARDS = ".arrow"
TABLES = (".parquet", ".csv")
NAMED_MAX = 20
"""Parts that a refusal names."""


def open_split(files: Path, split: str, seed: int, scratch: Path, *, shuffle: bool = True) -> Records:
    """The records of `{split}/*.arrow`, `{split}.arrow`, `{split}.parquet` or `{split}.csv`; of all shards without a split.

    Args:
        files: Folder of the dataset, or a file that is all of it.
        scratch: Where the shards of a table go.

    Raises:
        InvalidArgument: there is no such part, or nothing that can be read; it says what there is.
    """
    folder, found = _find(files, split)
    if len(found) == 1 and found[0].suffix in TABLES:
        return open_folder(_as_shards(found[0], scratch / "shards"), seed, shuffle=shuffle)
    return open_folder(folder, seed, shuffle=shuffle, paths=found)


def _find(files: Path, split: str) -> tuple[Path, Sequence[Path]]:
    """The folder that paths are told from, and the shards or the one table."""
    if files.is_file():
        if split not in ("", files.stem) or files.suffix not in (SHARDS, *TABLES):
            raise _refused(files.parent, split, [files])
        return files.parent, [files]
    inside = sorted((files / split).rglob(f"*{SHARDS}"))
    if inside:
        return files / split, inside
    tables = [files / f"{split}{suffix}" for suffix in (SHARDS, *TABLES)] if split else []
    if not split:
        tables = sorted(chain.from_iterable(files.glob(f"*{suffix}") for suffix in TABLES))
    there = [table for table in tables if table.is_file()]
    if len(there) != 1:
        raise _refused(files, split, sorted(files.rglob("*")))
    return files, there


def _refused(folder: Path, split: str, found: Sequence[Path]) -> InvalidArgument:
    known = {
        path.relative_to(folder).parts[0].removesuffix(path.suffix if path.parent == folder else "")
        for path in found
        if path.suffix in (SHARDS, *TABLES)
    }
    have = ", ".join(sorted(known)[:NAMED_MAX]) or f"no {SHARDS} shards and no {' or '.join(TABLES)} tables"
    return InvalidArgument.of("split", f"no part {split!r} can be read in the dataset; it has {have}")


def _as_shards(table: Path, scratch: Path) -> Path:
    """A folder with a table's rows as one shard, in their order. Ranks that share the scratch folder may all write it."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    folder = scratch / hashlib.sha256(str(table.resolve()).encode()).hexdigest()[:16]
    shard = folder / f"{table.stem}{SHARDS}"
    if shard.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows = csv.read_csv(table) if table.suffix == ".csv" else parquet.read_table(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidArgument.of("split", f"{table.name} cannot be read: {error}") from None
    rows = rows.combine_chunks()
    partial = shard.with_suffix(f".{os.getpid()}")
    with pa.OSFile(str(partial), "wb") as out, pa.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows)
    partial.rename(shard)
    return folder

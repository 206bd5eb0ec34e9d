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
        readable = files.suffix in (SHARDS, *TABLES)
        if split not in ("", files.stem) or not readable:
            raise _refused(f"no part {split!r} can be read", [files.stem] if readable else [])
        return files.parent, [files]
    shards, there = _shards(files / split), _files(files, split)
    if shards:
        return files / split, shards
    if len(there) == 1:
        return files, there
    why = f"no part {split!r} can be read"
    if split and there:
        why = f"more than one file is {split!r}: {', '.join(each.name for each in there)}"
    elif split and (files / split).is_dir():
        why = f"a folder must hold {SHARDS} shards, and {split!r} has none"
    names = {path.name if path.is_dir() else path.stem for path in files.iterdir()}
    raise _refused(
        why, sorted(name for name in names if _shards(files / name) or len(_files(files, name)) == 1)
    )


def _shards(folder: Path) -> Sequence[Path]:
    return sorted(folder.rglob(f"*{SHARDS}"))


def _files(folder: Path, split: str) -> Sequence[Path]:
    """Files that are this part; without a split, the tables."""
    tables = [folder / f"{split}{suffix}" for suffix in (SHARDS, *TABLES)]
    if not split:
        tables = sorted(chain.from_iterable(folder.glob(f"*{suffix}") for suffix in TABLES))
    return [table for table in tables if table.is_file()]


def _refused(why: str, parts: Sequence[str]) -> InvalidArgument:
    has = (
        ", ".join(parts[:NAMED_MAX])
        or f"no folder of {SHARDS} shards, and no {SHARDS}, {' or '.join(TABLES)} file"
    )
    return InvalidArgument.of("split", f"{why}; the dataset has {has}")


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

"""Files of records without some of their rows, in the format that they had: what an erasure writes."""

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aios.errors import InvalidArgument

BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Wanted:
    """Which rows go: those that have any of some values in a column."""

    values: Mapping[str, Collection[str]]
    """Column to values, as text."""

    def row(self, row: Mapping[str, Any]) -> bool:
        """Whether a row goes."""
        return any(column in row and str(row[column]) in self.values[column] for column in self.values)

    def mask(self, table: "pa.Table") -> "pa.ChunkedArray":
        """Which rows of a table go."""
        found = pa.chunked_array([pa.array([False] * table.num_rows)])
        for column, values in self.values.items():
            if column in table.column_names:
                texts = _texts(table[column])
                found = pc.or_(found, pc.is_in(texts, pa.array(sorted(values), pa.string())))
        return found


def is_searched(path: str) -> bool:
    """Whether rows can be looked for in a file, by its name."""
    return Path(path).suffix.lower() in _WRITERS


def without(source: Path, target: Path, wanted: Wanted, name: str = "") -> int:
    """Write a file of records without some rows. Returns how many it lacks; 0 writes nothing.

    Args:
        name: What the file is called where `source` has another name.

    Raises:
        InvalidArgument: it is damaged, or of no format that has rows.
    """
    suffix = Path(name or source.name).suffix.lower()
    if suffix not in _WRITERS:
        raise InvalidArgument.of("source", f"{name or str(source)!r} has no rows that are known")
    try:
        gone = _WRITERS[suffix](source, target, wanted)
    except (pa.ArrowException, OSError, UnicodeError, ValueError, csv.Error) as error:
        raise InvalidArgument.of("source", f"{name or str(source)!r} cannot be read: {error}") from error
    if not gone:
        target.unlink(missing_ok=True)
    return gone


def _texts(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise InvalidArgument.of("where", f"a column of {column.type} holds no single values")
    return column.cast(pa.string())


def _arrow(source: Path, target: Path, wanted: Wanted) -> int:
    with pa.memory_map(str(source)) as opened:
        try:
            table = pa.ipc.open_file(opened).read_all()
        except pa.ArrowInvalid:
            opened.seek(0)
            table = pa.ipc.open_stream(opened).read_all()
        kept, gone = _kept(table, wanted)
        # One batch in a file, as every shard has it.
        batches = kept.combine_chunks().to_batches() or [pa.record_batch([], names=[])]
        with pa.OSFile(str(target), "wb") as out, pa.ipc.new_file(out, kept.schema) as writer:
            for batch in batches if kept.num_rows else ():
                writer.write_batch(batch)
    return gone


def _parquet(source: Path, target: Path, wanted: Wanted) -> int:
    gone = 0
    with (
        pq.ParquetFile(source) as file,
        pq.ParquetWriter(target, file.schema_arrow, use_content_defined_chunking=True) as writer,
    ):
        for number in range(file.num_row_groups):
            kept, fewer = _kept(file.read_row_group(number), wanted)
            gone += fewer
            writer.write_table(kept)
    return gone


def _kept(table: "pa.Table", wanted: Wanted) -> "tuple[pa.Table, int]":
    kept = table.filter(pc.invert(wanted.mask(table)))
    return kept, table.num_rows - kept.num_rows


def _jsonl(source: Path, target: Path, wanted: Wanted) -> int:
    gone = 0
    with source.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            row = json.loads(line) if line.strip() else {}
            if isinstance(row, dict) and wanted.row(row):
                gone += 1
            else:
                out.write(line)
    return gone


def _csv(source: Path, target: Path, wanted: Wanted, delimiter: str = ",") -> int:
    gone = 0
    with (
        source.open(newline="", encoding="utf-8") as opened,
        target.open("w", newline="", encoding="utf-8") as out,
    ):
        taken: list[str] = []
        rows = csv.reader(_noted(opened, taken), delimiter=delimiter)
        header = next(rows, [])
        out.write("".join(taken))  # each row as it was written, quotes and all
        taken.clear()
        for row in rows:
            if wanted.row(dict(zip(header, row, strict=False))):
                gone += 1
            else:
                out.write("".join(taken))
            taken.clear()
    return gone


def _tsv(source: Path, target: Path, wanted: Wanted) -> int:
    return _csv(source, target, wanted, "\t")


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


_WRITERS: Mapping[str, Callable[[Path, Path, Wanted], int]] = {
    ".arrow": _arrow,
    ".feather": _arrow,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
}

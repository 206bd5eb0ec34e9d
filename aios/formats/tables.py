"""Tables: CSV, JSON lines, Parquet, Arrow. Read a block at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from aios.errors import InvalidArgument

BLOCK_BYTES = 4 << 20
BATCH_ROWS = 16_384
COLUMNS_MAX = 10_000


def read_csv(path: Path) -> Iterator["pa.RecordBatch"]:
    """Comma-separated values; types from the first block. A row that does not fit is named by its number."""
    yield from _delimited(path, ",")


def read_tsv(path: Path) -> Iterator["pa.RecordBatch"]:
    """The same with tabs."""
    yield from _delimited(path, "\t")


def read_jsonl(path: Path) -> Iterator["pa.RecordBatch"]:
    """A JSON object a line."""
    options = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    yield from checked(pyarrow.json.open_json(path, read_options=options), path)


def read_parquet(path: Path) -> Iterator["pa.RecordBatch"]:
    """Parquet, a part of a row group at a time."""
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from checked(file.iter_batches(BATCH_ROWS), path)


def read_arrow(path: Path) -> Iterator["pa.RecordBatch"]:
    """An Arrow file, or a stream."""
    with pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from checked(pa.ipc.open_stream(source), path)
            return
        yield from checked((file.get_batch(number) for number in range(file.num_record_batches)), path)


def _delimited(path: Path, delimiter: str) -> Iterator["pa.RecordBatch"]:
    # One thread: with more, an error does not know its row.
    reading = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    yield from checked(pyarrow.csv.open_csv(path, reading, parsing), path)


def checked(batches: Iterator["pa.RecordBatch"], path: Path) -> Iterator["pa.RecordBatch"]:
    """The same, each looked through: what Arrow maps it does not check by itself."""
    rows = 0
    for batch in batches:
        if batch.num_columns > COLUMNS_MAX:
            raise InvalidArgument.of("source", f"{str(path)!r} has more than {COLUMNS_MAX} columns")
        if len(set(batch.schema.names)) != batch.num_columns:
            raise InvalidArgument.of("source", f"{str(path)!r} names a column twice")
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InvalidArgument.of(
                "source", f"{str(path)!r} is damaged after row {rows}: {error}"
            ) from error
        rows += batch.num_rows
        if batch.num_rows:
            yield batch

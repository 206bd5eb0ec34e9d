"""The items of a dataset version: rows of its tables, or its files."""

import math
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aios.errors import FailedPrecondition, InvalidArgument
from aios.labels import Kind
from aios.labels.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

    from aios.client.datasets import Datasets

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
TEXT = ".txt"
TEXT_BYTES_MAX = 60_000
FILES_AT_ONCE = 200


async def items(
    datasets: "Datasets", version: str, pattern: str, kind: Kind, *, rows: bool = True
) -> AsyncIterator[Record]:
    """Every row of the tables whose paths match, or every file that matches where none is a table.

    Raises:
        InvalidArgument: nothing matches, or a file cannot be read, naming it.
    """
    paths = [leaf.path for leaf in (await datasets.tree(version)).leaves() if fnmatchcase(leaf.path, pattern)]
    if not paths:
        raise InvalidArgument.of("pattern", f"{pattern!r} matches no file of {version}")
    tables = [path for path in paths if rows and PurePosixPath(path).suffix in TABLES]
    with tempfile.TemporaryDirectory(prefix="aios-label-") as scratch:
        for path in tables:
            await datasets.pull(version, scratch, paths=[path])
            for number, row in enumerate(read_rows(Path(scratch, path))):
                yield Record(path, number, row)
            Path(scratch, path).unlink()
        for start in range(0, 0 if tables else len(paths), FILES_AT_ONCE):
            some = paths[start : start + FILES_AT_ONCE]
            if wanted := [path for path in some if _is_read(path, kind)]:
                await datasets.pull(version, scratch, paths=wanted)
            for path in some:
                yield _file(path, Path(scratch, path), kind)


def read_table(path: Path) -> "pa.Table":
    """A table as it is.

    Raises:
        InvalidArgument: it cannot be read, naming the file.
    """
    import pyarrow as pa

    from aios.formats.imports import FORMATS, detect

    try:
        return pa.Table.from_batches(FORMATS[detect(path)][0](path))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidArgument.of(path.name, f"cannot be read: {error}") from None


def read_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, as far as JSON can say them: bytes are left out."""
    for batch in read_table(path).to_batches():
        for row in batch.to_pylist():
            yield {key: _plain(value) for key, value in row.items() if not isinstance(value, bytes)}


def features(table: "pa.Table", rows: Sequence[int], columns: Sequence[str], leave_out: str) -> Any:
    """Columns of numbers as an array, a row of the table each.

    Args:
        columns: Which; all columns of numbers where none is named.
        leave_out: What is to be learnt, which is no feature.
    """
    import numpy as np
    import pyarrow as pa

    chosen = list(columns) or [
        field.name
        for field in table.schema
        if field.name != leave_out and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    if not chosen or not set(chosen) <= set(table.column_names):
        raise InvalidArgument.of("columns", f"must be columns of numbers: there are {table.column_names}")
    picked = table.select(chosen).take(pa.array(rows))
    return np.stack([np.asarray(picked[name].to_numpy(), float) for name in chosen], axis=1)


def _is_read(path: str, kind: Kind) -> bool:
    return PurePosixPath(path).suffix == TEXT or kind in (Kind.BOXES, Kind.POLYGONS, Kind.KEYPOINTS)


def _file(path: str, there: Path, kind: Kind) -> Record:
    if PurePosixPath(path).suffix == TEXT:
        content = there.read_bytes()
        if len(content) > TEXT_BYTES_MAX:
            raise InvalidArgument.of(path, f"must be at most {TEXT_BYTES_MAX} bytes of text")
        try:
            return Record(path, data={"text": content.decode()})
        except UnicodeDecodeError as error:
            raise InvalidArgument.of(path, f"must be UTF-8: {error}") from None
    if not _is_read(path, kind):
        return Record(path)
    width, height = _size(path, there)
    return Record(path, width=width, height=height)


def _size(path: str, there: Path) -> tuple[int, int]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise FailedPrecondition(
            "Sizes of images need Pillow: pip install pillow.", reason="PILLOW_MISSING"
        ) from None
    try:
        with Image.open(there) as image:
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidArgument.of(path, f"is no image: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return str(value)

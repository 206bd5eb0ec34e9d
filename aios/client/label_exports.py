"""Labels on their way out and in: files of other tools, and dataset versions."""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aios.client import label_items
from aios.data.v1 import dataset_pb2
from aios.errors import InvalidArgument
from aios.labels import formats
from aios.labels.plain import to_plain
from aios.labels.records import Labelled, Record
from aios.labels.values import Kind

if TYPE_CHECKING:
    from aios.client.datasets import Datasets

TABLE = "table"
"""The rows that were labelled with a column more: what recipes train on."""
FOLDERS = "folders"
"""The files that were labelled, in a folder for each class."""
LABEL = "label"
FILE_BYTES_MAX = 1 << 30
FILES_MAX = 200_000


def write(labelled: Labelled, form: str, folder: Path) -> list[Path]:
    """Files of a format in a directory.

    Raises:
        InvalidArgument: the format cannot say it, naming the item.
    """
    made = []
    for name, content in formats.of(form, labelled.kind).write(labelled).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        made.append(target)
    return made


def read(source: Path, form: str, known: Labelled) -> Sequence[Record]:
    """The records of a file or a directory in a format.

    Args:
        known: The label project: its kind, classes, and the items that are there, with the sizes of their images.

    Raises:
        InvalidArgument: it cannot be read as that, naming the file and the row.
    """
    found = formats.of(form, known.kind)
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("[!.]*") if path.is_file())
    if len(paths) > FILES_MAX or sum(path.stat().st_size for path in paths) > FILE_BYTES_MAX:
        raise InvalidArgument.of("source", f"must be at most {FILES_MAX} files and {FILE_BYTES_MAX} bytes")
    root = source if source.is_dir() else source.parent
    return found.read({path.relative_to(root).as_posix(): path.read_bytes() for path in paths}, known).records


async def push(
    datasets: "Datasets",
    dataset: str,
    version: str,
    labelled: Labelled,
    form: str,
    origin: dataset_pb2.Origin,
    message: str,
) -> dataset_pb2.DatasetVersion:
    """Commit labels as the next version of a dataset."""
    with tempfile.TemporaryDirectory(prefix="aios-labels-") as scratch:
        folder = Path(scratch, "out")
        folder.mkdir()
        if form == TABLE:
            await _tables(datasets, version, labelled, Path(scratch, "in"), folder)
        elif form == FOLDERS:
            await _folders(datasets, version, labelled, Path(scratch, "in"), folder)
        else:
            write(labelled, form, folder)
        return await datasets.push(dataset, folder, message=message, origin=origin)


async def _tables(
    datasets: "Datasets", version: str, labelled: Labelled, scratch: Path, folder: Path
) -> None:
    """Each table of the version as it was, the labelled rows of it, with their labels in the last column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if any(record.row is None for record in labelled.records):
        raise InvalidArgument.of(
            "format", f"`{TABLE}` is for rows of tables: choose one of {', '.join(formats.NAMES)}"
        )
    by_path: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in labelled.records:
        by_path[record.path][record.row or 0] = record
    await datasets.pull(version, scratch, paths=list(by_path))
    for path, records in by_path.items():
        table = label_items.read_table(scratch / path)
        rows = sorted(records)
        if rows[-1] >= table.num_rows:
            raise InvalidArgument.of(path, f"has no row {rows[-1]}")
        chosen = table.take(pa.array(rows))
        if LABEL in chosen.column_names:
            chosen = chosen.drop_columns([LABEL])
        values = [_value(records[row], labelled) for row in rows]
        target = (folder / path).with_suffix(".parquet")
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            chosen.append_column(LABEL, pa.array(values)), target, use_content_defined_chunking=True
        )


async def _folders(
    datasets: "Datasets", version: str, labelled: Labelled, scratch: Path, folder: Path
) -> None:
    """Each file as it was, below the name of its class."""
    if labelled.kind is not Kind.CLASSIFICATION or any(record.row is not None for record in labelled.records):
        raise InvalidArgument.of("format", f"`{FOLDERS}` is for files that have one class")
    await datasets.pull(version, scratch, paths=[record.path for record in labelled.records])
    for record in labelled.records:
        name = str(_value(record, labelled))
        if name in (".", "..") or set(name) & set("/\\:"):
            raise InvalidArgument.of("format", f"the class {name!r} cannot be a folder's name")
        target = folder / name / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (scratch / record.path).rename(target)


def _value(record: Record, labelled: Labelled) -> object:
    assert record.label is not None, "only final labels are exported"
    plain: Mapping[str, object] | object = to_plain(record.label, labelled.kind)
    return plain

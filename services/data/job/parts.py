"""What a version holds as tables, whatever its format, and the way back.

A version has parts, such as train and test; a part is one table. Read are CSV, TSV, JSON lines, Parquet, Arrow and
NPZ files (`train.csv`, or several below `train/`), IDX, `{part}/images.npy` with `labels.npy`, and folders of images
(`cat/1.png`, `train/cat/1.png`). Written is the same kind: records that train fast (Arrow shards), NPY, or Parquet.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from aios.errors import InvalidArgument
from aios.formats import idx, images, tables

WHOLE = "data"
"""The part of a version that has only one."""
TRAINING = "train"
"""The part that is learnt from, where there are several."""
QUARANTINE = "quarantine"
"""Folder of rows that were put aside. Feather files: neither recipes nor the reader of shards take them for data."""
REPORTS = ("report.json", "report.html")
SHAPE = b"shape"
SHARD_BYTES = 32 << 20
ROWS_MAX = 1 << 31  # row numbers are 32 bits where many are held
_NUMBERED = re.compile(r"\d+")
_TABLES: Mapping[str, Callable[[Path], Iterator["pa.RecordBatch"]]] = {
    ".csv": tables.read_csv,
    ".tsv": tables.read_tsv,
    ".jsonl": tables.read_jsonl,
    ".ndjson": tables.read_jsonl,
    ".parquet": tables.read_parquet,
    ".arrow": tables.read_arrow,
}
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"})

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises of a file that is none of its own."""

Array = NDArray[Any]


class Form(Enum):
    """How parts lie in a version."""

    TABLE = "table"
    SHARDS = "shards"
    NPY = "npy"


@dataclass(frozen=True)
class Source:
    """A version, read."""

    parts: Mapping[str, "pa.Table"]
    form: Form
    left_out: Sequence[str] = field(default=())
    """Paths of files that are no data."""

    @property
    def rows(self) -> int:
        return sum(part.num_rows for part in self.parts.values())


def read(folder: Path) -> Source:
    """The data of a version's folder.

    Raises:
        InvalidArgument: it holds none, or a file cannot be read; names the file, and the row where it is known.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    files = {
        name: path
        for name, path in files.items()
        if name not in REPORTS and not name.startswith(f"{QUARANTINE}/")
    }
    for reader in (_read_idx, _read_npy, _read_images, _read_tables):
        source = reader(folder, files)
        if source is not None:
            if source.rows > ROWS_MAX:
                raise InvalidArgument.of("input", f"has {source.rows} rows; {ROWS_MAX} at most")
            return source
    shown = ", ".join(sorted(files)[:5]) or "no file"
    raise InvalidArgument.of("input", f"holds no table and no image that is known: {shown}")


def write(folder: Path, parts: Mapping[str, "pa.Table"], form: Form) -> None:
    """Put parts into a folder."""
    for name, table in parts.items():
        if form is Form.NPY and set(table.column_names) == {"image", "label"} and "image" in arrays_of(table):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / "images.npy", array_of(table, "image"), allow_pickle=False)
            np.save(folder / name / "labels.npy", array_of(table, "label"), allow_pickle=False)
        elif form is Form.TABLE:
            folder.mkdir(parents=True, exist_ok=True)
            pa.parquet.write_table(table, folder / f"{name}.parquet", use_content_defined_chunking=True)
        else:
            _write_shards(folder if name == WHOLE else folder / name, table)


def write_quarantine(folder: Path, parts: Mapping[str, "pa.Table"]) -> None:
    """Put rows aside, with the reason of each."""
    for name, table in parts.items():
        if table.num_rows:
            target = folder / QUARANTINE
            target.mkdir(parents=True, exist_ok=True)
            with (
                pa.OSFile(str(target / f"{name}.feather"), "wb") as out,
                pa.ipc.new_file(out, table.schema) as writer,
            ):
                writer.write_table(table)


def arrays_of(table: "pa.Table") -> list[str]:
    """Columns that hold an array of numbers of one size in each row: images, vectors."""
    return [each.name for each in table.schema if pa.types.is_fixed_size_list(each.type)]


def array_of(table: "pa.Table", name: str) -> Array:
    """A column of numbers, or of arrays of them, as one array: rows first. Missing numbers are NaN."""
    kind = table.schema.field(name)
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind.type)
    if not pa.types.is_fixed_size_list(kind.type):
        numbers: Array = column.to_numpy(zero_copy_only=False)
        return numbers
    if column.null_count or column.flatten().null_count:
        raise InvalidArgument.of(f"columns.{name}", "has rows without an array: leave them out first")
    shape = (kind.metadata or {}).get(SHAPE, b"").decode()
    sizes = tuple(map(int, shape.split(","))) if shape else (kind.type.list_size,)
    flat: Array = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, *sizes)


def column_of(array: Array) -> tuple["pa.Field", "pa.Array"]:
    """An array with rows first as a column; its field has an empty name."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    if array.ndim == 1:
        return pa.field("", flat.type), flat
    width = int(np.prod(array.shape[1:]))
    column = pa.FixedSizeListArray.from_arrays(flat, width)
    shape = ",".join(map(str, array.shape[1:])).encode()
    return pa.field("", column.type, nullable=False, metadata={SHAPE: shape}), column


def with_column(table: "pa.Table", name: str, values: Any, kind: "pa.Field | None" = None) -> "pa.Table":
    """A table with a column in place of the one of that name, or behind the others."""
    if isinstance(values, np.ndarray):
        kind, values = column_of(values)
    made = kind.with_name(name) if kind is not None else pa.field(name, values.type)
    if not table.column_names:
        return pa.table([values], schema=pa.schema([made]))
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), made, values)
    return table.append_column(made, values)


def _read_tables(folder: Path, files: Mapping[str, Path]) -> Source | None:
    found: dict[str, list[pa.Table]] = {}
    left_out, suffixes = [], set()
    for name, path in files.items():
        suffix = path.suffix.lower()
        if suffix == ".npz":
            table = _npz(name, path)
        elif suffix in _TABLES:
            table = _table(name, path, _TABLES[suffix])
        else:
            left_out.append(name)
            continue
        suffixes.add(suffix)
        found.setdefault(_part_of(name), []).append(table)
    if not found:
        return None
    parts = {name: _joined(name, each) for name, each in found.items()}
    if len(parts) == 1 and all("/" not in name for name in files):
        [only] = parts.values()
        parts = {WHOLE: only} if set(parts) != {"train"} else parts
    return Source(parts, Form.SHARDS if suffixes == {".arrow"} else Form.TABLE, tuple(left_out))


def _part_of(name: str) -> str:
    top, slash, _ = name.partition("/")
    part = top if slash else Path(name).stem
    return WHOLE if _NUMBERED.fullmatch(part) else part


def _table(name: str, path: Path, reader: Callable[[Path], Iterator["pa.RecordBatch"]]) -> "pa.Table":
    try:
        batches = list(reader(path))
        if not batches:
            raise InvalidArgument.of("input", f"{name!r} holds no row")
        return pa.Table.from_batches(batches)
    except (pa.ArrowException, OSError, UnicodeError, ValueError) as error:
        raise InvalidArgument.of("input", f"{name!r} cannot be read: {error}") from error
    except InvalidArgument as error:
        raise InvalidArgument.of("input", error.message.replace(str(path), name)) from error


def _joined(name: str, some: Sequence["pa.Table"]) -> "pa.Table":
    try:
        return _plain(pa.concat_tables(some, promote_options="default")).combine_chunks()
    except pa.ArrowException as error:
        raise InvalidArgument.of("input", f"the files of {name!r} do not fit together: {error}") from error


def _plain(table: "pa.Table") -> "pa.Table":
    """The same values without dictionaries: one form for each kind of value."""
    for index, each in enumerate(table.schema):
        if pa.types.is_dictionary(each.type):
            plain = each.with_type(each.type.value_type)
            table = table.set_column(index, plain, table[each.name].cast(plain.type))
    return table


def _npz(name: str, path: Path) -> "pa.Table":
    try:
        with np.load(path, allow_pickle=False) as stored:
            x, y = stored["x"], stored["y"]
    except _UNREADABLE as error:
        raise InvalidArgument.of("input", f"{name!r} must hold arrays `x` and `y`: {error}") from error
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise InvalidArgument.of("input", f"{name!r} must hold `x` [N, D] and `y` [N]")
    return pa.table({**{f"x{index}": x[:, index] for index in range(x.shape[1])}, "y": y})


def _read_idx(folder: Path, files: Mapping[str, Path]) -> Source | None:
    if not any("-images-idx" in name and "/" not in name for name in files):
        return None
    whole = pa.Table.from_batches(list(idx.read_folder(folder)))
    parts = {}
    for name in sorted(set(whole["split"].to_pylist())):
        chosen = whole.filter(pa.compute.equal(whole["split"], name))
        parts[name] = chosen.drop_columns(["split"]).combine_chunks()
    return Source(parts, Form.SHARDS)


def _read_npy(folder: Path, files: Mapping[str, Path]) -> Source | None:
    parts = {}
    for name, path in files.items():
        if path.name != "images.npy":
            continue
        labels = path.with_name("labels.npy")
        try:
            pixels = np.load(path, allow_pickle=False)
            numbers = np.load(labels, allow_pickle=False) if labels.is_file() else None
        except _UNREADABLE as error:
            raise InvalidArgument.of("input", f"{name!r} cannot be read: {error}") from error
        if pixels.ndim < 2 or (numbers is not None and numbers.shape != pixels.shape[:1]):
            raise InvalidArgument.of("input", f"{name!r} has not one label for each image")
        table = pa.table({})
        table = with_column(table, "image", pixels)
        if numbers is not None:
            table = with_column(table, "label", numbers.astype(np.int64))
        parts[path.parent.relative_to(folder).as_posix().replace("/", "-") or WHOLE] = table
    parts = {WHOLE if name == "." else name: table for name, table in parts.items()}
    return Source(parts, Form.NPY) if parts else None


def _read_images(folder: Path, files: Mapping[str, Path]) -> Source | None:
    found = [name for name, path in files.items() if path.suffix.lower() in _IMAGES]
    if not found or any(path.suffix.lower() in _TABLES for path in files.values()):
        return None
    depths = {name.count("/") for name in found}
    if depths not in ({0}, {1}, {2}):
        raise InvalidArgument.of(
            "input", "images must all lie in `class/` or all in `part/class/`; they lie at several depths"
        )
    left_out = tuple(name for name in files if name not in set(found))
    if depths == {2}:
        tops = sorted({name.partition("/")[0] for name in found})
        classes = _classes(name.split("/")[1] for name in found)
        return Source(
            {top: _images(folder, [n for n in found if n.startswith(f"{top}/")], 1, classes) for top in tops},
            Form.SHARDS,
            left_out,
        )
    classes = _classes(name.split("/")[0] for name in found) if depths == {1} else []
    return Source({WHOLE: _images(folder, found, 0, classes)}, Form.SHARDS, left_out)


def _classes(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _images(folder: Path, names: Sequence[str], depth: int, classes: Sequence[str]) -> "pa.Table":
    content = []
    for name in names:
        if (folder / name).stat().st_size > images.IMAGE_BYTES_MAX:
            raise InvalidArgument.of("input", f"{name!r} is larger than {images.IMAGE_BYTES_MAX} bytes")
        data = (folder / name).read_bytes()
        if not data.startswith(images.MAGIC):
            raise InvalidArgument.of("input", f"{name!r} is no image that is known")
        content.append(data)
    columns = [pa.array(list(names)), pa.array(content, pa.binary())]
    fields = [pa.field("path", pa.string()), pa.field("image", pa.binary())]
    if classes:
        numbers = {name: number for number, name in enumerate(classes)}
        columns.append(pa.array([numbers[name.split("/")[depth]] for name in names], pa.int64()))
        metadata = {images.CLASSES: "\n".join(classes).encode()}
        fields.append(pa.field("label", pa.int64(), metadata=metadata))
    return pa.table(columns, schema=pa.schema(fields))


def _write_shards(folder: Path, table: "pa.Table") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = max(1, int(table.num_rows * SHARD_BYTES / max(1, table.nbytes)))
    for number, start in enumerate(range(0, max(1, table.num_rows), rows)):
        some = table.slice(start, rows).combine_chunks()
        with (
            pa.OSFile(str(folder / f"{number:05}.arrow"), "wb") as out,
            pa.ipc.new_file(out, some.schema) as writer,
        ):
            for batch in some.to_batches() or [pa.RecordBatch.from_pylist([], schema=some.schema)]:
                writer.write_batch(batch)

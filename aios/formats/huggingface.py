"""Folders that Hugging Face `datasets` saves: Arrow streams beside JSON that says what the columns mean. Read and
written by Arrow alone.

Source: `Dataset.save_to_disk` and `DatasetDict.save_to_disk`, as their folders look; the keys of `features`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from aios.errors import InvalidArgument
from aios.formats.images import CLASSES
from aios.formats.tables import checked

INFO, STATE, PARTS = "dataset_info.json", "state.json", "dataset_dict.json"
JSON_BYTES_MAX = 64 << 20
FILES_MAX = 100_000
SPLIT = "split"


def is_saved(folder: Path) -> bool:
    """Whether a folder looks like one that was saved."""
    return any((folder / name).is_file() for name in (STATE, PARTS))


def read_folder(folder: Path) -> Iterator["pa.RecordBatch"]:
    """The columns as they are; images as the bytes of their files, classes by number with their names beside, and a
    column `split` where there are several parts.

    Raises:
        InvalidArgument: naming the file.
    """
    if (folder / PARTS).is_file():
        parts = _json(folder / PARTS).get("splits")
        if not isinstance(parts, list) or not all(isinstance(each, str) for each in parts):
            raise InvalidArgument.of("source", f"{str(folder / PARTS)!r} lists no splits")
        for part in parts:
            for batch in _part(folder / _plain(part, folder)):
                if SPLIT in batch.schema.names:
                    raise InvalidArgument.of("source", f"{str(folder)!r} has a column `{SPLIT}` of its own")
                column = pa.array([part] * batch.num_rows, pa.string())
                yield batch.append_column(pa.field(SPLIT, pa.string(), nullable=False), column)
        return
    yield from _part(folder)


def write_folder(tables: Iterable["pa.Table"], folder: Path) -> None:
    """Write records so that `datasets.load_from_disk` reads them; a column `split` divides them into parts."""
    writers: dict[str, _Writer] = {}
    try:
        for table in tables:
            parts = table[SPLIT].unique().to_pylist() if SPLIT in table.column_names else [""]
            for part in parts:
                mine = table
                if part:
                    mine = table.filter(pa.compute.equal(table[SPLIT], part)).drop_columns([SPLIT])
                if part not in writers:
                    writers[part] = _Writer(
                        folder / _plain(part, folder) if part else folder, part or "train"
                    )
                writers[part].add(mine)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers:
        raise InvalidArgument.of("source", "holds no record")
    if "" not in writers:
        (folder / PARTS).write_text(json.dumps({"splits": sorted(writers)}))


class _Writer:
    """One part's folder: a file for each table, then what they are."""

    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._part = folder, part
        self._made: list[Path] = []
        self._features: dict[str, Any] = {}
        self._rows = self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, table: "pa.Table") -> None:
        table = _with_images(table)
        self._features = {field.name: _feature(field) for field in table.schema}
        said = json.dumps({"info": {"features": self._features}}).encode()
        bare = pa.schema([pa.field(field.name, field.type) for field in table.schema], {b"huggingface": said})
        path = self._folder / f"{len(self._made):05}.arrow"
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, bare) as writer:
            writer.write_table(table.cast(bare))
        self._made.append(path)
        self._rows += table.num_rows
        self._bytes += table.nbytes

    def close(self) -> None:
        names = []
        digest = hashlib.sha256()
        for number, path in enumerate(self._made):
            name = f"data-{number:05}-of-{len(self._made):05}.arrow"
            path.rename(self._folder / name)
            digest.update(f"{name}{self._rows}".encode())
            names.append({"filename": name})
        state: dict[str, Any] = {
            "_data_files": names,
            "_fingerprint": digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self._part,
        }
        split = {"name": self._part, "num_bytes": self._bytes, "num_examples": self._rows}
        info = {
            "citation": "",
            "description": "",
            "features": self._features,
            "homepage": "",
            "license": "",
            "splits": {self._part: split},
        }
        (self._folder / STATE).write_text(json.dumps(state, indent=2))
        (self._folder / INFO).write_text(json.dumps(info, indent=2))


def _part(folder: Path) -> Iterator["pa.RecordBatch"]:
    files = _json(folder / STATE).get("_data_files")
    if not isinstance(files, list) or not all(
        isinstance(each, dict) and isinstance(each.get("filename"), str) for each in files
    ):
        raise InvalidArgument.of("source", f"{str(folder / STATE)!r} lists no files")
    if len(files) > FILES_MAX:
        raise InvalidArgument.of("source", f"{str(folder / STATE)!r} lists more than {FILES_MAX} files")
    features = _json(folder / INFO).get("features") if (folder / INFO).is_file() else {}
    features = features if isinstance(features, dict) else {}
    for each in files:
        path = folder / _plain(each["filename"], folder)
        if path.is_symlink() or not path.is_file():
            raise InvalidArgument.of("source", f"{str(path)!r} is not there")
        with pa.memory_map(str(path)) as source:
            for batch in checked(pa.ipc.open_stream(source), path):
                yield _meant(batch, features, path)


def _meant(batch: "pa.RecordBatch", features: Mapping[str, Any], path: Path) -> "pa.RecordBatch":
    """Images as bytes, classes with their names."""
    fields, columns = [], []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        said = features.get(field.name)
        said = said if isinstance(said, dict) else {}
        kind = said.get("_type")
        metadata = None
        if kind == "ClassLabel" and pa.types.is_integer(column.type):
            names = said.get("names")
            if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
                raise InvalidArgument.of(
                    "source", f"{str(path)!r}: the classes of {field.name!r} have no names"
                )
            metadata = {CLASSES: "\n".join(names).encode()}
        elif kind in ("Image", "Audio") and pa.types.is_struct(column.type):
            if column.type.get_field_index("bytes") < 0:
                raise InvalidArgument.of("source", f"{str(path)!r}: {field.name!r} has no bytes")
            content = pa.compute.struct_field(column, "bytes")
            if content.null_count > column.null_count:
                raise InvalidArgument.of(
                    "source",
                    f"{str(path)!r}: {field.name!r} names files instead of holding them: save it with them embedded",
                )
            column = content.cast(pa.binary())
        fields.append(pa.field(field.name, column.type, metadata=metadata))
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _with_images(table: "pa.Table") -> "pa.Table":
    """The column `image` as `datasets` has images: bytes and a path."""
    place = table.schema.get_field_index("image")
    if place < 0 or not pa.types.is_binary(table.schema.field(place).type):
        return table
    content = table["image"].combine_chunks()
    content = content.chunk(0) if isinstance(content, pa.ChunkedArray) else content
    nothing = pa.nulls(len(content), pa.string())
    pairs = pa.StructArray.from_arrays([content, nothing], names=["bytes", "path"])
    return table.set_column(place, pa.field("image", pairs.type), pairs)


def _feature(field: "pa.Field") -> Any:
    kind = field.type
    names = (field.metadata or {}).get(CLASSES, b"").decode()
    if names and pa.types.is_integer(kind):
        return {"names": names.split("\n"), "_type": "ClassLabel"}
    if field.name == "image" and pa.types.is_struct(kind):
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_field), "length": kind.list_size, "_type": "Sequence"}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field
        # A list of structs is a list in these files; `Sequence` would turn it inside out.
        return (
            [_feature(inner)]
            if pa.types.is_struct(inner.type)
            else {"feature": _feature(inner), "_type": "Sequence"}
        )
    if pa.types.is_struct(kind):
        return {each.name: _feature(each) for each in kind}
    return {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"}


_DTYPES = {"float": "float32", "double": "float64", "halffloat": "float16"}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.is_symlink() or path.stat().st_size > JSON_BYTES_MAX:
        raise InvalidArgument.of(
            "source", f"{str(path)!r} is not there, or larger than {JSON_BYTES_MAX} bytes"
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidArgument.of("source", f"{str(path)!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgument.of("source", f"{str(path)!r} is no JSON object")
    return found


def _plain(name: str, folder: Path) -> str:
    if not name or name in (".", "..") or any(each in name for each in "/\\\0"):
        raise InvalidArgument.of("source", f"{str(folder)!r}: {name[:200]!r} leads out of the folder")
    return name

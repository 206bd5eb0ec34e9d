"""One entrance for every format, and the shards that they become."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from aios.errors import InvalidArgument
from aios.formats import archives, coco, huggingface, idx, images, tables

SHARD_BYTES = 32 << 20
SHARDS_MAX = 100_000

Read = Callable[[Path], Iterator["pa.RecordBatch"]]
FORMATS: "dict[str, tuple[Read, str]]" = {
    "csv": (tables.read_csv, "comma-separated values with a header"),
    "tsv": (tables.read_tsv, "the same with tabs"),
    "jsonl": (tables.read_jsonl, "a JSON object a line"),
    "parquet": (tables.read_parquet, "Parquet"),
    "arrow": (tables.read_arrow, "an Arrow file or stream"),
    "images": (images.read_folder, "a folder of images, one folder for each class"),
    "coco": (coco.read_folder, "images with a folder of COCO annotations"),
    "huggingface": (huggingface.read_folder, "a folder that Hugging Face `datasets` saved"),
    "idx": (idx.read_folder, "a folder of IDX files, as MNIST has them"),
    "webdataset": (archives.read_webdataset, "tar archives of samples"),
}
"""Name to reader and description."""
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".tar": "webdataset",
}


def import_shards(
    source: Path,
    folder: Path,
    form: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Read a file or folder and write its records as shards, `00000.arrow` and so on.

    Args:
        form: One of FORMATS; found from the source where empty.

    Raises:
        InvalidArgument: it cannot be read as that, naming the file or row.
    """
    form = form or detect(source)
    if form not in FORMATS:
        raise InvalidArgument.of("format", f"must be one of {', '.join(FORMATS)}, not {form!r}")
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    waiting: list[pa.RecordBatch] = []
    try:
        for batch in FORMATS[form][0](source):
            waiting.append(batch)
            if sum(each.nbytes for each in waiting) >= shard_bytes:
                made.append(_write(folder, len(made), waiting))
                waiting = []
        if waiting:
            made.append(_write(folder, len(made), waiting))
    except (pa.ArrowException, OSError, UnicodeError, ValueError, KeyError) as error:
        raise InvalidArgument.of("source", f"cannot be read as {form}: {str(source)!r}: {error}") from error
    if not made:
        raise InvalidArgument.of("source", f"{str(source)!r} holds no record")
    return made


EXPORTS = {"coco": coco.write_folder, "huggingface": huggingface.write_folder}
"""Name to writer."""


def export_shards(shards: Sequence[Path], folder: Path, form: str) -> None:
    """Write records as others read them, a shard at a time.

    Args:
        form: One of EXPORTS.

    Raises:
        InvalidArgument: they are no records, or of no kind that the format takes.
    """
    if form not in EXPORTS:
        raise InvalidArgument.of("format", f"must be one of {', '.join(EXPORTS)}, not {form!r}")
    found = sorted(path for path in shards if path.suffix == ".arrow")
    if not found:
        raise InvalidArgument.of("source", "holds no shards: make it with `aios dataset import`")
    folder.mkdir(parents=True, exist_ok=True)

    def tables_of() -> "Iterator[pa.Table]":
        for path in found:
            with pa.memory_map(str(path)) as source:
                yield pa.ipc.open_file(source).read_all()

    try:
        EXPORTS[form](tables_of(), folder)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InvalidArgument.of("source", f"cannot be written as {form}: {error}") from error


def detect(source: Path) -> str:
    """The format that a source looks like.

    Raises:
        InvalidArgument: it looks like none.
    """
    if source.is_dir():
        names = [path.name for path in source.iterdir()]
        if huggingface.is_saved(source):
            return "huggingface"
        if any((source / "annotations").glob("*.json")):
            return "coco"
        if any("-ubyte" in name for name in names):
            return "idx"
        if any(name.endswith(".tar") for name in names):
            return "webdataset"
        return "images"
    if source.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[source.suffix.lower()]
    raise InvalidArgument.of(
        "source", f"{str(source)!r} looks like no known format: name one of {', '.join(FORMATS)}"
    )


def _write(folder: Path, number: int, batches: list["pa.RecordBatch"]) -> Path:
    if number >= SHARDS_MAX:
        raise InvalidArgument.of("source", f"has more than {SHARDS_MAX} shards: split it")
    [batch] = pa.Table.from_batches(batches).combine_chunks().to_batches() or batches[:1]
    path = folder / f"{number:05}.arrow"
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, batch.schema) as writer:
        writer.write_batch(batch)
    return path

"""A folder of images, one folder for each class: their files as they are, and the number of the class."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from aios.errors import InvalidArgument

BATCH_BYTES = 8 << 20
IMAGE_BYTES_MAX = 64 << 20
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
"""How image files begin: PNG, JPEG, GIF, BMP, TIFF, WebP."""
CLASSES = b"classes"
"""Metadata of the column `label`: names of the classes, a line each, in the order of their numbers."""


def read_folder(folder: Path) -> Iterator["pa.RecordBatch"]:
    """Columns `path`, `image` (the file's bytes) and `label`. Links are not followed."""
    if not folder.is_dir():
        raise InvalidArgument.of("source", f"{str(folder)!r} is no folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    if not classes:
        raise InvalidArgument.of("source", f"{str(folder)!r} has no folder for a class")
    label = pa.field("label", pa.int64(), nullable=False, metadata={CLASSES: "\n".join(classes).encode()})
    schema = pa.schema(
        [pa.field("path", pa.string(), nullable=False), pa.field("image", pa.binary(), nullable=False), label]
    )
    rows: list[tuple[str, bytes, int]] = []
    for number, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            rows.append((f"{name}/{path.name}", read_image(path), number))
            if sum(len(row[1]) for row in rows) >= BATCH_BYTES:
                yield _batch(rows, schema)
                rows = []
    if rows:
        yield _batch(rows, schema)


def check_name(path: object) -> None:
    """Refuse a name that is no UTF-8: neither a record nor a version can hold it.

    Raises:
        InvalidArgument
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InvalidArgument.of("source", f"{str(path)!r} has a name that is no UTF-8") from None


def read_image(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        InvalidArgument: it is none, or no regular file.
    """
    check_name(path)
    if path.is_symlink() or not path.is_file():
        raise InvalidArgument.of("source", f"{str(path)!r} is no regular file")
    if path.stat().st_size > IMAGE_BYTES_MAX:
        raise InvalidArgument.of("source", f"{str(path)!r} is larger than {IMAGE_BYTES_MAX} bytes")
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise InvalidArgument.of("source", f"{str(path)!r} is no image that is known")
    return content


def _batch(rows: list[tuple[str, bytes, int]], schema: "pa.Schema") -> "pa.RecordBatch":
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)

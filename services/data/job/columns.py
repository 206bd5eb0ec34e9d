"""What kind of column something is, and its values as the transforms need them."""

import io
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from aios.errors import InvalidArgument
from aios.formats.images import CLASSES, MAGIC
from services.data.job.engine import Engine, Given, Told, over
from services.data.job.parts import Array, array_of

PIXELS_MAX = 50_000_000  # of one image: more is a bomb, not a picture
LOOK_AT = 64  # values from which the kind of a column of bytes is told


class Kind(Enum):
    """How the values of a column are compared."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"
    IMAGE = "image"
    """Files of images, or arrays of pixels."""
    VECTOR = "vector"
    OTHER = "other"


def kind_of(table: "pa.Table", name: str) -> Kind:
    """The kind of a column."""
    field = table.schema.field(name)
    kind = field.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return Kind.NUMBER
    if pa.types.is_decimal(kind):
        return Kind.NUMBER
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Kind.TEXT
    if pa.types.is_temporal(kind):
        return Kind.TIME
    if pa.types.is_fixed_size_list(kind):
        shape = (field.metadata or {}).get(b"shape", b"")
        return Kind.IMAGE if b"," in shape else Kind.VECTOR
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        some = table[name].slice(0, LOOK_AT).drop_null().to_pylist()
        return Kind.IMAGE if some and all(each.startswith(MAGIC) for each in some) else Kind.OTHER
    return Kind.OTHER


def of_kind(table: "pa.Table", *kinds: Kind) -> list[str]:
    """The columns of some kinds."""
    return [name for name in table.column_names if kind_of(table, name) in kinds]


def numbers(table: "pa.Table", name: str) -> Array:
    """A column of numbers; NaN where a value is missing. Shape: [N]."""
    made: Array = table[name].cast(pa.float64(), safe=False).to_numpy()
    return made


def histogram(values: Array, bins: int) -> tuple[Array, Array]:
    """Counts and edges; one bin where the values are too far apart, or too close, to be divided."""
    low, high = float(values.min()), float(values.max())
    width = high / bins - low / bins
    if not (np.isfinite(high - low) and low + width > low and high - width < high):
        return np.array([len(values)]), np.array([low, high])
    counts, edges = np.histogram(values, bins)
    return counts, edges


def texts(table: "pa.Table", name: str) -> list[str | None]:
    """A column of texts."""
    found: list[str | None] = table[name].to_pylist()
    return found


def class_names(table: "pa.Table", name: str) -> Sequence[str]:
    """Names of the classes that a column of numbers stands for; empty where it says none."""
    stated = (table.schema.field(name).metadata or {}).get(CLASSES, b"").decode()
    return stated.split("\n") if stated else ()


def labels(table: "pa.Table", name: str) -> tuple[Array, list[Any]]:
    """A column as class numbers, and the class of each number. Shape: [N]; a missing one is -1."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    known = sorted(pc.unique(column).drop_null().to_pylist())
    found = pc.index_in(column, value_set=pa.array(known, column.type)).fill_null(-1)
    numbered: Array = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbered, known


def images(table: "pa.Table", name: str, size: tuple[int, int] | None = None) -> Iterator[Array]:
    """The images of a column, one by one. With a size, grey and scaled to height and width.

    Raises:
        InvalidArgument: one cannot be read, naming its row.
    """
    if pa.types.is_fixed_size_list(table.schema.field(name).type):
        for pixels in array_of(table, name):
            yield scaled(picture(pixels), size) if size else pixels
        return
    for number, content in enumerate(table[name].to_pylist()):
        opened = open_image(content, f"row {number} of {name!r}")
        yield scaled(opened, size) if size else np.asarray(opened)


def unreadable(engine: Engine, table: "pa.Table", name: str) -> dict[int, str]:
    """Rows of a column of image files that are none, and why."""
    if pa.types.is_fixed_size_list(table.schema.field(name).type):
        return {}
    told = over(engine, checked, table.select([name])).told
    return {first + row: why for first, each in told for row, why in each["unreadable"]}


def checked(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: which files of images in the one column are none."""
    found = []
    for row, content in enumerate(piece.column(0).to_pylist()):
        try:
            open_image(content, "it")
        except InvalidArgument as error:
            found.append([row, error.message.removeprefix("input: it ")])
    return piece.slice(0, 0), {"unreadable": found}


def open_image(content: bytes | None, where: str) -> "Image.Image":
    """An image from its file, checked before it is unpacked.

    Raises:
        InvalidArgument: naming `where`.
    """
    if content is None:
        raise InvalidArgument.of("input", f"{where} has no image")
    try:
        opened = Image.open(io.BytesIO(content))
        if opened.width * opened.height > PIXELS_MAX:
            raise InvalidArgument.of("input", f"{where} has more than {PIXELS_MAX} pixels")
        opened.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidArgument.of("input", f"{where} is no image that can be read: {error}") from error
    return opened if opened.mode in ("L", "RGB", "RGBA") else opened.convert("RGB")


def picture(pixels: Array) -> "Image.Image":
    """An array as an image: height and width, with or without colours. Numbers that are not bytes are stretched."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min(initial=0)), float(pixels.max(initial=1))
        pixels = np.asarray((pixels - low) / ((high - low) or 1) * 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def scaled(image: "Image.Image", size: tuple[int, int]) -> Array:
    """Grey, of one height and width."""
    return np.asarray(image.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR))

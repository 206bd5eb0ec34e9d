"""IDX, the format of MNIST: `train-images-idx3-ubyte` beside `train-labels-idx1-ubyte`, also compressed.

Source: LeCun et al., The MNIST database of handwritten digits (the format's description).
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aios.errors import InvalidArgument

BATCH_ROWS = 4096
BYTES_MAX = 4 << 30  # unpacked
RATIO_MAX = 200  # unpacked over packed: more is a bomb
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
SHAPE = b"shape"


def read_folder(folder: Path) -> Iterator["pa.RecordBatch"]:
    """Columns `image`, `label` and `split` (what stands before `-images`)."""
    found = sorted(folder.glob("*-images-*")) if folder.is_dir() else []
    if not found:
        raise InvalidArgument.of("source", f"{str(folder)!r} holds no `…-images-idx3-ubyte`")
    for images in found:
        split = images.name.partition("-images-")[0]
        labels = next(iter(sorted(folder.glob(f"{split}-labels-*"))), None)
        if labels is None:
            raise InvalidArgument.of("source", f"{str(images)!r} has no `{split}-labels-…` beside it")
        yield from _pairs(read(images), read(labels), split, images)


def read(path: Path) -> NDArray[Any]:
    """One file's array.

    Raises:
        InvalidArgument: it is none, or not as long as it says.
    """
    try:
        return _read(path)
    except (EOFError, OSError, zlib.error) as error:
        raise InvalidArgument.of("source", f"{str(path)!r} cannot be read: {error}") from None


def _read(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise InvalidArgument.of("source", f"{str(path)!r} is no file")
    packed = path.stat().st_size
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(4)
        if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in TYPES or not 1 <= header[3] <= 4:
            raise InvalidArgument.of("source", f"{str(path)!r} is no IDX file")
        kind, count = np.dtype(TYPES[header[2]]), header[3]
        sizes = np.frombuffer(file.read(4 * count), ">u4")
        total = int(np.prod(sizes.astype(object))) * kind.itemsize if len(sizes) == count else -1
        if not 0 <= total <= min(BYTES_MAX, RATIO_MAX * packed):
            raise InvalidArgument.of("source", f"{str(path)!r} is cut off, or unpacks to more than is taken")
        content = file.read(total + 1)
    if len(content) != total:
        raise InvalidArgument.of("source", f"{str(path)!r} is not as long as its header says")
    return np.frombuffer(content, kind).reshape(sizes.astype(int)).astype(kind.newbyteorder("="))


def _pairs(images: NDArray[Any], labels: NDArray[Any], split: str, path: Path) -> Iterator["pa.RecordBatch"]:
    if len(images) != len(labels) or labels.ndim != 1:
        raise InvalidArgument.of("source", f"{str(path)!r} has {len(images)} images for {len(labels)} labels")
    shape = images.shape[1:]
    width = int(np.prod(shape))
    kind = pa.list_(pa.from_numpy_dtype(images.dtype), width)
    schema = pa.schema(
        [
            pa.field("image", kind, nullable=False, metadata={SHAPE: ",".join(map(str, shape)).encode()}),
            pa.field("label", pa.int64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
        ]
    )
    for start in range(0, len(images), BATCH_ROWS):
        some = images[start : start + BATCH_ROWS]
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(some).reshape(-1)), width)
        numbers = pa.array(labels[start : start + BATCH_ROWS].astype(np.int64))
        yield pa.record_batch([pixels, numbers, pa.array([split] * len(some))], schema=schema)

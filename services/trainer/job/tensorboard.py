"""Scalars out of TensorBoard's event files, as a command appends them: what it logs there is a metric of its run.

A file is records of length, checksum, Event message and checksum. Of a message the step and the scalars are read, both as
torch writes them (`simple_value`) and as TensorFlow 2 and Keras do (a tensor of one number); all else is passed over. The
checksums are not looked at: whoever could change the file could change them.

Source: tensorflow/core/lib/io/record_writer.h; event.proto, summary.proto and tensor.proto of TensorFlow.
"""

import math
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PATTERN = "events.out.tfevents.*"
LOOK_SECONDS = 5.0  # between looks for new files: there may be thousands of others
FILES_MAX = 200
READ_BYTES = 1 << 20
RECORD_BYTES_MAX = 64 << 20  # an image is a few megabytes
HEAD_BYTES, TAIL_BYTES = 12, 4  # length and its checksum; the checksum of the message
FLOAT, DOUBLE = 1, 2  # types of a tensor
NAME_MAX = 250  # of a metric
_ODD = re.compile(r"[^\w./@ -]")

Take = Callable[[int, dict[str, float]], None]
"""Is given a step and what was measured there."""


class EventFiles:
    """Event files below some folders. Two folders that log one name are told apart by the second's own name."""

    def __init__(self, folders: Sequence[Path], take: Take) -> None:
        self._folders = folders
        self._take = take
        self._files: dict[Path, _File] = {}
        self._named: dict[str, Path] = {}
        self._looked_at = float("-inf")

    def read(self, *, to_the_end: bool = False) -> None:
        """Report what was appended since."""
        if to_the_end or time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            for folder in self._folders:
                for path in sorted(folder.rglob(PATTERN)):
                    if len(self._files) < FILES_MAX and path.is_file() and not path.is_symlink():
                        self._files.setdefault(path, _File(path))
        for path, file in self._files.items():
            for message in file.messages(to_the_end=to_the_end):
                step, found = scalars(message)
                if found and step >= 0:
                    self._take(step, {self._name(path.parent, tag): value for tag, value in found.items()})

    def _name(self, folder: Path, tag: str) -> str:
        name = tag if self._named.setdefault(tag, folder) == folder else f"{folder.name}/{tag}"
        return _ODD.sub("_", name)[:NAME_MAX]


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._broken = False

    def messages(self, *, to_the_end: bool) -> Iterator[bytes]:
        """Whole messages that were appended since. A file that is none is given up."""
        while not self._broken:
            try:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    piece = file.read(READ_BYTES)
            except OSError:
                return
            self._offset += len(piece)
            self._rest += piece
            yield from self._whole()
            if not piece or not to_the_end:
                return

    def _whole(self) -> Iterator[bytes]:
        at = 0
        while len(self._rest) - at >= HEAD_BYTES:
            (length,) = struct.unpack_from("<Q", self._rest, at)
            if length > RECORD_BYTES_MAX:
                self._broken = True
                break
            end = at + HEAD_BYTES + length
            if len(self._rest) < end + TAIL_BYTES:
                break
            yield self._rest[at + HEAD_BYTES : end]
            at = end + TAIL_BYTES
        self._rest = b"" if self._broken else self._rest[at:]


def scalars(event: bytes) -> tuple[int, dict[str, float]]:
    """The step of an Event message, and its finite scalars by tag. Nothing of one that cannot be read."""
    step, found = 0, {}
    try:
        for field, value in _fields(event):
            if field == 2 and isinstance(value, int):
                step = value - (1 << 64) if value >= 1 << 63 else value
            elif field == 5 and isinstance(value, bytes):
                for inner, summary in _fields(value):
                    if inner == 1 and isinstance(summary, bytes):
                        tag, scalar = _scalar(summary)
                        if tag and scalar is not None and math.isfinite(scalar):
                            found[tag] = scalar
    except (ValueError, struct.error, IndexError):
        return 0, {}
    return step, found


def _scalar(summary: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for field, value in _fields(summary):
        if isinstance(value, bytes):
            if field == 1:
                tag = value.decode()
            elif field == 2 and len(value) == 4:
                (scalar,) = struct.unpack("<f", value)
            elif field == 8:
                scalar = _of_tensor(value)
    return tag, scalar


def _of_tensor(tensor: bytes) -> float | None:
    """The number of a tensor that is one; its content, or its only float or double."""
    kind, data = 0, b""
    for field, value in _fields(tensor):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field in (4, 5, 6) and isinstance(value, bytes):
            data = value
    form = {(FLOAT, 4): "<f", (DOUBLE, 8): "<d"}.get((kind, len(data)))
    return None if form is None else float(struct.unpack(form, data)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: varints as numbers, all others as their bytes.

    Raises:
        ValueError, IndexError: it is no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                number, at = _varint(message, at)
                yield key >> 3, number
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"no field has wire type {kind}")
        if at + size > len(message):
            raise ValueError("ends within a field")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")

"""Files of other tools: written from labelled items, and read back to the same.

Reads what anybody may have made: sizes and depths are bounded, and a mistake is told with its file and row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aios.errors import InvalidArgument
from aios.labels.formats import coco, conll, label_studio, tables, yolo
from aios.labels.records import Labelled
from aios.labels.values import Kind

Files = Mapping[str, bytes]
"""Content by path."""
_ALL = frozenset(Kind)
_SHAPES = frozenset([Kind.BOXES, Kind.POLYGONS, Kind.KEYPOINTS])


@dataclass(frozen=True)
class Format:
    """How a tool writes labels down."""

    kinds: frozenset[Kind]
    write: Callable[[Labelled], Files]
    read: Callable[[Files, Labelled], Labelled]
    """Of files, with the label project that they belong to."""


FORMATS: Mapping[str, Format] = {
    "csv": Format(_ALL, tables.write_csv, tables.read_csv),
    "jsonl": Format(_ALL, tables.write_jsonl, tables.read_jsonl),
    "label-studio": Format(_ALL, label_studio.write, label_studio.read),
    "coco": Format(_SHAPES, coco.write, coco.read),
    "yolo": Format(frozenset([Kind.BOXES, Kind.POLYGONS]), yolo.write, yolo.read),
    "conll": Format(frozenset([Kind.SPANS]), conll.write, conll.read),
}
NAMES = tuple(FORMATS)


def of(name: str, kind: Kind) -> Format:
    """A format that can say labels of a kind.

    Raises:
        InvalidArgument
    """
    if name not in FORMATS or kind not in FORMATS[name].kinds:
        able = [each for each, found in FORMATS.items() if kind in found.kinds]
        raise InvalidArgument.of("format", f"must be one of {', '.join(able)} for {kind}, not {name!r}")
    return FORMATS[name]

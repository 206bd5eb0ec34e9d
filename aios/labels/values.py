"""What a label is, by kind, in the one form that is stored: sorted, and coordinates to a millionth of a pixel.

The one form is why a label that travels through a format in per cent or in fractions comes back the same.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from aios.errors import InvalidArgument

DECIMALS = 6
"""Of a coordinate: fractions of the largest image still say it exactly."""
SIDE_MAX = 1_000_000  # pixels
MARKS_MAX = 1_000  # spans or shapes of one item: a page of small print
POINTS_MAX = 10_000  # of one polygon
CHARS_MAX = 255  # of a class's name


class Kind(StrEnum):
    """What people are asked for."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi_label"
    SPANS = "spans"
    BOXES = "boxes"
    POLYGONS = "polygons"
    KEYPOINTS = "keypoints"

    @property
    def classes(self) -> bool:
        """A label is a set of classes, and nothing in a place."""
        return self in (Kind.CLASSIFICATION, Kind.MULTI_LABEL)


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of a text, in code points; `end` is behind it."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, order=True)
class Box:
    """Upright, in pixels from the left and the top."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, order=True)
class Polygon:
    """One outline or several: rings of x1, y1, x2, y2 …"""

    label: str
    rings: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, order=True)
class Keypoint:
    """A named point of an object. Visibility as in COCO: 1 hidden, 2 visible."""

    name: str
    x: float
    y: float
    visibility: int = 2


@dataclass(frozen=True, order=True)
class Keypoints:
    """One object by its points."""

    label: str
    points: tuple[Keypoint, ...]


@dataclass(frozen=True)
class Label:
    """What somebody says of one item. One field is used, by the kind."""

    choices: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    boxes: tuple[Box, ...] = ()
    polygons: tuple[Polygon, ...] = ()
    keypoints: tuple[Keypoints, ...] = ()

    def marks(self, kind: Kind) -> Sequence[Any]:
        """What is in the field of a kind."""
        found: Sequence[Any] = getattr(self, _FIELDS[kind])
        return found


_FIELDS = {
    Kind.CLASSIFICATION: "choices",
    Kind.MULTI_LABEL: "choices",
    Kind.SPANS: "spans",
    Kind.BOXES: "boxes",
    Kind.POLYGONS: "polygons",
    Kind.KEYPOINTS: "keypoints",
}


@dataclass(frozen=True)
class Size:
    """What marks must lie within. None is not known."""

    chars: int | None = None
    width: int | None = None
    height: int | None = None


def check_label(label: Label, kind: Kind, labels: Collection[str], size: Size, field: str) -> Label:
    """A label in the form that is stored.

    Args:
        labels: The classes that there are.

    Raises:
        InvalidArgument: naming the part below `field`.
    """
    for other in dict.fromkeys(_FIELDS.values()):
        if other != _FIELDS[kind] and getattr(label, other):
            raise InvalidArgument.of(f"{field}.{other}", f"must be empty: the label project asks for {kind}")
    marks = label.marks(kind)
    if len(marks) > MARKS_MAX:
        raise InvalidArgument.of(f"{field}.{_FIELDS[kind]}", f"must be at most {MARKS_MAX}")
    if kind is Kind.CLASSIFICATION and len(marks) != 1:
        raise InvalidArgument.of(f"{field}.choices", "must be exactly one class")
    made = []
    for index, mark in enumerate(marks):
        at = f"{field}.{_FIELDS[kind]}[{index}]"
        name = mark if kind.classes else mark.label
        if name not in labels:
            raise InvalidArgument.of(at, f"{name!r} is no class of the label project")
        made.append(_CHECKS[kind](mark, size, at) if kind in _CHECKS else mark)
    if kind is Kind.MULTI_LABEL and len(set(made)) != len(made):
        raise InvalidArgument.of(f"{field}.choices", "must name each class once")
    return replace(Label(), **{_FIELDS[kind]: tuple(sorted(made))})


def rounded(value: float) -> float:
    """A coordinate in the form that is stored; never -0."""
    return round(value, DECIMALS) + 0.0


def similarity_of(kind: Kind) -> Callable[[Label, Label], float]:
    """How alike two labels of a kind are, from 0 to 1: what agreement is counted from."""
    from aios.labels import likeness

    return likeness.BY_KIND[kind]


def _span(span: Span, size: Size, at: str) -> Span:
    if not 0 <= span.start < span.end:
        raise InvalidArgument.of(at, "must start at 0 or later, and end behind its start")
    if size.chars is not None and span.end > size.chars:
        raise InvalidArgument.of(f"{at}.end", f"must be at most {size.chars}, where the text ends")
    return span


def _box(box: Box, size: Size, at: str) -> Box:
    made = Box(box.label, *(rounded(each) for each in (box.x, box.y, box.width, box.height)))
    if not (made.width > 0 and made.height > 0):
        raise InvalidArgument.of(at, "must have a width and a height above 0")
    _inside((made.x, made.x + made.width), (made.y, made.y + made.height), size, at)
    return made


def _polygon(polygon: Polygon, size: Size, at: str) -> Polygon:
    rings = tuple(tuple(map(rounded, ring)) for ring in polygon.rings)
    if not rings or any(len(ring) < 6 or len(ring) % 2 for ring in rings):
        raise InvalidArgument.of(f"{at}.rings", "must be at least one, each of three points or more")
    if sum(map(len, rings)) > 2 * POINTS_MAX:
        raise InvalidArgument.of(f"{at}.rings", f"must have at most {POINTS_MAX} points")
    for ring in rings:
        _inside(ring[::2], ring[1::2], size, at)
    return Polygon(polygon.label, rings)


def _keypoints(found: Keypoints, size: Size, at: str) -> Keypoints:
    points = tuple(sorted(replace(point, x=rounded(point.x), y=rounded(point.y)) for point in found.points))
    if not points:
        raise InvalidArgument.of(f"{at}.points", "must be at least one")
    if len({point.name for point in points}) != len(points):
        raise InvalidArgument.of(f"{at}.points", "must name each point once")
    for point in points:
        if not 0 < len(point.name) <= CHARS_MAX:
            raise InvalidArgument.of(f"{at}.points", f"must have names of 1-{CHARS_MAX} characters")
        if point.visibility not in (1, 2):
            raise InvalidArgument.of(
                f"{at}.points", "must have visibility 1 or 2; leave out what is not there"
            )
    _inside([point.x for point in points], [point.y for point in points], size, at)
    return Keypoints(found.label, points)


def _inside(xs: Sequence[float], ys: Sequence[float], size: Size, at: str) -> None:
    slack = 10.0**-DECIMALS  # what rounding may add at the edge
    for values, end, way in ((xs, size.width, "width"), (ys, size.height, "height")):
        limit = SIDE_MAX if end is None else end
        if not all(math.isfinite(value) and -slack <= value <= limit + slack for value in values):
            raise InvalidArgument.of(at, f"must lie within the image, whose {way} is {limit} pixels")


_CHECKS: dict[Kind, Callable[[Any, Size, str], Any]] = {
    Kind.SPANS: _span,
    Kind.BOXES: _box,
    Kind.POLYGONS: _polygon,
    Kind.KEYPOINTS: _keypoints,
}

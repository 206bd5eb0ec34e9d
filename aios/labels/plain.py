"""Labels as plain values, for JSON: exactly what a label says, with the fields that its kind uses."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from aios.labels.values import Box, Keypoint, Keypoints, Kind, Label, Polygon, Span


def to_plain(label: Label, kind: Kind) -> Any:
    """One class as a string, several as a list of strings, marks as a list of objects."""
    if kind is Kind.CLASSIFICATION:
        return label.choices[0]
    if kind is Kind.MULTI_LABEL:
        return list(label.choices)
    return [asdict(mark) for mark in label.marks(kind)]


def from_plain(value: Any, kind: Kind) -> Label:
    """The label that `to_plain` gave this value.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    try:
        if kind is Kind.CLASSIFICATION:
            return Label(choices=(_text(value),))
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {type(value).__name__}")
        return _READ[kind](value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no label of kind {kind}: {error}") from None


def number(value: Any) -> float:
    """A number of JSON, which is neither a truth value nor a text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r:.40}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is too large a number") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise ValueError(f"must be a whole number, not {value!r:.40}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not {value!r:.40}")
    return value


def _box(each: Mapping[str, Any]) -> Box:
    sides = (number(each[side]) for side in ("x", "y", "width", "height"))
    return Box(_text(each["label"]), *sides)


def _polygon(each: Mapping[str, Any]) -> Polygon:
    return Polygon(_text(each["label"]), tuple(tuple(map(number, ring)) for ring in each["rings"]))


def _keypoints(each: Mapping[str, Any]) -> Keypoints:
    points = tuple(
        Keypoint(
            _text(point["name"]), number(point["x"]), number(point["y"]), _whole(point.get("visibility", 2))
        )
        for point in each["points"]
    )
    return Keypoints(_text(each["label"]), points)


_READ: Mapping[Kind, Callable[[list[Any]], Label]] = {
    Kind.MULTI_LABEL: lambda value: Label(choices=tuple(map(_text, value))),
    Kind.SPANS: lambda value: Label(
        spans=tuple(Span(_whole(each["start"]), _whole(each["end"]), _text(each["label"])) for each in value)
    ),
    Kind.BOXES: lambda value: Label(boxes=tuple(map(_box, value))),
    Kind.POLYGONS: lambda value: Label(polygons=tuple(map(_polygon, value))),
    Kind.KEYPOINTS: lambda value: Label(keypoints=tuple(map(_keypoints, value))),
}

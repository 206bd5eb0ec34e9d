"""Metric points and what may be reported. Pure."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from aios.errors import InvalidArgument

POINTS_PER_REPORT_MAX = 1_000  # about 60 KiB on the wire, some milliseconds in the database
_KEY = re.compile(r"[\w./@ -]{1,250}")


@dataclass(frozen=True)
class Point:
    """One value of one metric. Known by key and step: a later report of the same replaces it."""

    key: str
    value: float
    step: int
    time: datetime
    epoch: int = 0
    """The attempt that measured it."""


def check(points: list[Point]) -> list[Point]:
    """The points, if all may be stored.

    Raises:
        InvalidArgument: naming the first that may not.
    """
    if len(points) > POINTS_PER_REPORT_MAX:
        raise InvalidArgument.of(
            "points", f"at most {POINTS_PER_REPORT_MAX} in one report, not {len(points)}"
        )
    for index, point in enumerate(points):
        if not _KEY.fullmatch(point.key):
            raise InvalidArgument.of(
                f"points[{index}].key", "must be 1-250 letters, digits, spaces or any of . / @ _ -"
            )
        if not math.isfinite(point.value):
            raise InvalidArgument.of(f"points[{index}].value", f"must be a finite number, not {point.value}")
        if point.step < 0:
            raise InvalidArgument.of(f"points[{index}].step", "must not be negative")
    return points


def newest(points: Iterable[Point]) -> dict[str, float]:
    """The value of each metric at its greatest step."""
    last: dict[str, Point] = {}
    for point in points:
        if point.key not in last or point.step >= last[point.key].step:
            last[point.key] = point
    return {key: point.value for key, point in last.items()}

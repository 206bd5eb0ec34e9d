"""How alike two labels of one item are: 1 is the same, 0 nothing in common. Symmetric."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import hypot
from typing import Any

from aios.labels.values import Box, Keypoints, Kind, Label, Polygon

NEAR = 0.05
"""Of an object's size: points that are nearer coincide."""


def choices(a: Label, b: Label) -> float:
    """Jaccard's index: shared classes over all that either names. Of one class, 1 or 0."""
    mine, theirs = set(a.choices), set(b.choices)
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def span_f1(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """F1 of exact matches; 1 where neither has any. Source: the CoNLL-2003 measure, over start, end and class."""
    if not a and not b:
        return 1.0
    shared = sum((Counter(a) & Counter(b)).values())
    return 2 * shared / (len(a) + len(b))


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a.width * a.height + b.width * b.height - shared)


def polygon_iou(a: Polygon, b: Polygon) -> float:
    """Intersection over union of two outlines. Where a ring crosses itself, what it winds around counts."""
    mine, theirs = _shape(a), _shape(b)
    whole = mine.union(theirs).area
    return float(mine.intersection(theirs).area / whole) if whole > 0 else 0.0


def keypoint_overlap(a: Keypoints, b: Keypoints) -> float:
    """Points of a name that nearly coincide, over all names of either. Near is a share of the larger object's extent."""
    mine = {point.name: point for point in a.points}
    theirs = {point.name: point for point in b.points}
    near = NEAR * max(_extent(a), _extent(b), 1.0)
    shared = sum(
        hypot(mine[name].x - theirs[name].x, mine[name].y - theirs[name].y) <= near
        for name in mine.keys() & theirs.keys()
    )
    return shared / len(mine.keys() | theirs.keys())


def matched(a: Sequence[Any], b: Sequence[Any], overlap: Callable[[Any, Any], float]) -> float:
    """Mean overlap of marks of the same class, each with one of the other side; those without one count 0.

    Paired greedily, the closest first, as COCO's evaluation does it. 1 where neither side has any.
    """
    if not a and not b:
        return 1.0
    pairs = [
        (overlap(one, other), i, j)
        for i, one in enumerate(a)
        for j, other in enumerate(b)
        if one.label == other.label
    ]
    total, used, taken = 0.0, set[int](), set[int]()
    for found, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1] + pair[2])):
        if i not in used and j not in taken:
            used.add(i)
            taken.add(j)
            total += found
    # As F1 weighs: what only one side has counts half against each.
    return 2 * total / (len(a) + len(b))


BY_KIND: Mapping[Kind, Callable[[Label, Label], float]] = {
    Kind.CLASSIFICATION: choices,
    Kind.MULTI_LABEL: choices,
    Kind.SPANS: lambda a, b: span_f1(a.spans, b.spans),
    Kind.BOXES: lambda a, b: matched(a.boxes, b.boxes, box_iou),
    Kind.POLYGONS: lambda a, b: matched(a.polygons, b.polygons, polygon_iou),
    Kind.KEYPOINTS: lambda a, b: matched(a.keypoints, b.keypoints, keypoint_overlap),
}


def _shape(polygon: Polygon) -> Any:
    from shapely import make_valid, unary_union
    from shapely.geometry import Polygon as Outline

    rings = [make_valid(Outline(list(zip(ring[::2], ring[1::2], strict=True)))) for ring in polygon.rings]
    return unary_union(rings)


def _extent(found: Keypoints) -> float:
    xs, ys = [point.x for point in found.points], [point.y for point in found.points]
    return hypot(max(xs) - min(xs), max(ys) - min(ys))

"""COCO: one JSON document of images, categories and annotations. Source: cocodataset.org/#format-data.

Pixels, as ours. A segmentation is a list of rings; run-length ones are refused. An image without an annotation is one
in which nothing was found. Licences, captions and ids are not kept.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aios.labels.formats.finding import Finder
from aios.labels.formats.reading import RECORDS_MAX, at, count, json_of, single, text, wrong
from aios.labels.plain import number
from aios.labels.records import Labelled, Record
from aios.labels.values import Box, Keypoint, Keypoints, Kind, Label, Polygon, rounded

NAME = "annotations.json"


def write(labelled: Labelled) -> Mapping[str, bytes]:
    """`annotations.json`: the images that have a final label."""
    names = _point_names(labelled)
    categories: list[dict[str, Any]] = [
        {"id": index, "name": label} for index, label in enumerate(labelled.labels, 1)
    ]
    if labelled.kind is Kind.KEYPOINTS:
        categories = [each | {"keypoints": names[each["name"]], "skeleton": []} for each in categories]
    ids = {label: index for index, label in enumerate(labelled.labels, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in labelled.records:
        if record.label is None:
            continue
        if record.row is not None:
            raise wrong(record.path, "COCO is for files, not for rows of tables")
        image = {
            "id": len(images) + 1,
            "file_name": record.path,
            "width": record.width,
            "height": record.height,
        }
        images.append(image)
        for mark in record.label.marks(labelled.kind):
            common = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": ids[mark.label]}
            annotations.append(common | {"iscrowd": 0} | _body(mark, names.get(mark.label, [])))
    document = {"images": images, "categories": categories, "annotations": annotations}
    return {NAME: json.dumps(document, ensure_ascii=False).encode()}


def read(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """The annotations of a kind, by image."""
    name, content = single(files, ".json")
    document = json_of(content, name)
    finder = Finder(known)
    with at(name):
        parts = [document[part] for part in ("images", "categories", "annotations")]
        if not all(isinstance(part, list) and len(part) <= RECORDS_MAX for part in parts):
            raise ValueError(f"images, categories and annotations must be lists of at most {RECORDS_MAX}")
    images: dict[int, Record] = {}
    for index, image in enumerate(parts[0]):
        with at(f"{name}, images[{index}]"):
            found = finder.file(text(image["file_name"], "file_name"))
            width = count(image.get("width", found.width), "width")
            height = count(image.get("height", found.height), "height")
            if image["id"] in images:
                raise ValueError(f"id {image['id']} is used twice")
            images[count(image["id"], "id", 2**53)] = replace(found, width=width, height=height)
    categories: dict[int, tuple[str, Sequence[str]]] = {}
    for index, category in enumerate(parts[1]):
        with at(f"{name}, categories[{index}]"):
            points = [text(each, "a keypoint's name") for each in category.get("keypoints", [])]
            categories[count(category["id"], "id", 2**53)] = (text(category["name"], "name"), points)
    marks: dict[int, list[Any]] = defaultdict(list)
    for index, annotation in enumerate(parts[2]):
        with at(f"{name}, annotations[{index}]"):
            image_id, category_id = annotation["image_id"], annotation["category_id"]
            if image_id not in images or category_id not in categories:
                raise ValueError("names an image or a category that is not there")
            label, its_points = categories[category_id]
            mark = _READ[known.kind](annotation, label, its_points)
            if mark is not None:
                marks[image_id].append(mark)
    field = {Kind.BOXES: "boxes", Kind.POLYGONS: "polygons", Kind.KEYPOINTS: "keypoints"}[known.kind]
    records = [
        replace(record, label=Label(**{field: tuple(sorted(marks[image_id]))}))
        for image_id, record in images.items()
    ]
    return replace(known, records=records)


def _point_names(labelled: Labelled) -> Mapping[str, list[str]]:
    """All names of points of each class."""
    names: dict[str, set[str]] = defaultdict(set)
    for record in labelled.records:
        for found in record.label.keypoints if record.label else ():
            names[found.label] |= {point.name for point in found.points}
    return {label: sorted(names[label]) for label in labelled.labels}


def _body(mark: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(mark, Box):
        return {"bbox": [mark.x, mark.y, mark.width, mark.height], "area": mark.width * mark.height}
    if isinstance(mark, Polygon):
        xs = [x for ring in mark.rings for x in ring[::2]]
        ys = [y for ring in mark.rings for y in ring[1::2]]
        area = sum(map(_area, mark.rings))
        return {"segmentation": [list(ring) for ring in mark.rings], "area": area, "bbox": _around(xs, ys)}
    points = {point.name: point for point in mark.points}
    flat: list[float] = []
    for name in names:
        point = points.get(name)
        flat += [point.x, point.y, point.visibility] if point else [0, 0, 0]
    box = _around([point.x for point in mark.points], [point.y for point in mark.points])
    return {"keypoints": flat, "num_keypoints": len(points), "bbox": box, "area": box[2] * box[3]}


def _around(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _area(ring: Sequence[float]) -> float:
    points = list(zip(ring[::2], ring[1::2], strict=True))
    return (
        abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True))) / 2
    )


def _box(annotation: Mapping[str, Any], label: str, points: Sequence[str]) -> Box:
    x, y, width, height = (rounded(number(each)) for each in annotation["bbox"])
    return Box(label, x, y, width, height)


def _polygon(annotation: Mapping[str, Any], label: str, points: Sequence[str]) -> Polygon:
    rings = annotation["segmentation"]
    if not isinstance(rings, list):
        raise ValueError("segmentation is run-length encoded: only polygons can be read")
    return Polygon(label, tuple(tuple(rounded(number(each)) for each in ring) for ring in rings))


def _keypoints(annotation: Mapping[str, Any], label: str, points: Sequence[str]) -> Keypoints | None:
    flat = annotation["keypoints"]
    if not isinstance(flat, list) or len(flat) != 3 * len(points):
        raise ValueError(f"keypoints must be {3 * len(points)} numbers, three for each point of the category")
    found = []
    for index, name in enumerate(points):
        x, y, visibility = flat[3 * index : 3 * index + 3]
        if count(visibility, "visibility", 2):
            found.append(Keypoint(name, rounded(number(x)), rounded(number(y)), visibility))
    return Keypoints(label, tuple(sorted(found))) if found else None


_READ: Mapping[Kind, Any] = {Kind.BOXES: _box, Kind.POLYGONS: _polygon, Kind.KEYPOINTS: _keypoints}

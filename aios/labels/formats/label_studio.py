"""Label Studio: a JSON list of tasks with annotations; coordinates in per cent. Source: labelstud.io/guide/export.

What a person said is an annotation of that person; the final label is one without a person. Parts of one object, which
Label Studio has as regions of their own, say in `meta` that they belong together. Rotated boxes are refused.
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
from aios.labels.values import Box, Keypoint, Keypoints, Kind, Label, Polygon, Span, rounded

TYPES = {
    Kind.CLASSIFICATION: "choices",
    Kind.MULTI_LABEL: "choices",
    Kind.SPANS: "labels",
    Kind.BOXES: "rectanglelabels",
    Kind.POLYGONS: "polygonlabels",
    Kind.KEYPOINTS: "keypointlabels",
}
IMAGES = (Kind.BOXES, Kind.POLYGONS, Kind.KEYPOINTS)
POINT_WIDTH = 0.5  # of a drawn point, in per cent


def write(labelled: Labelled) -> Mapping[str, bytes]:
    """`tasks.json`."""
    tasks = []
    for index, record in enumerate(labelled.records, 1):
        annotations = []
        if record.label is not None:
            annotations.append(
                {"ground_truth": True, "result": _results(record.label, labelled.kind, record)}
            )
        for who, label in record.annotations.items():
            result = _results(label, labelled.kind, record)
            annotations.append({"completed_by": {"email": who}, "ground_truth": False, "result": result})
        meta: dict[str, Any] = {"path": record.path}
        meta |= {} if record.row is None else {"row": record.row}
        data = dict(record.data) or {"image" if labelled.kind in IMAGES else "path": record.path}
        tasks.append({"id": index, "data": data, "meta": meta, "annotations": annotations})
    return {"tasks.json": json.dumps(tasks, ensure_ascii=False).encode()}


def read(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """Tasks as `write` or Label Studio wrote them. What was cancelled is left out."""
    name, content = single(files, ".json")
    tasks = json_of(content, name)
    if not isinstance(tasks, list) or len(tasks) > RECORDS_MAX:
        raise wrong(name, f"must be a list of at most {RECORDS_MAX} tasks")
    finder = Finder(known)
    records = []
    for index, task in enumerate(tasks):
        place = f"{name}, task {index}"
        with at(place):
            record = _item(finder, task)
            said: dict[str, Label] = {}
            final = None
            for position, annotation in enumerate(task.get("annotations", [])):
                with at(f"{place}, annotation {position}"):
                    if annotation.get("was_cancelled"):
                        continue
                    label = _label(annotation["result"], known.kind, record)
                    who = _who(annotation, position, final is not None)
                    if who in said:
                        raise ValueError(f"{who} has annotated it already")
                    if who:
                        said[who] = label
                    else:
                        final = label
            records.append(replace(record, label=final, annotations=said))
    return replace(known, records=records)


def _item(finder: Finder, task: Mapping[str, Any]) -> Record:
    meta, data = task.get("meta") or {}, task["data"]
    if "path" in meta:
        row = count(meta["row"], "row", 2**62) if "row" in meta else None
        return finder.row(text(meta["path"], "path"), row)
    if "image" in data:
        return finder.file(text(data["image"], "image"))
    found = finder.text(text(data["text"], "text"))
    if found is None:
        raise ValueError("no item, or several, show this text")
    return found


def _who(annotation: Mapping[str, Any], position: int, final: bool) -> str:
    """Annotator; empty for the final label."""
    who = annotation.get("completed_by")
    if isinstance(who, Mapping):
        who = who.get("email") or who.get("id")
    if who is not None:
        return str(who)
    return f"annotation-{position}" if final else ""


def _results(label: Label, kind: Kind, record: Record) -> list[dict[str, Any]]:
    common = {"from_name": "label", "to_name": "item", "type": TYPES[kind]}
    if kind.classes:
        return [common | {"value": {"choices": list(label.choices)}}] if label.choices else []
    if kind is Kind.SPANS:
        whole = str(record.data.get("text", ""))
        return [
            common
            | {
                "id": f"r{index}",
                "value": {
                    "start": span.start,
                    "end": span.end,
                    "text": whole[span.start : span.end],
                    "labels": [span.label],
                },
            }
            for index, span in enumerate(label.spans)
        ]
    if not (record.width and record.height):
        raise wrong(record.path, "Label Studio needs an image whose size is known")
    sized = common | {"original_width": record.width, "original_height": record.height, "image_rotation": 0}
    found = []
    for index, mark in enumerate(label.marks(kind)):
        for part, (value, meta) in enumerate(_regions(mark, record)):
            body = {"id": f"r{index}-{part}", "value": value | {TYPES[kind]: [mark.label]}}
            found.append(sized | body | {"meta": {"object": index, **meta}})
    return found


def _regions(mark: Any, record: Record) -> Sequence[tuple[dict[str, Any], dict[str, Any]]]:
    """Value and meta of each region of an object."""
    across, down = 100 / record.width, 100 / record.height
    if isinstance(mark, Box):
        value = {"x": mark.x * across, "y": mark.y * down, "width": mark.width * across}
        return [(value | {"height": mark.height * down, "rotation": 0}, {})]
    if isinstance(mark, Polygon):
        points = [
            [[x * across, y * down] for x, y in zip(ring[::2], ring[1::2], strict=True)]
            for ring in mark.rings
        ]
        return [({"points": ring, "closed": True}, {}) for ring in points]
    return [
        (
            {"x": point.x * across, "y": point.y * down, "width": POINT_WIDTH},
            {"name": point.name, "visibility": point.visibility},
        )
        for point in mark.points
    ]


def _label(results: Sequence[Any], kind: Kind, record: Record) -> Label:
    objects: dict[Any, list[tuple[str, Mapping[str, Any], Mapping[str, Any], float, float]]] = defaultdict(
        list
    )
    choices: list[str] = []
    spans: list[Span] = []
    for index, result in enumerate(results):
        if result["type"] != TYPES[kind]:
            raise ValueError(f"result {index} is of type {result['type']!r:.40}, not {TYPES[kind]!r}")
        value = result["value"]
        names = [text(each, "a class") for each in value[TYPES[kind]]]
        if kind.classes:
            choices += names
            continue
        if len(names) != 1:
            raise ValueError(f"result {index} must have one class")
        if kind is Kind.SPANS:
            spans.append(Span(count(value["start"], "start"), count(value["end"], "end"), names[0]))
            continue
        width = count(result.get("original_width", record.width), "original_width")
        height = count(result.get("original_height", record.height), "original_height")
        if not (width and height):
            raise ValueError(f"result {index} does not say how large the image is")
        meta = result.get("meta") or {}
        key = meta["object"] if isinstance(meta.get("object"), int) else f"region {index}"
        objects[key].append((names[0], value, meta, width / 100, height / 100))
    if kind is Kind.CLASSIFICATION and len(choices) != 1:
        raise ValueError("must choose one class")
    if kind.classes:
        return Label(choices=tuple(sorted(choices)))
    if kind is Kind.SPANS:
        return Label(spans=tuple(sorted(spans)))
    field = {Kind.BOXES: "boxes", Kind.POLYGONS: "polygons", Kind.KEYPOINTS: "keypoints"}[kind]
    return Label(**{field: tuple(sorted(_READ[kind](parts) for parts in objects.values()))})


def _box(parts: Sequence[Any]) -> Box:
    name, value, _, across, down = parts[0]
    if len(parts) > 1 or number(value.get("rotation", 0)):
        raise ValueError("a box must be one region, and not rotated")
    return Box(
        name,
        rounded(number(value["x"]) * across),
        rounded(number(value["y"]) * down),
        rounded(number(value["width"]) * across),
        rounded(number(value["height"]) * down),
    )


def _polygon(parts: Sequence[Any]) -> Polygon:
    rings = []
    for _, value, _, across, down in parts:
        points = [(rounded(number(x) * across), rounded(number(y) * down)) for x, y in value["points"]]
        rings.append(tuple(each for point in points for each in point))
    return Polygon(parts[0][0], tuple(rings))


def _keypoints(parts: Sequence[Any]) -> Keypoints:
    points = [
        Keypoint(
            text(meta.get("name", name), "name"),
            rounded(number(value["x"]) * across),
            rounded(number(value["y"]) * down),
            count(meta.get("visibility", 2), "visibility", 2),
        )
        for name, value, meta, across, down in parts
    ]
    return Keypoints(parts[0][0], tuple(sorted(points)))


_READ: Mapping[Kind, Any] = {Kind.BOXES: _box, Kind.POLYGONS: _polygon, Kind.KEYPOINTS: _keypoints}

"""YOLO: a text file for each image, a line for each object, in fractions of the image; and the names of the classes.

A line is `class centre-x centre-y width height`, or `class x1 y1 x2 y2 …` for an outline of one ring. Source: the
Ultralytics dataset formats. What an image is called and how large it is the label project knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from aios.labels.formats.finding import Finder, stem_of
from aios.labels.formats.reading import at, single, text_of, wrong
from aios.labels.records import Labelled, Record
from aios.labels.values import MARKS_MAX, Box, Kind, Label, Polygon, rounded

CLASSES = "classes.txt"
FOLDER = "labels"


def write(labelled: Labelled) -> Mapping[str, bytes]:
    """`classes.txt`, and `labels/PATH.txt` for each image that has a final label."""
    files = {CLASSES: "".join(f"{label}\n" for label in labelled.labels).encode()}
    index = {label: number for number, label in enumerate(labelled.labels)}
    for record in labelled.records:
        if record.label is None:
            continue
        name = f"{FOLDER}/{stem_of(record.path)}.txt"
        if name in files:
            raise wrong(
                record.path, "another image has this path but for its ending: YOLO cannot tell them apart"
            )
        _require_size(record)
        marks = record.label.marks(labelled.kind)
        files[name] = "".join(f"{index[mark.label]} {_numbers(mark, record)}\n" for mark in marks).encode()
    return files


def read(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """Text files whose images the label project has. Those of `classes.txt` are its classes."""
    name, content = single(files, ".txt", lambda path: PurePosixPath(path).name == CLASSES)
    labels = [line for line in text_of(content, name).split("\n") if line]
    finder = Finder(known)
    records = []
    for path, lines in files.items():
        if path == name or not path.endswith(".txt"):
            continue
        inside = PurePosixPath(path).parts
        stem = stem_of(str(PurePosixPath(*inside[inside.index(FOLDER) + 1 :]) if FOLDER in inside else path))
        record = finder.stem(stem)
        if record is None:
            raise wrong(path, "no image of the label project, or several, are called so")
        _require_size(record)
        marks: list[Any] = []
        for row, line in enumerate(text_of(lines, path).split("\n"), 1):
            if line.strip():
                with at(f"{path}, line {row}"):
                    marks.append(_mark(line.split(), labels, known.kind, record))
            if len(marks) > MARKS_MAX:
                raise wrong(path, f"more than {MARKS_MAX} objects")
        field = "boxes" if known.kind is Kind.BOXES else "polygons"
        records.append(replace(record, label=Label(**{field: tuple(sorted(marks))})))
    return replace(known, records=records)


def _require_size(record: Record) -> None:
    if record.row is not None or not (record.width and record.height):
        raise wrong(record.path, "YOLO needs an image whose size is known")


def _numbers(mark: Any, record: Record) -> str:
    width, height = record.width, record.height
    if isinstance(mark, Box):
        values: Sequence[float] = (
            (mark.x + mark.width / 2) / width,
            (mark.y + mark.height / 2) / height,
            mark.width / width,
            mark.height / height,
        )
    else:
        if len(mark.rings) != 1:
            raise wrong(record.path, "YOLO has outlines of one ring only")
        values = [value / (height if index % 2 else width) for index, value in enumerate(mark.rings[0])]
    return " ".join(map(repr, values))


def _mark(words: Sequence[str], labels: Sequence[str], kind: Kind, record: Record) -> Any:
    index = int(words[0])
    if not 0 <= index < len(labels):
        raise ValueError(f"class {index} is not in {CLASSES}")
    values = [float(word) for word in words[1:]]
    if not all(-1e-6 <= value <= 1 + 1e-6 for value in values):
        raise ValueError("must be fractions of the image, from 0 to 1")
    if kind is Kind.BOXES:
        if len(values) != 4:
            raise ValueError("must be a class and four numbers")
        width, height = values[2] * record.width, values[3] * record.height
        x, y = values[0] * record.width - width / 2, values[1] * record.height - height / 2
        return Box(labels[index], *map(rounded, (x, y, width, height)))
    if len(values) < 6 or len(values) % 2:
        raise ValueError("must be a class and three points or more")
    ring = [value * (record.height if at_y % 2 else record.width) for at_y, value in enumerate(values)]
    return Polygon(labels[index], (tuple(map(rounded, ring)),))

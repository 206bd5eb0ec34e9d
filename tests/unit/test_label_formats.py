"""Labels through other tools' files and back, and files that are none."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.client import label_exports
from aios.errors import InvalidArgument
from aios.labels import Box, Keypoint, Keypoints, Kind, Label, Polygon, Size, Span, check_label, formats
from aios.labels.records import Labelled, Record
from tests.unit.test_formats_fuzz import ODD, variants

LABELS = ("a cat", "Größe", "x", "B-y", '"q"', "1,2")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
NAMES = st.text(st.characters(categories=["L", "N", "Zs", "S"]), min_size=1, max_size=8)


def coordinates(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most * 10**6).map(lambda value: value / 10**6)


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> Box:
    x, y = draw(st.integers(0, width * 10**6 - 1)), draw(st.integers(0, height * 10**6 - 1))
    across, down = draw(st.integers(1, width * 10**6 - x)), draw(st.integers(1, height * 10**6 - y))
    return Box(draw(st.sampled_from(LABELS)), *(value / 10**6 for value in (x, y, across, down)))


@st.composite
def polygons(draw: st.DrawFn, width: int, height: int, rings: int = 2) -> Polygon:
    ring = st.lists(st.tuples(coordinates(width), coordinates(height)), min_size=3, max_size=6)
    found = draw(st.lists(ring, min_size=1, max_size=rings))
    return Polygon(
        draw(st.sampled_from(LABELS)),
        tuple(tuple(value for point in each for value in point) for each in found),
    )


@st.composite
def keypoints(draw: st.DrawFn, width: int, height: int) -> Keypoints:
    point = st.builds(Keypoint, NAMES, coordinates(width), coordinates(height), st.sampled_from([1, 2]))
    found = draw(st.lists(point, min_size=1, max_size=5, unique_by=lambda each: each.name))
    return Keypoints(draw(st.sampled_from(LABELS)), tuple(sorted(found)))


@st.composite
def spans(draw: st.DrawFn, text: str) -> Span:
    start = draw(st.integers(0, len(text) - 1))
    return Span(start, draw(st.integers(start + 1, len(text))), draw(st.sampled_from(LABELS)))


@st.composite
def labels(draw: st.DrawFn, kind: Kind, record: Record, *, rings: int = 2) -> Label:
    choices = st.lists(st.sampled_from(LABELS), max_size=3, unique=True)
    match kind:
        case Kind.CLASSIFICATION:
            made = Label(choices=(draw(st.sampled_from(LABELS)),))
        case Kind.MULTI_LABEL:
            made = Label(choices=tuple(draw(choices)))
        case Kind.SPANS:
            made = Label(spans=tuple(draw(st.lists(spans(record.data["text"]), max_size=3))))
        case Kind.BOXES:
            made = Label(boxes=tuple(draw(st.lists(boxes(record.width, record.height), max_size=3))))
        case Kind.POLYGONS:
            shapes = st.lists(polygons(record.width, record.height, rings), max_size=3)
            made = Label(polygons=tuple(draw(shapes)))
        case _:
            made = Label(keypoints=tuple(draw(st.lists(keypoints(record.width, record.height), max_size=3))))
    return check_label(made, kind, LABELS, Size(None, record.width or None, record.height or None), "label")


@st.composite
def projects(draw: st.DrawFn, form: str, kind: Kind) -> Labelled:
    """What a label project holds, and a format can say."""
    records: list[Record] = []
    images = kind in (Kind.BOXES, Kind.POLYGONS, Kind.KEYPOINTS)
    for number in range(draw(st.integers(0, 3))):
        if images:
            record = Record(
                f"some/{number} ü.png", width=draw(st.integers(1, 10_000)), height=draw(st.integers(1, 640))
            )
        else:
            record = Record("t.csv", number, {"text": draw(TEXTS), "n": 1.5})
        one = labels(kind, record, rings=1 if form == "yolo" else 2)
        many = form in ("csv", "jsonl", "label-studio")
        who = draw(st.lists(st.sampled_from(["ann@x", "bob"]), unique=True)) if many else []
        records.append(replace(record, label=draw(one), annotations={name: draw(one) for name in who}))
    return Labelled(kind, LABELS, records)


CASES = [(form, kind) for form in formats.NAMES for kind in formats.FORMATS[form].kinds]


def unsayable(form: str, labelled: Labelled) -> bool:
    """What only CoNLL cannot say: it must refuse that."""
    if form != "conll":
        return False
    for record in labelled.records:
        found = sorted(record.label.spans) if record.label else []
        text = record.data["text"]
        if any(text[span.start].isspace() or text[span.end - 1].isspace() for span in found):
            return True
        if any(after.start < before.end for before, after in pairwise(found)):
            return True
    return False


@pytest.mark.parametrize(("form", "kind"), sorted(CASES), ids=lambda each: str(each))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_labels_come_back_as_they_were(form: str, kind: Kind, data: st.DataObject) -> None:
    labelled = data.draw(projects(form, kind))
    if unsayable(form, labelled):
        with pytest.raises(InvalidArgument, match=r"white space|overlap"):
            formats.of(form, kind).write(labelled)
        return
    files = formats.of(form, kind).write(labelled)

    again = formats.of(form, kind).read(files, labelled)

    key = lambda record: record.key  # noqa: E731
    if form == "csv":  # data and sizes are the project's
        bare = [replace(each, data={}, width=0, height=0) for each in labelled.records]
        assert sorted(again.records, key=key) == sorted(bare, key=key)
    else:
        assert sorted(again.records, key=key) == sorted(labelled.records, key=key)
    # And the other way: what was read is written as it was.
    assert formats.of(form, kind).write(replace(labelled, records=again.records)) == files


@pytest.mark.parametrize(("form", "kind"), sorted(CASES), ids=lambda each: str(each))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_file_that_is_none_ends_in_an_error_that_names_it(
    form: str, kind: Kind, data: st.DataObject
) -> None:
    labelled = data.draw(projects(form, kind))
    if unsayable(form, labelled):
        return
    files = dict(formats.of(form, kind).write(labelled))
    name = data.draw(st.sampled_from(sorted(files)))
    hurt = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(hurt)))
        hurt[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    files[name] = bytes(hurt)
    with suppress(InvalidArgument):
        again = formats.of(form, kind).read(files, labelled)
        for record in again.records:
            if record.label is not None:
                check_label(record.label, kind, LABELS, Size(), "label")


HOSTILE: Sequence[tuple[str, Kind, str, Any, str]] = [
    ("coco", Kind.BOXES, "a.json", [], "a.json"),
    ("coco", Kind.BOXES, "a.json", {"images": []}, "categories"),
    ("coco", Kind.BOXES, "a.json", {"images": [{"id": 1}], "categories": [], "annotations": []}, r"images\[0\]"),
    (
        "coco",
        Kind.POLYGONS,
        "a.json",
        {
            "images": [{"id": 1, "file_name": "i.png"}],
            "categories": [{"id": 1, "name": "x"}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"counts": [1], "size": [1, 1]}}],
        },
        r"annotations\[0\].*run-length",
    ),
    (
        "coco",
        Kind.BOXES,
        "a.json",
        {"images": [], "categories": [], "annotations": [{"image_id": 9, "category_id": 9}]},
        "not there",
    ),
    ("label-studio", Kind.BOXES, "t.json", {"data": 1}, "list"),
    ("label-studio", Kind.BOXES, "t.json", [{"data": {"image": "i.png"}, "annotations": [{"result": [
        {"type": "rectanglelabels", "original_width": 10, "original_height": 10,
         "value": {"x": 1, "y": 1, "width": 1, "height": 1, "rotation": 3, "rectanglelabels": ["x"]}}]}]}],
     "task 0, annotation 0.*rotated"),
    ("label-studio", Kind.CLASSIFICATION, "t.json", [{"data": {"text": "?"}}], "task 0.*no item"),
    ("yolo", Kind.BOXES, "labels/i.txt", "0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n", "line 2.*class 7"),
    ("yolo", Kind.BOXES, "labels/i.txt", "0 .5 .5 .1\n", "line 1"),
    ("yolo", Kind.BOXES, "labels/i.txt", "0 .5 .5 .1 nan\n", "line 1"),
    ("yolo", Kind.BOXES, "labels/other.txt", "", "other.txt"),
    ("conll", Kind.SPANS, "l.conll", "one O\ntwo Q-x\n", "l.conll, line 3.*Q-x|no item"),
    ("conll", Kind.SPANS, "l.conll", "one\n", "line 1"),
    ("csv", Kind.CLASSIFICATION, "l.csv", "path,class\na,x\n", "label"),
    ("csv", Kind.CLASSIFICATION, "l.csv", "path,row,label\na,one,x\n", "line 2"),
    ("csv", Kind.CLASSIFICATION, "l.csv", "path,label\na,x\na,x\n", "line 3.*twice"),
    ("csv", Kind.BOXES, "l.csv", 'path,label\na,"[{""x"": 1}]"\n', "line 2"),
    ("jsonl", Kind.CLASSIFICATION, "l.jsonl", '{"path": "a", "label": 3}\n', "line 1"),
    ("jsonl", Kind.CLASSIFICATION, "l.jsonl", '\n{"path": "a", "row": NaN}\n', "line 2"),
    ("jsonl", Kind.CLASSIFICATION, "l.jsonl", "[" * 100_000, "line 1"),
    ("jsonl", Kind.CLASSIFICATION, "l.jsonl", b"\xff\xfe", "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kind", "name", "content", "told"), HOSTILE)
def test_a_mistake_is_told_with_its_place(form: str, kind: Kind, name: str, content: Any, told: str) -> None:
    data = content if isinstance(content, bytes) else None
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    files = {name: data or text.encode(), **({"classes.txt": b"x\n"} if form == "yolo" else {})}
    known = Labelled(kind, ["x"], [Record("i.png", width=100, height=100)])
    with pytest.raises(InvalidArgument, match=f"(?s){told}"):
        formats.of(form, kind).read(files, known)


def test_what_other_tools_write_is_read() -> None:
    known = Labelled(Kind.SPANS, ["ORG", "MISC"], [Record("t.csv", 4, {"text": "EU rejects German call"})])
    conll = b"-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP B-MISC\ncall NN I-NP I-MISC\n"
    (record,) = formats.of("conll", Kind.SPANS).read({"eng.train": conll}, known).records
    assert (record.row, record.label) == (4, Label(spans=(Span(0, 2, "ORG"), Span(11, 22, "MISC"))))

    pictures = Labelled(Kind.BOXES, ["cat"], [Record("in/one.jpg", width=640, height=480)])
    yolo = {"data/labels/one.txt": b"0 0.5 0.5 0.25 0.5\n", "data/classes.txt": b"cat\n"}
    (record,) = formats.of("yolo", Kind.BOXES).read(yolo, pictures).records
    assert (record.path, record.label) == ("in/one.jpg", Label(boxes=(Box("cat", 240, 120, 160, 240),)))


def test_a_directory_is_read_and_written(tmp_path: Path) -> None:
    labelled = Labelled(
        Kind.BOXES,
        ["cat"],
        [Record("in/one.jpg", width=640, height=480, label=Label(boxes=(Box("cat", 1, 2, 3, 4),)))],
    )
    for form in formats.NAMES:
        if form != "conll":
            made = label_exports.write(labelled, form, tmp_path / form)
            assert all(path.is_relative_to(tmp_path / form) for path in made)
            (record,) = label_exports.read(tmp_path / form, form, labelled)
            assert record.label == labelled.records[0].label


def test_a_format_that_cannot_say_a_kind_is_refused_with_those_that_can() -> None:
    with pytest.raises(InvalidArgument, match="csv, jsonl, label-studio, conll"):
        formats.of("coco", Kind.SPANS)


@pytest.mark.parametrize(
    ("form", "kind"),
    [each for each in sorted(CASES) if each[0] in ("coco", "label-studio", "jsonl")],
    ids=str,
)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_any_value_in_json_is_read_or_told(form: str, kind: Kind, data: st.DataObject) -> None:
    labelled = data.draw(projects(form, kind))
    files = dict(formats.of(form, kind).write(labelled))
    name = data.draw(st.sampled_from(sorted(files)))
    # Of lines, the first: the others are read as it is.
    lines = files[name].split(b"\n") if form == "jsonl" else [files[name]]
    document = json.loads(lines[0] or b"null")
    for changed in variants(document, data.draw(st.sampled_from(ODD))):
        hostile = {**files, name: b"\n".join([json.dumps(changed).encode(), *lines[1:]])}
        with suppress(InvalidArgument):
            for record in formats.of(form, kind).read(hostile, labelled).records:
                if record.label is not None:
                    with suppress(InvalidArgument):
                        check_label(record.label, kind, LABELS, Size(), "label")

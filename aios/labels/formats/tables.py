"""CSV and JSON lines: a line for each thing that somebody said of an item.

Columns: path, row (empty where the file is the item), annotator (empty for the final label), label. A class is written
as it is; other labels are JSON, as `aios.labels.plain` has them. JSON lines hold the item's data and size too.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from aios.labels.formats.reading import RECORDS_MAX, at, count, json_of, single, text, text_of, wrong
from aios.labels.plain import from_plain, to_plain
from aios.labels.records import Labelled, Record
from aios.labels.values import Kind, Label

COLUMNS = ("path", "row", "annotator", "label")
FIELD_CHARS_MAX = 1 << 20


def write_csv(labelled: Labelled) -> Mapping[str, bytes]:
    """`labels.csv`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for record in labelled.records:
        row = "" if record.row is None else str(record.row)
        for annotator, label in _said(record):
            plain = to_plain(label, labelled.kind)
            value = plain if labelled.kind is Kind.CLASSIFICATION else _json(plain)
            writer.writerow([record.path, row, annotator, value])
    return {"labels.csv": out.getvalue().encode()}


def read_csv(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """A CSV file with these columns, in any order; `row` and `annotator` may be missing."""
    name, content = single(files, ".csv")
    before = csv.field_size_limit(FIELD_CHARS_MAX)
    try:
        reader = csv.DictReader(io.StringIO(text_of(content, name), newline=""), strict=True)
        if missing := {"path", "label"} - set(reader.fieldnames or ()):
            raise wrong(name, f"has no column {', '.join(sorted(missing))}")
        found: dict[tuple[str, int], Record] = {}
        while True:
            place = f"{name}, line {reader.line_num + 1}"
            try:
                line = next(reader)
            except StopIteration:
                break
            with at(place):
                if None in line or None in line.values():
                    raise ValueError("has another number of columns than the header")
                row = line.get("row") or ""
                number = count(int(row), "row", 2**62) if row else None
                value = line["label"]
                plain: Any = value if known.kind is Kind.CLASSIFICATION else json_of(value, place)
                _add(
                    found,
                    Record(line["path"], number),
                    line.get("annotator") or "",
                    from_plain(plain, known.kind),
                )
    except csv.Error as error:
        raise wrong(name, str(error)) from None
    finally:
        csv.field_size_limit(before)
    return replace(known, records=list(found.values()))


def write_jsonl(labelled: Labelled) -> Mapping[str, bytes]:
    """`labels.jsonl`: everything that is known, an item a line."""
    lines = []
    for record in labelled.records:
        line: dict[str, Any] = {"path": record.path}
        line |= {} if record.row is None else {"row": record.row}
        line |= {"data": dict(record.data)} if record.data else {}
        line |= {"width": record.width, "height": record.height} if record.width else {}
        line |= {"label": to_plain(record.label, labelled.kind)} if record.label is not None else {}
        if record.annotations:
            line["annotations"] = {
                who: to_plain(label, labelled.kind) for who, label in record.annotations.items()
            }
        lines.append(_json(line) + "\n")
    return {"labels.jsonl": "".join(lines).encode()}


def read_jsonl(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """What `write_jsonl` wrote, or less of it: `path` alone is needed."""
    name, content = single(files, ".jsonl")
    records = []
    for number, line in enumerate(text_of(content, name).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        body = json_of(line, place)
        with at(place):
            if not isinstance(body, dict):
                raise ValueError("must be an object")
            said = body.get("annotations", {})
            records.append(
                Record(
                    text(body["path"], "path"),
                    count(body["row"], "row", 2**62) if "row" in body else None,
                    dict(body.get("data", {})),
                    count(body.get("width", 0), "width"),
                    count(body.get("height", 0), "height"),
                    from_plain(body["label"], known.kind) if "label" in body else None,
                    {text(who, "annotator"): from_plain(each, known.kind) for who, each in said.items()},
                )
            )
        if len(records) > RECORDS_MAX:
            raise wrong(place, f"more than {RECORDS_MAX} records")
    return replace(known, records=records)


def _said(record: Record) -> Iterable[tuple[str, Label]]:
    if record.label is not None:
        yield "", record.label
    yield from record.annotations.items()


def _add(found: dict[tuple[str, int], Record], item: Record, annotator: str, label: Label) -> None:
    record = found.get(item.key, item)
    if (annotator and annotator in record.annotations) or (not annotator and record.label is not None):
        raise ValueError(f"{item.path!r} is labelled twice by {annotator or 'the same'}")
    if annotator:
        found[item.key] = replace(record, annotations={**record.annotations, annotator: label})
    else:
        found[item.key] = replace(record, label=label)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

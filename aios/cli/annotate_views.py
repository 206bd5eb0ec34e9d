"""How `aios label` shows label projects, tasks and people, and reads labels that are typed."""

import json
from typing import TYPE_CHECKING, Any

from aios.cli import output
from aios.cli.output import Columns, age, leaf, short, state

if TYPE_CHECKING:
    from aios.labels import Kind, Label


def kind_of(project: Any) -> "Kind":
    from aios.labels import wire

    return wire.kind_from_proto(project.kind, "kind")


PROJECT: Columns = {
    "NAME": lambda p: leaf(p.name),
    "KIND": lambda p: str(kind_of(p)),
    "OVER": lambda p: short(p.dataset_version),
    "OVERLAP": lambda p: p.overlap,
    "OPEN": lambda p: p.counts.get("open", 0),
    "DISPUTED": lambda p: p.counts.get("disputed", 0),
    "LABELLED": lambda p: p.counts.get("labelled", 0) + p.counts.get("reviewed", 0),
    "ACCEPTED": lambda p: p.counts.get("accepted", 0),
    "GOLD": lambda p: p.gold_count,
    "AGE": lambda p: age(p.create_time),
}
TASK: Columns = {
    "TASK": lambda t: short(t.name).removeprefix("labelProjects/").replace("/tasks/", "/"),
    "ITEM": lambda t: _item(t.item),
    "STATE": state,
    "LABEL": lambda t: _shown(t.label) if t.HasField("label") else "",
    "CONFIDENCE": lambda t: output.figure(t.confidence) if t.HasField("label") else "",
    "SAID": lambda t: " ".join(
        f"{each.annotator}={_shown(each.label) if each.HasField('label') else 'skipped'}"
        for each in t.annotations
    ),
}
LEASE: Columns = {
    "TASK": lambda t: short(t.task).removeprefix("labelProjects/").replace("/tasks/", "/"),
    "FENCE": lambda t: t.fence,
    "ITEM": lambda t: _item(t.item),
    "PROPOSED": lambda t: _shown(t.prelabel.label) if t.HasField("prelabel") else "",
    "SHOWN": lambda t: _data(t),
}
ANNOTATOR: Columns = {
    "ANNOTATOR": lambda a: a.annotator,
    "LABELLED": lambda a: a.labelled,
    "SKIPPED": lambda a: a.skipped,
    "GOLD": lambda a: f"{a.gold_accuracy:.3f} of {a.gold_count}" if a.gold_count else "",
    "RIGHT": lambda a: f"{a.accepted_accuracy:.3f}" if a.HasField("accepted_accuracy") else "",
    "TAKEN": lambda a: a.prelabels_accepted,
    "EDITED": lambda a: a.prelabels_edited,
    "MEDIAN": lambda a: f"{a.median_duration.ToTimedelta().total_seconds():.1f}s",
}
FIGURES = ("agreement", "krippendorff_alpha", "fleiss_kappa", "cohen_kappa")
VERSION: Columns = {
    "VERSION": lambda v: short(v.name),
    "FILES": lambda v: v.file_count,
    "SIZE": lambda v: output.size(v.size_bytes),
}


def parse(value: str, kind: "Kind") -> "Label":
    """A label as people type it."""
    from aios.errors import InvalidArgument
    from aios.labels.plain import from_plain

    try:
        return from_plain(value if kind == "classification" else json.loads(value), kind)
    except ValueError as error:
        raise InvalidArgument.of("value", str(error)) from None


def _item(item: Any) -> str:
    return f"{item.path}#{item.row}" if item.HasField("row") else str(item.path)


def _data(lease: Any) -> str:
    from google.protobuf.json_format import MessageToDict

    shown = (
        json.dumps(MessageToDict(lease.item.data), ensure_ascii=False)
        if lease.item.data.fields
        else lease.download.url
    )
    return shown if len(shown) <= 200 else shown[:197] + "..."


def _shown(found: Any) -> str:
    marks = [*found.spans, *found.boxes, *found.polygons, *found.keypoints]
    return ", ".join(found.choices) or f"{len(marks)} ({', '.join(sorted({each.label for each in marks}))})"

"""Kept predictions beside what a model was trained on: tensors as the columns that they were made of.

The payload log has a tensor in a column, `input.features`; training data has `age`, `town`, `image`. What says how one
became the other is the names of the model's features, `age` or `town=Bern`, where it has them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from services.data.job.columns import Kind, class_names, kind_of, texts
from services.data.job.parts import Array, array_of, column_of
from services.data.job.work import Model

INPUT, OUTPUT = "input.", "output."
ABOUT = ("time", "trace_id", "request_id", "revision", "instance")
"""Columns that say which prediction a row is, and nothing of it."""
LABEL = "label"


def are_predictions(table: "pa.Table") -> bool:
    """Whether rows are kept predictions."""
    return {"trace_id", "instance"} <= set(table.column_names)


def aligned(now: "pa.Table", before: "pa.Table", model: Model) -> tuple["pa.Table", "pa.Table"]:
    """Both with columns that mean the same and are called the same; what has no counterpart is left out.

    Args:
        now: Kept predictions.
        before: Others of them, or what the model was trained on.
        model: Where it names no features, the columns but for the last are taken for them, if as many are numbers.
    """
    if are_predictions(before):
        return now.drop_columns(_of(now, ABOUT)), before.drop_columns(_of(before, ABOUT))
    mine: dict[str, tuple[pa.Field, Any]] = {}
    theirs: dict[str, tuple[pa.Field, Any]] = {}
    used: set[str] = set()
    for name in now.column_names:
        if not name.startswith(INPUT) or name.endswith(".shape"):
            continue
        for column, field, values in _columns(now, name, before, model.features):
            used.add(column)
            mine[column] = field, values
            theirs[column] = before.schema.field(column), before[column]
    target = _target(before, used, model.features)
    if target and LABEL in now.column_names:
        mine["predicted"] = now.schema.field(LABEL), now[LABEL]
        classes = pa.array(_classes(before, target, model.labels), pa.string())
        theirs["predicted"] = pa.field("", pa.string()), classes
    elif target and kind_of(before, target) is Kind.NUMBER:
        for name in now.column_names:
            if name.startswith(OUTPUT) and kind_of(now, name) is Kind.NUMBER:
                mine["predicted"] = now.schema.field(name), now[name]
                theirs["predicted"] = before.schema.field(target), before[target]
                break
    return _table(mine), _table(theirs)


def _columns(
    now: "pa.Table", name: str, before: "pa.Table", features: Sequence[str]
) -> Iterator[tuple[str, "pa.Field", Any]]:
    """The columns of the training data that an input was made of, with its values as theirs."""
    plain = name.removeprefix(INPUT)
    kind = kind_of(now, name)
    if plain in before.column_names:
        theirs = kind_of(before, plain)
        if kind is theirs:
            yield plain, now.schema.field(name), now[name]
        elif kind is Kind.VECTOR and theirs is Kind.IMAGE:  # its pixels in a row
            field = before.schema.field(plain)
            if pa.types.is_fixed_size_list(field.type):
                values = array_of(now, name)
                shape = array_of(before.slice(0, 1), plain).shape[1:]
                if values[0].size == np.prod(shape):
                    made, column = column_of(values.reshape(-1, *shape))
                    yield plain, made, column
    elif kind is Kind.VECTOR:
        values = array_of(now, name)
        known = features or _numbers(before)
        if values.shape[1] == len(known):
            yield from _elements(values, known, before)


def _elements(
    values_ND: Array, features: Sequence[str], before: "pa.Table"
) -> Iterator[tuple[str, Any, Any]]:
    """A vector of features as columns: a number, or the text that one of several ones stands for."""
    chosen: dict[str, list[tuple[int, str]]] = {}
    for index, feature in enumerate(features):
        column, equals, value = feature.partition("=")
        if feature in before.column_names:
            yield feature, pa.field("", pa.float64()), pa.array(values_ND[:, index].astype(np.float64))
        elif equals and column in before.column_names:
            chosen.setdefault(column, []).append((index, value))
    for column, some in chosen.items():
        part = values_ND[:, [index for index, _ in some]]
        names = np.array([value for _, value in some], object)
        found = np.where(
            part.max(axis=1) > 0, names[part.argmax(axis=1)], ""
        )  # a value that training never had
        yield column, pa.field("", pa.string()), pa.array(found.tolist(), pa.string())


def _numbers(before: "pa.Table") -> list[str]:
    """What the features are likely to be: every column but the last, where all are numbers."""
    columns = before.column_names[:-1]
    return columns if all(kind_of(before, each) is Kind.NUMBER for each in columns) else []


def _target(before: "pa.Table", used: set[str], features: Sequence[str]) -> str:
    """What the model was to learn: the one column that it was not given, or `label`; empty where nobody knows."""
    rest = [each for each in before.column_names if each not in used]
    if LABEL in rest:
        return LABEL
    known = bool(features) or used == set(before.column_names[:-1])
    return rest[0] if known and len(rest) == 1 else ""


def _classes(before: "pa.Table", target: str, labels: Sequence[str]) -> list[str | None]:
    """The classes of the training data, by the names that the model calls them."""
    names = class_names(before, target) or labels
    if kind_of(before, target) is Kind.TEXT:
        return texts(before, target)
    values = before[target].to_pylist()
    if {str(each) for each in values if each is not None} <= set(labels):
        return [None if each is None else str(each) for each in values]
    return [
        names[int(each)] if each is not None and 0 <= each < len(names) and each == int(each) else str(each)
        for each in values
    ]


def _of(table: "pa.Table", names: Sequence[str]) -> list[str]:
    return [each for each in names if each in table.column_names]


def _table(columns: dict[str, tuple["pa.Field", Any]]) -> "pa.Table":
    fields = [field.with_name(name) for name, (field, _) in columns.items()]
    return pa.table([values for _, values in columns.values()], schema=pa.schema(fields))

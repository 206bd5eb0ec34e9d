"""Find what is wrong, repair it or put it aside: every row that does not come out lies in quarantine with its reasons."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.data.job import charts, duplicates, labels, poison, schema
from services.data.job.columns import Kind, class_names, kind_of, numbers, of_kind, unreadable
from services.data.job.parts import TRAINING, Array
from services.data.job.rejects import Rejects
from services.data.job.work import Result, Work


def run(work: Work) -> Result:
    """Check in the order in which one finding would hide another: images, schema, values, duplicates, leakage, labels."""
    rejects = Rejects(work.source.parts)
    parts = dict(work.source.parts)
    repaired: dict[str, dict[str, int]] = {}
    columns = set(work.columns())
    for name in list(parts):
        for column in of_kind(parts[name], Kind.IMAGE):
            for row, why in unreadable(work.engine, parts[name], column).items():
                rejects.add(name, [row], f"{column} {why}")
        rejects.add_all(name, schema.broken(parts[name], work.parameters["rules"]))
        parts[name], filled = _missing(work, name, parts[name], columns, rejects)
        parts[name], clipped = _outliers(work, name, parts[name], columns, rejects)
        repaired[name] = {**filled, **clipped}
    if work.parameters["duplicates"] == "quarantine":
        duplicates.exact(parts, rejects)
    label = work.parameters["label_errors"]
    if work.parameters["leakage"] and TRAINING in parts and len(parts) > 1:
        duplicates.leaked(parts, TRAINING, rejects, [label] if label else [])
    if likeness := float(work.parameters["near_duplicates"]):
        duplicates.near(work.engine, parts, _near_columns(work), likeness, TRAINING, rejects)
    if marked := work.parameters["poisoned"]:
        whole, places = _left(parts, rejects)
        for position in poison.apart(whole, work.require("poisoned", marked), work.seed).tolist():
            name, row = places[position]
            rejects.add(name, [row], "stands apart from its class as a poisoned sample does")
    if label:
        _mislabelled(work, parts, work.require("label_errors", label), rejects)
    kept, quarantine = rejects.divide(parts)
    summary: dict[str, Any] = {
        "rows": {name: part.num_rows for name, part in parts.items()},
        "kept": {name: part.num_rows for name, part in kept.items()},
        "quarantined": rejects.counts(),
        "repaired": {name: each for name, each in repaired.items() if each},
    }
    total = sum(part.num_rows for part in quarantine.values())
    sections = [
        charts.table(
            ["part", "rows", "kept", "put aside"],
            [[n, parts[n].num_rows, kept[n].num_rows, quarantine[n].num_rows] for n in parts],
        ),
        charts.heading("Reasons"),
        charts.table(["reason", "rows"], _commonest_first(rejects.counts())),
    ]
    title = f"Clean: {total} of {work.source.rows} rows put aside"
    return Result(title, summary, sections, kept, quarantine)


def _near_columns(work: Work) -> list[str]:
    first = next(iter(work.source.parts.values()))
    return (
        list(work.columns("near_columns"))
        if work.parameters["near_columns"]
        else of_kind(first, Kind.TEXT, Kind.IMAGE)
    )


def _mislabelled(work: Work, parts: Mapping[str, "pa.Table"], label: str, rejects: Rejects) -> None:
    """Look for wrong labels among what is left of all parts together."""
    whole, places = _left(parts, rejects)
    found = labels.suspects(whole, label, work.seed)
    names = class_names(whole, label)
    for position, proposed in zip(found.rows.tolist(), found.proposed, strict=True):
        name, row = places[position]
        stated = parts[name][label][row].as_py()
        if names:
            stated, proposed = names[stated], names[proposed]
        rejects.add(name, [row], f"label error: {stated!r} is probably {proposed!r}")


def _left(parts: Mapping[str, "pa.Table"], rejects: Rejects) -> tuple["pa.Table", list[tuple[str, int]]]:
    """The rows that nothing was said against yet, of all parts together, and where each is."""
    kept = {name: rejects.kept(name) for name in parts}
    places = [(name, row) for name, rows in kept.items() for row in rows.tolist()]
    some = [parts[name].take(pa.array(rows)) for name, rows in kept.items()]
    whole = pa.concat_tables(some, promote_options="default").combine_chunks()
    return whole.drop_columns([each for each in ("path",) if each in whole.column_names]), places


def _missing(
    work: Work, part: str, table: "pa.Table", columns: set[str], rejects: Rejects
) -> tuple["pa.Table", dict[str, int]]:
    how = work.parameters["missing"]
    if how == "keep":
        return table, {}
    filled = {}
    for name in [each for each in table.column_names if each in columns]:
        lacking = _lacks(table, name)
        if not lacking.any():
            continue
        if how == "quarantine":
            rejects.add(part, lacking, f"{name} is missing")
            continue
        value = _filler(work, name, how)
        if value is None:
            rejects.add(part, lacking, f"{name} is missing, and nothing can stand for it")
            continue
        kind = table.schema.field(name)
        whole = pa.types.is_integer(kind.type) and isinstance(value, float)
        scalar = pa.scalar(round(value) if whole else value).cast(kind.type, safe=False)
        column = pc.if_else(pa.array(lacking), scalar, table[name].combine_chunks())
        table = table.set_column(table.column_names.index(name), kind, column)
        filled[f"{name} filled"] = int(lacking.sum())
    return table, filled


def _lacks(table: "pa.Table", name: str) -> Array:
    lacking: Array = table[name].is_null(nan_is_null=True).to_numpy()
    return lacking


def _filler(work: Work, name: str, how: str) -> Any:
    """What stands for a missing value: as the training part has it, so that nothing of another part leaks into it."""
    table = work.source.parts[work.training]
    column = table[name].filter(pa.array(~_lacks(table, name)))
    if not len(column):
        return None
    if how == "mode" or kind_of(table, name) is not Kind.NUMBER or pa.types.is_boolean(column.type):
        known = kind_of(table, name) in (Kind.NUMBER, Kind.TEXT, Kind.TIME)
        return _commonest(column) if known else None
    values = column.cast(pa.float64(), safe=False).to_numpy()
    return float(np.mean(values) if how == "mean" else np.median(values))


def _commonest(column: "pa.ChunkedArray") -> Any:
    counted = pc.value_counts(column.combine_chunks()).to_pylist()
    return min(counted, key=lambda each: (-each["counts"], str(each["values"])))["values"]


def _outliers(
    work: Work, part: str, table: "pa.Table", columns: set[str], rejects: Rejects
) -> tuple["pa.Table", dict[str, int]]:
    """Tukey's fences, from the quartiles of the training part."""
    how, reach = work.parameters["outliers"], float(work.parameters["outlier_bound"])
    if how == "keep":
        return table, {}
    model = work.source.parts[work.training]
    moved = {}
    for name in [each for each in table.column_names if each in columns]:
        if kind_of(table, name) is not Kind.NUMBER or pa.types.is_boolean(table.schema.field(name).type):
            continue
        known = numbers(model, name)
        known = known[np.isfinite(known)]
        if len(known) < 4:
            continue
        low, high = np.quantile(known, [0.25, 0.75])
        bounds = low - reach * (high - low), high + reach * (high - low)
        values = numbers(table, name)
        outside = (values < bounds[0]) | (values > bounds[1])
        if high == low or not outside.any():
            continue  # most of it is one value: the others are not far from a spread that it does not have
        if how == "quarantine":
            rejects.add(part, outside, f"{name} is beyond {bounds[0]:.6g} to {bounds[1]:.6g}")
            continue
        kind = table.schema.field(name)
        clipped = pa.array(np.clip(values, *bounds), from_pandas=True).cast(kind.type, safe=False)
        table = table.set_column(table.column_names.index(name), kind, clipped)
        moved[f"{name} clipped"] = int(outside.sum())
    return table, moved


def _commonest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))

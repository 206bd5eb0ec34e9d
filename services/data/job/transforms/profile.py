"""What is in a version: a figure for everything that people ask first, and plots of it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.data.job import charts
from services.data.job.columns import (
    Kind,
    class_names,
    histogram,
    images,
    kind_of,
    numbers,
    texts,
    unreadable,
)
from services.data.job.engine import Engine, Given, Told, over
from services.data.job.parts import Array, array_of
from services.data.job.work import Result, Work

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CORRELATED_MAX = 40  # columns: a matrix that a person can look at
CORRELATED_ROWS = 200_000  # evenly spaced ones, of more
VALUE_CHARS = 60


def run(work: Work) -> Result:
    """Profile each column of each part."""
    bins, top = int(work.parameters["bins"]), int(work.parameters["top"])
    asked = set(work.columns())
    summary: dict[str, Any] = {"rows": {}, "columns": {}}
    sections = []
    for part, table in work.source.parts.items():
        names = [name for name in table.column_names if name in asked]
        described = {name: describe(work.engine, table, name, bins, top) for name in names}
        summary["rows"][part] = table.num_rows
        summary["columns"][part] = described
        sections += [charts.heading(f"{part}: {table.num_rows} rows"), _overview(described)]
        sections.append(charts.row(*(_plot(name, each) for name, each in described.items())))
        numeric = [name for name in names if kind_of(table, name) is Kind.NUMBER][:CORRELATED_MAX]
        if len(numeric) > 1 and table.num_rows > 1:
            matrix = correlations(table, numeric)
            summary.setdefault("correlations", {})[part] = {
                "columns": numeric,
                "pearson": matrix.tolist(),
            }
            sections.append(charts.heat("Correlation (Pearson)", numeric, np.nan_to_num(matrix).tolist()))
    if work.source.left_out:
        summary["left_out"] = list(work.source.left_out)[:100]
    return Result(f"Profile: {work.source.rows} rows", summary, sections)


def describe(engine: Engine, table: "pa.Table", name: str, bins: int, top: int) -> dict[str, Any]:
    """Figures of one column, as JSON."""
    kind = kind_of(table, name)
    column = table[name]
    found: dict[str, Any] = {
        "kind": kind.value,
        "type": str(column.type),
        "rows": table.num_rows,
        "nulls": column.null_count,
    }
    match kind:
        case Kind.NUMBER:
            found |= _of_numbers(numbers(table, name), bins)
            if names := class_names(table, name):
                found["classes"] = list(names)[:100]
        case Kind.TEXT:
            found |= _of_texts(texts(table, name), bins)
        case Kind.IMAGE:
            found |= _of_images(engine, table, name, bins)
        case Kind.VECTOR:
            found |= _of_numbers(array_of(table, name).astype(np.float64).ravel(), bins)
            found["width"] = table.schema.field(name).type.list_size
        case Kind.TIME:
            if column.null_count < len(column):
                ends = pc.min_max(column).as_py()
                found |= {"min": str(ends["min"]), "max": str(ends["max"])}
    if kind in (Kind.NUMBER, Kind.TEXT, Kind.TIME):
        found["unique"] = pc.count_distinct(column).as_py()
        if top and (kind is not Kind.NUMBER or found["unique"] <= bins):
            found["top"] = _top(column, top)
    return found


def correlations(table: "pa.Table", names: list[str]) -> Array:
    """Pearson's coefficient of each pair, over the rows that have both. NaN where a column does not vary."""
    step = max(1, table.num_rows // CORRELATED_ROWS)
    columns = [numbers(table, name)[::step] for name in names]
    made = np.eye(len(names))
    for one in range(len(names)):
        for other in range(one):
            both = np.isfinite(columns[one]) & np.isfinite(columns[other])
            x, y = columns[one][both], columns[other][both]
            varied = len(x) > 1 and float(x.std()) > 0 and float(y.std()) > 0
            made[one, other] = made[other, one] = np.corrcoef(x, y)[0, 1] if varied else np.nan
    return made


def _of_numbers(values: Array, bins: int) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    found: dict[str, Any] = {"nan_or_infinite": int(len(values) - len(known))}
    if not len(known):
        return found
    counts, edges = histogram(known, bins)
    quantiles = np.quantile(known, QUANTILES)
    return found | {
        "mean": float(known.mean()),
        "std": float(known.std()),
        "min": float(known.min()),
        "max": float(known.max()),
        "zeros": int((known == 0).sum()),
        "quantiles": {f"{100 * q:g}%": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _of_texts(values: list[str | None], bins: int) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    lengths = np.array([len(value) for value in known], dtype=np.float64)
    found: dict[str, Any] = {"empty": sum(not value.strip() for value in known)}
    if known:
        found["characters"] = _of_numbers(lengths, bins)
        found["words"] = float(np.mean([len(value.split()) for value in known]))
        found["not_ascii"] = sum(not value.isascii() for value in known)
    return found


def looked_at(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: shape and brightness of each image of the one column."""
    shapes, brightness = [], []
    for pixels in images(piece, piece.column_names[0]):
        shapes.append("x".join(map(str, pixels.shape)))
        brightness.append(float(pixels.mean()))
    return pa.table(
        {"shape": pa.array(shapes, pa.string()), "brightness": pa.array(brightness, pa.float64())}
    ), {}


def _of_images(engine: Engine, table: "pa.Table", name: str, bins: int) -> dict[str, Any]:
    broken = unreadable(engine, table, name)
    readable = table.select([name])
    if broken:
        readable = readable.take(
            pa.array([row for row in range(table.num_rows) if row not in broken], pa.int64())
        )
    found = over(engine, looked_at, readable).table
    sizes = Counter(found["shape"].to_pylist())
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return {
        "sizes": dict(common[:20]),
        "brightness": _of_numbers(found["brightness"].to_numpy(), bins),
        "unreadable": len(broken),
        "unreadable_rows": list(broken)[:20],
    }


def _top(column: "pa.ChunkedArray", top: int) -> list[dict[str, Any]]:
    counted = pc.value_counts(column.combine_chunks()).to_pylist()
    known = [each for each in counted if each["values"] is not None]
    known.sort(key=lambda each: (-each["counts"], str(each["values"])))
    return [{"value": str(each["values"])[:VALUE_CHARS], "count": each["counts"]} for each in known[:top]]


def _overview(described: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["column", "type", "nulls", "unique", "mean", "std", "min", "median", "max", "most frequent"]
    rows = []
    for name, each in described.items():
        inner = each.get("characters") or each.get("brightness") or each
        often = each.get("top") or []
        rows.append(
            [
                name,
                each["type"],
                each["nulls"],
                each.get("unique"),
                inner.get("mean"),
                inner.get("std"),
                inner.get("min"),
                inner.get("quantiles", {}).get("50%"),
                inner.get("max"),
                ", ".join(f"{one['value']} ({one['count']})" for one in often[:3]),
            ]
        )
    return charts.table(head, rows)


def _plot(name: str, each: Mapping[str, Any]) -> str:
    often = each.get("top") or []
    if often and each.get("unique", 0) <= len(often):
        return charts.bars(name, [one["value"] for one in often], [one["count"] for one in often])
    inner = each.get("characters") or each.get("brightness") or each
    if "histogram" not in inner:
        return ""
    what = {"text": " (characters)", "image": " (brightness)"}.get(each["kind"], "")
    return charts.histogram(f"{name}{what}", inner["histogram"]["edges"], inner["histogram"]["counts"])

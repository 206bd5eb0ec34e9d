"""Find what people can be told by. Makes no data: its findings are a version of their own, and the flags of it."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from services.data.job import charts, pii
from services.data.job.columns import Kind, kind_of
from services.data.job.engine import Engine, Given, Told, over
from services.data.job.work import Result, Work

FLAG = "pii:"


def run(work: Work) -> Result:
    """Look at every value of the columns of texts and numbers, and at the names of all columns."""
    kinds = tuple(work.parameters["kinds"]) or pii.KINDS
    found = scan(work.engine, work.source.parts, tuple(work.columns()), kinds)
    rows = [
        [part, column, kind, each["rows"], each.get("share"), each.get("example"), each["by"]]
        for part, columns in found.items()
        for column, kinds in columns.items()
        for kind, each in kinds.items()
    ]
    flags = flags_of(found)
    summary: dict[str, Any] = {
        "rows": {name: part.num_rows for name, part in work.source.parts.items()},
        "findings": found,
        "flags": sorted(flags),
    }
    table = charts.table(["part", "column", "kind", "rows", "share", "form", "by"], rows)
    title = f"Personal data: {', '.join(sorted(flags)) or 'none found'}"
    return Result(title, summary, [table], privacy=frozenset(_without_flags(work.privacy) | flags))


def scan(
    engine: Engine,
    parts: Mapping[str, "pa.Table"],
    columns: tuple[str, ...],
    kinds: tuple[str, ...] = pii.KINDS,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Part to column to kind to what was found of it. Examples show their form, not what they are."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for part, table in parts.items():
        for column in [each for each in table.column_names if each in columns]:
            mine = _of_column(engine, table, column, kinds)
            if mine:
                found.setdefault(part, {})[column] = mine
    return found


def flags_of(found: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> set[str]:
    """What a version that holds this is to be marked with."""
    return {f"{FLAG}{kind}" for columns in found.values() for kinds in columns.values() for kind in kinds}


def _without_flags(privacy: frozenset[str]) -> set[str]:
    return {each for each in privacy if not each.startswith(FLAG)}


def _of_column(
    engine: Engine, table: "pa.Table", column: str, kinds: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    if kind_of(table, column) in (Kind.TEXT, Kind.NUMBER) and not pa.types.is_floating(table[column].type):
        for _, told in over(engine, look, table.select([column]), kinds=kinds).told:
            for kind, each in told.items():
                mine = found.setdefault(kind, {"rows": 0, "by": "values", "example": each["example"]})
                mine["rows"] += each["rows"]
        for mine in found.values():
            mine["share"] = mine["rows"] / table.num_rows
    if (kind := pii.named(column)) and kind not in found:
        found[kind] = {"rows": table.num_rows - table[column].null_count, "by": "name"}
    return dict(sorted(found.items()))


def look(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: kind to the rows of the one column that have it, and the form of the first."""
    found: Told = {}
    for text in piece.column(0).cast(pa.string()).to_pylist():
        seen = {each.kind: each for each in pii.find(text, tuple(given["kinds"]))} if text else {}
        for kind, each in seen.items():
            mine = found.setdefault(kind, {"rows": 0, "example": pii.hidden(text[each.start : each.end])})
            mine["rows"] += 1
    return piece.slice(0, 0), found

"""Divide a version into parts. What was divided before is put together again first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, labels
from services.data.job.parts import Array
from services.data.job.work import Result, Work


def run(work: Work) -> Result:
    """Divide all rows; each goes to one part, and keeps its place among the others of that part."""
    shares = {name: float(share) for name, share in work.parameters["parts"].items()}
    whole = together(list(work.source.parts.values()))
    by, column = work.parameters["by"], work.parameters["column"]
    if column:
        work.require("column", column)
    fractions = np.array(list(shares.values())) / sum(shares.values())
    match by:
        case "random":
            chosen = shuffled(whole.num_rows, fractions, np.random.default_rng(work.seed))
        case "stratified":
            chosen = stratified(whole, column, fractions, work.seed)
        case "group":
            chosen = grouped(whole, column, fractions, work.seed)
        case _:
            chosen = in_time(whole, column, fractions)
    made = {
        name: whole.take(pa.array(np.flatnonzero(chosen == number))).combine_chunks()
        for number, name in enumerate(shares)
    }
    empty = [name for name, part in made.items() if not part.num_rows]
    if empty:
        raise InvalidArgument.of(
            "parameters.parts", f"{', '.join(empty)} would get none of the {whole.num_rows} rows"
        )
    rows = [[name, part.num_rows, part.num_rows / whole.num_rows] for name, part in made.items()]
    summary: dict[str, Any] = {"rows": {name: part.num_rows for name, part in made.items()}, "by": by}
    sections = [charts.table(["part", "rows", "share"], rows)]
    if column and by == "stratified":
        sections.append(_shares_of(made, column))
    return Result(f"Split by {by}: {whole.num_rows} rows", summary, sections, made)


def together(parts: Sequence["pa.Table"]) -> "pa.Table":
    """All rows as one table.

    Raises:
        InvalidArgument: the parts have other columns.
    """
    try:
        return pa.concat_tables(parts, promote_options="default").combine_chunks()
    except pa.ArrowException as error:
        raise InvalidArgument.of("input", f"its parts do not fit together: {error}") from error


def shuffled(rows: int, fractions: Array, generator: np.random.Generator) -> Array:
    """The number of the part for each row, at random, in the exact shares."""
    ends = np.round(np.cumsum(fractions) * rows).astype(np.int64)
    chosen = np.empty(rows, dtype=np.int64)
    chosen[generator.permutation(rows)] = np.searchsorted(ends, np.arange(rows), side="right")
    return chosen


def stratified(table: "pa.Table", column: str, fractions: Array, seed: int) -> Array:
    """The same within each value of a column, so that every part has its shares."""
    values, known = labels(table, column)
    chosen = np.empty(table.num_rows, dtype=np.int64)
    for number in range(-1, len(known)):
        rows = np.flatnonzero(values == number)
        chosen[rows] = shuffled(len(rows), fractions, np.random.default_rng([seed, number + 1]))
    return chosen


def grouped(table: "pa.Table", column: str, fractions: Array, seed: int) -> Array:
    """All rows of a group in one part; the largest groups first, each where most is missing."""
    values, known = labels(table, column)
    if (values < 0).any():
        raise InvalidArgument.of(f"parameters.column.{column}", "has rows that belong to no group")
    sizes = np.bincount(values, minlength=len(known))
    order = np.random.default_rng(seed).permutation(len(known))
    order = order[np.argsort(-sizes[order], kind="stable")]
    wanted, part_of = fractions * table.num_rows, np.empty(len(known), dtype=np.int64)
    for group in order:
        part = int(np.argmax(wanted))
        part_of[group] = part
        wanted[part] -= sizes[group]
    chosen: Array = part_of[values]
    return chosen


def in_time(table: "pa.Table", column: str, fractions: Array) -> Array:
    """The oldest rows in the first part, the newest in the last. Rows of one moment stay together."""
    if kind_of(table, column) not in (Kind.TIME, Kind.NUMBER, Kind.TEXT):
        raise InvalidArgument.of(f"parameters.column.{column}", "has no order in time")
    moments, _ = labels(table, column)
    if (moments < 0).any():
        raise InvalidArgument.of(f"parameters.column.{column}", "has rows without a time")
    ordered = np.sort(moments)
    ends = np.round(np.cumsum(fractions)[:-1] * len(ordered)).astype(np.int64)
    borders = ordered[np.minimum(ends, len(ordered) - 1)] if len(ordered) else ordered
    chosen: Array = np.searchsorted(borders, moments, side="right")
    return chosen


def _shares_of(made: dict[str, "pa.Table"], column: str) -> str:
    known = sorted({value for part in made.values() for value in labels(part, column)[1]})
    rows = []
    for value in known[:100]:
        row: list[object] = [str(value)]
        for part in made.values():
            numbered, mine = labels(part, column)
            row.append(float((numbered == mine.index(value)).mean()) if value in mine else 0.0)
        rows.append(row)
    return charts.table([column, *made], rows)

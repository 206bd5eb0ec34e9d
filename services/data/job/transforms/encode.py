"""Texts of few values as numbers, as the training part has them; the values are in `encode.json`."""

from typing import Any

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, texts
from services.data.job.parts import with_column
from services.data.job.work import Result, Work

VALUES_MAX = 1_000
UNKNOWN = -1


def run(work: Work) -> Result:
    """A column for each value (`town=Bern`), or the number of the value. A value that training lacks is none."""
    model, method = work.source.parts[work.training], work.parameters["method"]
    asked = work.parameters["columns"]
    columns = [
        each for each in work.columns() if each in model.column_names and kind_of(model, each) is Kind.TEXT
    ]
    values: dict[str, list[str]] = {}
    for column in columns:
        known = sorted({each for each in texts(model, column) if each is not None})
        if len(known) <= VALUES_MAX:
            values[column] = known
        elif asked:
            raise InvalidArgument.of(
                f"parameters.columns.{column}", f"has {len(known)} values; {VALUES_MAX} at most"
            )
    if not values:
        raise InvalidArgument.of("parameters.columns", "names no column of texts with few values")
    unknown: dict[str, int] = {}
    parts = {}
    for name, table in work.source.parts.items():
        for column, known in values.items():
            table, missing = _encoded(table, column, known, method)
            unknown[column] = unknown.get(column, 0) + missing
        parts[name] = table
    summary: dict[str, Any] = {
        "method": method,
        "values": {column: len(known) for column, known in values.items()},
        "unknown_or_missing": unknown,
        "left_as_they_are": [each for each in columns if each not in values],
    }
    sections = [
        charts.table(["column", "values"], [[c, ", ".join(known[:20])] for c, known in values.items()])
    ]
    files = {"encode.json": {"method": method, "values": values}}
    return Result(f"Encoded: {len(values)} columns", summary, sections, parts, files=files)


def _encoded(table: "pa.Table", column: str, known: list[str], method: str) -> tuple["pa.Table", int]:
    numbered = {value: number for number, value in enumerate(known)}
    codes = np.array(
        [numbered.get(each or "", UNKNOWN) if each is not None else UNKNOWN for each in texts(table, column)]
    )
    missing = int((codes == UNKNOWN).sum())
    if method == "ordinal":
        return with_column(table, column, codes.astype(np.int64)), missing
    table = table.drop_columns([column])
    for number, value in enumerate(known):
        table = with_column(table, f"{column}={value}", (codes == number).astype(np.int8))
    return table, missing

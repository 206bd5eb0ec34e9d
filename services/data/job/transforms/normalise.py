"""Numbers brought to one scale, as the training part has it; what was fitted is in `normalise.json`."""

from typing import Any

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, numbers
from services.data.job.parts import Array, array_of, with_column
from services.data.job.work import Result, Work

KEEP = (Kind.NUMBER, Kind.VECTOR)


def run(work: Work) -> Result:
    """Replace each column x by (x - shift) / scale."""
    model, method = work.source.parts[work.training], work.parameters["method"]
    left = set(work.parameters["except"])
    columns = [
        each
        for each in work.columns()
        if each not in left and each in model.column_names and kind_of(model, each) in KEEP
    ]
    if not columns:
        raise InvalidArgument.of("parameters.columns", "names no column of numbers")
    fitted: dict[str, dict[str, Any]] = {}
    parts = dict(work.source.parts)
    for column in columns:
        shift, scale = fit(_values(model, column), method)
        fitted[column] = {"shift": shift.tolist(), "scale": scale.tolist()}
        for name, table in parts.items():
            made = ((_values(table, column) - shift) / scale).astype(np.float32)
            if kind_of(table, column) is Kind.NUMBER:
                values = pa.array(made, from_pandas=True)  # what was missing is missing
                parts[name] = with_column(table, column, values)
            else:
                parts[name] = with_column(table, column, made)
    files = {"normalise.json": {"method": method, "columns": fitted}}
    summary = {"method": method, "columns": columns, "fitted_on": work.training}
    rows = [[each, np.mean(fit["shift"]), np.mean(fit["scale"])] for each, fit in fitted.items()]
    sections = [charts.table(["column", "shift", "scale"], rows)]
    return Result(f"Normalised: {len(columns)} columns", summary, sections, parts, files=files)


def fit(values: Array, method: str) -> tuple[Array, Array]:
    """Shift and scale of numbers, column by column; the scale of a constant is 1."""
    if not len(values):
        return np.zeros(values.shape[1:]), np.ones(values.shape[1:])
    with np.errstate(all="ignore"):
        match method:
            case "standard":
                shift, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            case "minmax":
                shift = np.nanmin(values, axis=0)
                scale = np.nanmax(values, axis=0) - shift
            case _:
                low, shift, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
                scale = high - low
    return np.nan_to_num(shift), np.where(np.nan_to_num(scale) > 0, scale, 1.0)


def _values(table: "pa.Table", column: str) -> Array:
    if kind_of(table, column) is Kind.NUMBER:
        return numbers(table, column)
    return array_of(table, column).astype(np.float64)

"""What columns must be: rules that a person writes, checked row by row."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aios.errors import InvalidArgument
from services.data.job.columns import Kind, kind_of, numbers
from services.data.job.parts import Array

TYPES = ("integer", "number", "text", "boolean", "time")
RULES = ("type", "required", "unique", "min", "max", "min_length", "max_length", "pattern", "values")


def broken(table: "pa.Table", rules: Mapping[str, Any]) -> Iterator[tuple[Array, str]]:
    """Masks of the rows that break a rule, and which.

    Raises:
        InvalidArgument: a rule cannot be read, or is about a column that is not there.
    """
    for column, rule in rules.items():
        at = f"parameters.rules.{column}"
        if not isinstance(rule, Mapping):
            raise InvalidArgument.of(at, "must be a mapping, such as {type: integer, min: 0}")
        for key in rule:
            if key not in RULES:
                raise InvalidArgument.of(f"{at}.{key}", f"is no rule: there are {', '.join(RULES)}")
        if column not in table.column_names:
            raise InvalidArgument.of(at, f"there is no such column: {', '.join(table.column_names[:20])}")
        for mask, problem in _broken(table, column, rule, at):
            if mask.any():
                yield mask, f"{column} {problem}"


def _broken(table: "pa.Table", name: str, rule: Mapping[str, Any], at: str) -> Iterator[tuple[Array, str]]:
    column = table[name].combine_chunks()
    there: Array = ~table[name].is_null(nan_is_null=True).to_numpy()
    if rule.get("required"):
        yield ~there, "is missing"
    if "type" in rule:
        yield there & ~_is_of(table, name, str(rule["type"]), at), f"is no {rule['type']}"
    if rule.get("unique"):
        yield there & _repeated(column), "is not unique"
    if "min" in rule or "max" in rule:
        values = _as_numbers(table, name)
        low, high = _bound(rule, "min", at), _bound(rule, "max", at)
        outside = np.isfinite(values) & ((values < low) | (values > high))
        yield there & outside, f"is not between {low:g} and {high:g}"
    if {"min_length", "max_length", "pattern"} & set(rule):
        yield from _of_text(column, rule, there, at)
    if "values" in rule:
        allowed = rule["values"]
        if not isinstance(allowed, list):
            raise InvalidArgument.of(f"{at}.values", "must be a list")
        known = {str(_plain(each)) for each in allowed}
        inside = np.array([str(_plain(each)) in known for each in column.to_pylist()], dtype=bool)
        yield there & ~inside, "is none of the values that it may have"


def _is_of(table: "pa.Table", name: str, wanted: str, at: str) -> Array:
    if wanted not in TYPES:
        raise InvalidArgument.of(f"{at}.type", f"must be one of {', '.join(TYPES)}")
    kind, rows = table.schema.field(name).type, table.num_rows
    if wanted == "text":
        return np.full(rows, kind_of(table, name) is Kind.TEXT)
    if wanted == "boolean":
        return np.full(rows, pa.types.is_boolean(kind))
    if wanted == "time":
        if kind_of(table, name) is Kind.TEXT:
            parsed = pc.strptime(table[name], format="%Y-%m-%d", unit="s", error_is_null=True)
            there: Array = parsed.is_valid().to_numpy()
            return there
        return np.full(rows, kind_of(table, name) is Kind.TIME)
    values = _as_numbers(table, name)
    finite = np.isfinite(values)
    return finite & (values == np.floor(values)) if wanted == "integer" else finite


def _as_numbers(table: "pa.Table", name: str) -> Array:
    """Texts that read as numbers are those; what is none is NaN."""
    if kind_of(table, name) is Kind.NUMBER:
        return numbers(table, name)
    if kind_of(table, name) is not Kind.TEXT:
        return np.full(table.num_rows, np.nan)

    def read(text: str | None) -> float:
        try:
            return float(text) if text is not None else np.nan
        except ValueError:
            return np.nan

    return np.array([read(each) for each in table[name].cast(pa.string()).to_pylist()])


def _repeated(column: "pa.Array") -> Array:
    """Rows whose value stands in an earlier row."""
    codes = pc.dictionary_encode(column).indices.fill_null(-1).to_numpy(zero_copy_only=False)
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    repeated: Array = ~first
    return repeated


def _of_text(
    column: "pa.Array", rule: Mapping[str, Any], there: Array, at: str
) -> Iterator[tuple[Array, str]]:
    texts = column.cast(pa.string()).to_pylist()
    lengths = np.array([len(each or "") for each in texts])
    if "min_length" in rule:
        yield there & (lengths < _bound(rule, "min_length", at)), "is too short"
    if "max_length" in rule:
        yield there & (lengths > _bound(rule, "max_length", at)), "is too long"
    if "pattern" in rule:
        try:
            # RE2 in Arrow: its time is linear, so that no pattern can hang the job.
            matched = pc.match_substring_regex(pa.array(texts, pa.string()), f"^(?:{rule['pattern']})$")
        except pa.ArrowException as error:
            raise InvalidArgument.of(f"{at}.pattern", f"is no regular expression: {error}") from None
        fits = matched.fill_null(False).to_numpy(zero_copy_only=False)
        yield there & ~fits, "does not look as it must"


def _bound(rule: Mapping[str, Any], key: str, at: str) -> float:
    value = rule.get(key, float("-inf") if key.startswith("min") else float("inf"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument.of(f"{at}.{key}", f"must be a number, not {value!r}")
    return float(value)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value

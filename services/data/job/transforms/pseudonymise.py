"""Put pseudonyms in the place of values: the same value has the same one wherever the key is the same, so that tables
can still be joined, and without the key nobody comes back from it.

Source: RFC 2104, HMAC; ENISA, Pseudonymisation techniques and best practices, 2019.
"""

import base64
import hmac

import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts, pii
from services.data.job.parts import with_column
from services.data.job.transforms.pii import FLAG, flags_of, scan
from services.data.job.work import Result, Work

DIGITS = 20  # of base 32: 100 bits, so that no two values of any table share one
FLAGGED = "pseudonymised"


def run(work: Work) -> Result:
    """Replace every value of some columns, and in texts whatever is of some kinds."""
    columns, kinds = list(work.parameters["columns"]), tuple(work.parameters["kinds"])
    for each in columns:
        work.require("columns", each)
    texts = [each for each in work.parameters["texts"] if work.require("texts", each)]
    if not columns and not texts:
        raise InvalidArgument.of("parameters.columns", "must name what is to be replaced")
    key, parts = work.key(), {}
    counts: dict[str, int] = {}
    for name, table in work.source.parts.items():
        for column in columns:
            values = _texts_of(table, column)
            made = [None if value is None else pseudonym(key, value) for value in values]
            table = with_column(table, column, pa.array(made, pa.string()))
            counts[column] = counts.get(column, 0) + sum(value is not None for value in values)
        for column in texts:
            values = _texts_of(table, column)
            after = [
                value and pii.replaced(value, kinds or pii.KINDS, lambda _, there: pseudonym(key, there))
                for value in values
            ]
            table = with_column(table, column, pa.array(after, pa.string()))
            changed = sum(one != other for one, other in zip(values, after, strict=True))
            counts[column] = counts.get(column, 0) + changed
        parts[name] = table
    left = scan(work.engine, parts, tuple(each for part in parts.values() for each in part.column_names))
    for found in left.values():
        for column in (*columns, *texts):
            # Its name speaks of people, and it holds none of theirs any more.
            found[column] = {k: v for k, v in found.get(column, {}).items() if v["by"] != "name"}
    left = {part: {c: kinds for c, kinds in found.items() if kinds} for part, found in left.items()}
    flags = flags_of(left)
    summary = {"replaced": counts, "still_there": left, "flags": sorted(flags)}
    kept = {each for each in work.privacy if not each.startswith(FLAG)}
    sections = [charts.table(["column", "values replaced"], list(counts.items()))]
    title = f"Pseudonymised: {sum(counts.values())} values"
    return Result(title, summary, sections, parts, privacy=frozenset(kept | flags | {FLAGGED}))


def pseudonym(key: bytes, value: str) -> str:
    """The pseudonym of a value."""
    digest = hmac.new(key, value.strip().encode(), "sha256").digest()
    return "p-" + base64.b32encode(digest).decode().lower()[:DIGITS]


def _texts_of(table: "pa.Table", column: str) -> list[str | None]:
    kind = table[column].type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidArgument.of(
            f"parameters.columns.{column}", f"holds {kind}: only single values have pseudonyms"
        )
    values: list[str | None] = table[column].cast(pa.string()).to_pylist()
    return values

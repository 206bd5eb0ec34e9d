"""Take out of texts what people can be told by, or empty whole columns."""

import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts, pii
from services.data.job.columns import Kind, kind_of
from services.data.job.engine import Given, Told, over
from services.data.job.parts import with_column
from services.data.job.transforms.pii import FLAG, flags_of, scan
from services.data.job.work import Result, Work

MASKED = "masked"
KEPT_CHARS = 4


def run(work: Work) -> Result:
    """Mask texts, drop columns, and look again: the result is marked with what is still there."""
    kinds = tuple(work.parameters["kinds"]) or pii.KINDS
    style, dropped = work.parameters["style"], list(work.parameters["drop"])
    for each in dropped:
        work.require("drop", each)
    columns = [each for each in work.columns() if each not in dropped]
    counts: dict[str, int] = {}
    parts = {}
    for name, table in work.source.parts.items():
        table = table.drop_columns(dropped)
        for column in [each for each in columns if each in table.column_names]:
            if kind_of(table, column) is not Kind.TEXT:
                continue
            made = over(work.engine, masked, table.select([column]), kinds=kinds, style=style)
            if changed := made.total("changed"):
                counts[column] = counts.get(column, 0) + changed
                table = with_column(table, column, made.table[column])
        parts[name] = table
    if not any(part.num_columns for part in parts.values()):
        raise InvalidArgument.of("parameters.drop", "leaves no column")
    left = scan(work.engine, parts, tuple(each for part in parts.values() for each in part.column_names))
    summary = {"masked": counts, "dropped": dropped, "still_there": left, "flags": sorted(flags_of(left))}
    sections = [charts.table(["column", "values masked"], list(counts.items()))]
    kept = {each for each in work.privacy if not each.startswith(FLAG)}
    privacy = frozenset(kept | flags_of(left) | {MASKED})
    return Result(f"Masked: {sum(counts.values())} values", summary, sections, parts, privacy=privacy)


def masked(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: the texts of the one column, masked."""
    kinds, style = tuple(given["kinds"]), given["style"]
    before = piece.column(0).cast(pa.string()).to_pylist()
    after = [
        text and pii.replaced(text, kinds, lambda kind, there: mask(kind, there, style)) for text in before
    ]
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    return pa.table({piece.column_names[0]: pa.array(after, pa.string())}), {"changed": changed}


def mask(kind: str, there: str, style: str) -> str:
    """What stands in its place."""
    if style == "label":
        return f"[{kind.upper()}]"
    if style == "last4":
        shown = "".join(each for each in there if each.isalnum())[-KEPT_CHARS:]
        return f"{'*' * max(0, len(there) - KEPT_CHARS)}{shown}"
    return "*" * len(there)

"""Rows that are there already: the same, nearly the same, or in another part."""

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from services.data.job.rejects import Rejects

ROWS_AT_ONCE = 4096


def exact(parts: Mapping[str, "pa.Table"], rejects: Rejects) -> None:
    """Put aside rows of a part that stand in it before, in all columns but one that numbers them."""
    for name, table in parts.items():
        seen: dict[bytes, int] = {}
        digests = row_digests(table.drop_columns([each for each in ("path",) if each in table.column_names]))
        for row in rejects.kept(name).tolist():
            first = seen.setdefault(digests[row], row)
            if first != row:
                rejects.add(name, [row], f"duplicate: of row {first}")


def row_digests(table: "pa.Table") -> list[bytes]:
    """A digest of each row: equal rows have the same."""
    sink = []
    columns = [_bytes_of(table[name]) for name in table.column_names]
    for row in range(table.num_rows):
        digest = hashlib.blake2b(digest_size=16)
        for column in columns:
            digest.update(column[row])
        sink.append(digest.digest())
    return sink


def _bytes_of(column: "pa.ChunkedArray") -> list[bytes]:
    """Each value in a form that no other value has, with its length ahead so that neighbours do not run together."""
    made = []
    for value in column.to_pylist():
        data = value if isinstance(value, bytes) else repr(value).encode()
        kind = b"b" if isinstance(value, bytes) else b"v"
        made.append(kind + len(data).to_bytes(8, "big") + data)
    return made

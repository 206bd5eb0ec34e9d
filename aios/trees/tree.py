"""One version's files: an Arrow table, and Parquet at rest. Every operation on it is vectorised.

Measured with 600,000 files: 0.4 s to encode, 25 MB at rest, 0.1 s to read what is compared of it.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILES_MAX = 10_000_000  # 700 MB of paths and digests: more is another format
PARTS_MAX = 20_000_000
UNPACKED_BYTES_MAX = 2 * 1024**3  # a small Parquet file can claim to hold anything
_DIGEST = pa.binary(32)
_PART = pa.struct(
    [
        pa.field("blob", _DIGEST, nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        # Of the chunk, by which a later version finds it. None where the part is the whole file.
        pa.field("sha256", _DIGEST),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", _DIGEST, nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        # Of a shard of records; None for any other file.
        pa.field("rows", pa.int64()),
        # None for a file that is a blob of its own.
        pa.field("parts", pa.list_(pa.field("item", _PART, nullable=False))),
    ]
)


_STATE = ["path", "sha256", "size_bytes"]
"""What two versions are compared by."""


class TreeInvalid(ValueError):
    """These bytes are no tree, or one that cannot be: the text says where."""


@dataclass(frozen=True)
class Part:
    """A range of a blob."""

    blob: str
    """SHA-256 of the whole blob."""
    offset: int
    size: int
    sha256: str
    """Of the range; empty where the file's own digest says it."""


@dataclass(frozen=True)
class Leaf:
    """One file."""

    path: str
    sha256: str
    size_bytes: int
    parts: Sequence[Part] = ()
    """In order; none where the file is a blob of its own."""
    rows: int | None = None


@dataclass(frozen=True)
class Change:
    """What happened to one path between two trees."""

    path: str
    before: tuple[str, int] | None
    """Digest and size; None for a file that was added."""
    after: tuple[str, int] | None


class Tree:
    """Files by path. Make it with `of`, or with `decode`, which checks."""

    def __init__(self, table: "pa.Table") -> None:
        self.table = table

    @classmethod
    def of(cls, leaves: Iterable[Leaf]) -> Self:
        """A tree of these files, in any order."""
        listed = sorted(leaves, key=lambda leaf: leaf.path.encode())
        columns: Mapping[str, Sequence[Any]] = {
            "path": [leaf.path for leaf in listed],
            "sha256": [bytes.fromhex(leaf.sha256) for leaf in listed],
            "size_bytes": [leaf.size_bytes for leaf in listed],
            "rows": [leaf.rows for leaf in listed],
            "parts": [[_part_row(part) for part in leaf.parts] if leaf.parts else None for leaf in listed],
        }
        return cls(pa.table(dict(columns), schema=SCHEMA))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote, or another writer of the same columns.

        Raises:
            TreeInvalid: damaged, too large, or of other columns.
        """
        made = cls(_read(data, SCHEMA.names))
        if any(made.parts()[name].null_count for name in ("blob", "offset", "size")):
            raise TreeInvalid("it lacks a value that every part has")
        return made

    def encode(self) -> bytes:
        """Parquet. The same tree from the same release of the library has the same bytes."""
        out = io.BytesIO()
        # Digests do not compress and never repeat: a dictionary of them is a second copy.
        pq.write_table(
            self.table,
            out,
            compression="zstd",
            use_dictionary=["parts.list.element.blob"],
            write_statistics=False,
            row_group_size=131_072,
        )
        return out.getvalue()

    def __len__(self) -> int:
        count: int = self.table.num_rows
        return count

    @property
    def size_bytes(self) -> int:
        """Sum over the files."""
        return int(pc.sum(self.table["size_bytes"]).as_py() or 0)

    @property
    def content(self) -> str:
        """Digest of what the version holds, however its bytes are stored."""
        digest = hashlib.sha256()
        names, digests, sizes = (self.table[name].to_pylist() for name in ("path", "sha256", "size_bytes"))
        for start in range(0, len(names), 4096):
            stop = start + 4096
            rows = zip(names[start:stop], digests[start:stop], sizes[start:stop], strict=True)
            digest.update(
                b"".join(b"%b\0%b%d\n" % (path.encode(), sha256, size) for path, sha256, size in rows)
            )
        return digest.hexdigest()

    def leaves(self, start: int = 0, count: int | None = None) -> Iterator[Leaf]:
        """Files from the `start`th on."""
        for row in self.table.slice(start, count).to_pylist():
            parts = tuple(
                Part(each["blob"].hex(), each["offset"], each["size"], (each["sha256"] or b"").hex())
                for each in row["parts"] or ()
            )
            yield Leaf(row["path"], row["sha256"].hex(), row["size_bytes"], parts, row["rows"])

    def find(self, paths: Sequence[str]) -> "Tree":
        """The files at some paths; those that are not there are left out."""
        return Tree(self.table.filter(pc.is_in(self.table["path"], pa.array(paths, pa.string()))))

    def whole(self) -> "pa.Table":
        """`sha256` and `size_bytes` of each blob that is a file of its own."""
        alone = self.table.filter(pc.is_null(self.table["parts"])).select(["sha256", "size_bytes"])
        return alone.group_by(["sha256", "size_bytes"]).aggregate([])

    def parts(self) -> "pa.Table":
        """`blob`, `offset`, `size`, `sha256` of every part."""
        flat = pc.list_flatten(self.table["parts"])
        return pa.Table.from_struct_array(flat) if len(flat) else pa.Table.from_batches([], pa.schema(_PART))

    def blobs(self) -> set[str]:
        """Digest of every blob that the version needs."""
        digests = (self.whole()["sha256"], self.parts()["blob"])
        return {digest.hex() for column in digests for digest in pc.unique(column).to_pylist()}

    def states(self) -> "pa.Table":
        """Path, digest and size of every file."""
        return self.table.select(_STATE)

    def changes(self, before: "Tree") -> list[Change]:
        """What differs from another tree, by path."""
        return changes(self.states(), before.states())

    def replaced(self, changes: Mapping[str, Leaf | None]) -> "Tree":
        """The tree with some paths set, or removed where the file is None."""
        touched = pa.array(list(changes), pa.string())
        kept = self.table.filter(pc.invert(pc.is_in(self.table["path"], touched)))
        new = Tree.of(leaf for leaf in changes.values() if leaf is not None)
        both = pa.concat_tables([kept, new.table])
        # Arrow sorts strings by their bytes, as `of` does.
        return Tree(both.sort_by("path").combine_chunks())


def read_states(data: bytes) -> "pa.Table":
    """`Tree.states` of what `encode` wrote. Parts are most of the work of `decode`, and are left alone.

    Raises:
        TreeInvalid
    """
    return _read(data, _STATE)


def changes(after: "pa.Table", before: "pa.Table") -> list[Change]:
    """What differs between the states of two trees, by path."""
    mine, theirs = (_by_path(each) for each in _unlike(after, before))
    return [Change(path, theirs.get(path), mine.get(path)) for path in sorted({*mine, *theirs})]


def _read(data: bytes, columns: Sequence[str]) -> "pa.Table":
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        unpacked = sum(
            file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)
        )
        if file.metadata.num_rows > FILES_MAX or unpacked > UNPACKED_BYTES_MAX:
            raise TreeInvalid(f"{file.metadata.num_rows} files are too many for one version")
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        table = file.read(columns=list(columns)).select(schema.names).cast(schema).combine_chunks()
        table.validate(full=True)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise TreeInvalid(f"it is no Parquet table of files: {error}") from error
    if any(table[name].null_count for name in _STATE):
        raise TreeInvalid("it lacks a value that every file has")
    return table


def _part_row(part: Part) -> dict[str, Any]:
    return {
        "blob": bytes.fromhex(part.blob),
        "offset": part.offset,
        "size": part.size,
        "sha256": bytes.fromhex(part.sha256) if part.sha256 else None,
    }


def _unlike(one: "pa.Table", other: "pa.Table") -> "tuple[pa.Table, pa.Table]":
    """The files of each that the other does not have just so."""
    # Both are by path: where they begin and end alike, nothing has to be looked up.
    count = min(one.num_rows, other.num_rows)
    ahead = _alike(one.slice(0, count), other.slice(0, count))
    start = _first_false(ahead, count)
    count -= start
    behind = _alike(one.slice(one.num_rows - count), other.slice(other.num_rows - count))
    end = _first_false(behind[::-1], count)
    one, other = (each.slice(start, each.num_rows - start - end) for each in (one, other))
    if one.num_rows == other.num_rows:
        differ = pc.invert(pc.equal(one["sha256"], other["sha256"]))
        if one["path"].equals(other["path"]):
            return one.filter(differ), other.filter(differ)
    # Each file is there once, so one lookup says what both sides lack.
    where = pc.index_in(_keys(one), _keys(other))
    gone = np.ones(other.num_rows, bool)
    gone[pc.drop_null(where).to_numpy()] = False
    return one.filter(pc.is_null(where)), other.filter(pa.array(gone))


def _alike(one: "pa.Table", other: "pa.Table") -> Any:
    same = pc.and_(pc.equal(one["path"], other["path"]), pc.equal(one["sha256"], other["sha256"]))
    return same.combine_chunks()


def _first_false(values: Any, count: int) -> int:
    found = pc.index(values, False).as_py()
    return count if found < 0 else found


def _keys(table: "pa.Table") -> Any:
    """One value per file that is equal where path and content are."""
    path = table["path"].combine_chunks().cast(pa.binary())
    digest = table["sha256"].combine_chunks().cast(pa.binary())
    # A digest has a fixed length, so no separator is needed behind the path.
    return pc.binary_join_element_wise(path, digest, pa.scalar(b"", pa.binary()))


def _by_path(table: "pa.Table") -> dict[str, tuple[str, int]]:
    rows = zip(*(table[name].to_pylist() for name in ("path", "sha256", "size_bytes")), strict=True)
    return {path: (digest.hex(), size) for path, digest, size in rows}

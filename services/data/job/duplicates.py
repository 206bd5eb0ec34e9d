"""Rows that are there already: the same, nearly the same, or in another part.

Sources: Broder, On the Resemblance and Containment of Documents, 1997 (MinHash); Indyk and Motwani, Approximate Nearest
Neighbors, STOC 1998 (banding). The hash of an image is the sign of the difference of neighbouring pixels.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from services.data.job.columns import Kind, images, kind_of, texts
from services.data.job.engine import Engine, Given, Told, over
from services.data.job.parts import Array, array_of, with_column
from services.data.job.rejects import Rejects

PERMUTATIONS = 128
SHINGLE_CHARS = 5
PRIME = (1 << 61) - 1
GRID = (8, 9)  # of an image's hash: 64 differences
THUMBNAIL = (16, 16)
THUMBNAIL_DISTANCE_MAX = (
    0.08  # of grey values, 0 to 1: flat images have like hashes and are told apart by this
)
BUCKET_MAX = (
    200  # rows of one bucket that are compared with each other: more says that the bucket tells nothing
)

Pair = tuple[int, int, float]


def exact(parts: Mapping[str, "pa.Table"], rejects: Rejects, apart: Sequence[str] = ()) -> None:
    """Put aside rows of a part that stand in it before, in all columns but those that number them."""
    for name, digests in _digests(parts, apart).items():
        seen: dict[bytes, int] = {}
        for row in rejects.kept(name).tolist():
            first = seen.setdefault(digests[row], row)
            if first != row:
                rejects.add(name, [row], f"duplicate: of row {first}")


def leaked(parts: Mapping[str, "pa.Table"], training: str, rejects: Rejects, apart: Sequence[str]) -> None:
    """Put aside rows of the training part that another part has too, whatever their label."""
    digests = _digests(parts, apart)
    elsewhere: dict[bytes, str] = {}
    for name in parts:
        if name != training:
            for row in rejects.kept(name).tolist():
                elsewhere.setdefault(digests[name][row], f"row {row} of {name}")
    for row in rejects.kept(training).tolist():
        if where := elsewhere.get(digests[training][row]):
            rejects.add(training, [row], f"leakage: is {where}")


def near(
    engine: Engine,
    parts: Mapping[str, "pa.Table"],
    columns: Sequence[str],
    likeness: float,
    training: str,
    rejects: Rejects,
) -> None:
    """Put aside the later one of rows that are alike in a text or an image; across parts the one of the training part.

    Args:
        likeness: From which two are taken for the same, 0 to 1.
    """
    order = sorted(parts, key=lambda name: name == training)  # what the others have is known before
    kept = {name: rejects.kept(name) for name in order}
    places = [(name, row) for name in order for row in kept[name].tolist()]
    for column in columns:
        chosen = [parts[name].select([column]).take(pa.array(kept[name])) for name in order]
        whole = pa.concat_tables(chosen).combine_chunks()
        reasons: dict[int, str] = {}
        for one, other, alike in sorted(_alike(engine, whole, column, likeness)):
            if one not in reasons and other not in reasons:
                name, row = places[one]
                reasons[other] = f"near duplicate: {column} is {alike:.0%} like row {row} of {name}"
        for position, reason in reasons.items():
            name, row = places[position]
            rejects.add(name, [row], reason)


def row_digests(table: "pa.Table") -> list[bytes]:
    """A digest of each row: equal rows have the same."""
    columns = [_bytes_of(table[name]) for name in table.column_names]
    return [
        hashlib.blake2b(b"".join(values), digest_size=16).digest() for values in zip(*columns, strict=True)
    ]


def alike_texts(engine: Engine, table: "pa.Table", column: str, likeness: float) -> Iterator[Pair]:
    """Pairs whose sets of character sequences overlap by at least that share (Jaccard's)."""
    signed = over(engine, signatures, table.select([column])).table
    shingles = [each.values.to_numpy() for each in signed["shingles"]]
    signed_NP = array_of(signed, "signature")
    rows = _rows_of_a_band(likeness)
    for one, other in _candidates(
        signed_NP[:, start : start + rows] for start in range(0, PERMUTATIONS, rows)
    ):
        both = len(np.intersect1d(shingles[one], shingles[other], assume_unique=True))
        union = len(shingles[one]) + len(shingles[other]) - both
        if union and both / union >= likeness:
            yield one, other, both / union


def signatures(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: the shingles of each text of the one column, and their MinHash."""
    shingles = [_shingles(value or "") for value in texts(piece, piece.column_names[0])]
    signed = np.array([_signature(each) for each in shingles], dtype=np.uint64).reshape(-1, PERMUTATIONS)
    made = pa.table({"shingles": pa.array(shingles, pa.list_(pa.uint64()))})
    return with_column(made, "signature", signed), {}


def alike_images(engine: Engine, table: "pa.Table", column: str, likeness: float) -> Iterator[Pair]:
    """Pairs whose hashes differ in few of 64 bits, and whose thumbnails are close."""
    small = over(engine, shrunk, table.select([column])).table
    thumbnails = array_of(small, "thumbnail").astype(np.float32) / 255
    grid = array_of(small, "grid").astype(np.int16)
    bits = (np.diff(grid, axis=2) > 0).reshape(-1, 64)
    allowed = int((1 - likeness) * 64)
    # Of so many bands more than bits may differ, one is the same in both.
    bands = np.array_split(np.arange(64), min(64, allowed + 1))
    for one, other in _candidates(bits[:, band] for band in bands):
        distance = int((bits[one] != bits[other]).sum())
        close = float(np.abs(thumbnails[one] - thumbnails[other]).mean()) <= THUMBNAIL_DISTANCE_MAX
        if distance <= allowed and close:
            yield one, other, 1 - distance / 64


def shrunk(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: each image of the one column, small enough to be compared."""
    [column] = piece.column_names
    made = pa.table({})
    for name, size in (("thumbnail", THUMBNAIL), ("grid", GRID)):
        found = np.array(list(images(piece, column, size)), dtype=np.uint8).reshape(-1, *size)
        made = with_column(made, name, found)
    return made, {}


def _alike(engine: Engine, table: "pa.Table", column: str, likeness: float) -> Iterator[Pair]:
    if kind_of(table, column) is Kind.IMAGE:
        return alike_images(engine, table, column, likeness)
    return alike_texts(engine, table, column, likeness)


def _digests(parts: Mapping[str, "pa.Table"], apart: Sequence[str]) -> dict[str, list[bytes]]:
    found = {}
    for name, table in parts.items():
        kept = [each for each in table.column_names if each not in ("path", *apart)]
        found[name] = row_digests(table.select(kept)) if kept else [b""] * table.num_rows
    return found


def _bytes_of(column: "pa.ChunkedArray") -> list[bytes]:
    """Each value in a form that no other value has, with its length ahead so that neighbours do not run together."""
    made = []
    for value in column.to_pylist():
        data = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
        kind = b"b" if isinstance(value, bytes) else b"v"
        made.append(kind + len(data).to_bytes(8, "big") + data)
    return made


def _shingles(text: str) -> Array:
    """Hashes of every sequence of some characters, each once; white space and case do not count."""
    plain = " ".join(text.lower().split()).encode(errors="replace")
    last = max(1, len(plain) - SHINGLE_CHARS + 1)
    found = {zlib.crc32(plain[start : start + SHINGLE_CHARS]) for start in range(last)} if plain else set()
    return np.array(sorted(found), dtype=np.uint64)


_GENERATOR = np.random.default_rng(20_240_229)  # of the permutations: any, and always the same
_A = _GENERATOR.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64)
_B = _GENERATOR.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint64)


def _signature(shingles: Array) -> Array:
    if not len(shingles):
        return np.full(PERMUTATIONS, PRIME, dtype=np.uint64)
    made: Array = ((shingles[:, None] * _A + _B) % np.uint64(PRIME)).min(axis=0)
    return made


def _rows_of_a_band(likeness: float) -> int:
    """So many rows to a band that pairs of half the allowed distance more are still found with certainty near 1."""
    for rows in (16, 8, 4, 2):
        if (1 - max(0.05, likeness) ** rows) ** (PERMUTATIONS / rows) < 0.02:
            return rows
    return 1


def _candidates(bands: Iterable[Array]) -> Iterator[tuple[int, int]]:
    """Pairs of rows that are the same in a band, each pair once, the earlier row first."""
    seen: set[tuple[int, int]] = set()
    for band in bands:
        buckets: dict[bytes, list[int]] = {}
        for row, value in enumerate(np.ascontiguousarray(band)):
            bucket = buckets.setdefault(value.tobytes(), [])
            for other in bucket[:BUCKET_MAX]:
                if (other, row) not in seen:
                    seen.add((other, row))
                    yield other, row
            bucket.append(row)

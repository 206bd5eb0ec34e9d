"""WebDataset: tar archives in which the files of one sample stand together, `0001.jpg` and `0001.cls`."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from aios.errors import InvalidArgument
from aios.formats.images import check_name

BATCH_BYTES = 8 << 20
MEMBER_BYTES_MAX = 1 << 30
MEMBERS_MAX = 10_000_000
TOTAL_BYTES_MAX = 1 << 40
RATIO_MAX = 200
"""Unpacked over packed: more is a bomb. A tar that is not compressed has one below 1."""
KEY = "__key__"


def read_webdataset(source: Path) -> Iterator["pa.RecordBatch"]:
    """Columns `__key__` and one of bytes for each kind of file; null where a sample has none."""
    archives = sorted(source.glob("*.tar*")) if source.is_dir() else [source]
    if not archives:
        raise InvalidArgument.of("source", f"{str(source)!r} holds no tar archive")
    kinds = _kinds(archives)
    schema = pa.schema(
        [pa.field(KEY, pa.string(), nullable=False), *(pa.field(kind, pa.binary()) for kind in kinds)]
    )
    rows: list[dict[str, str | bytes]] = []
    size = 0
    for archive in archives:
        for row in _samples(archive):
            rows.append(row)
            size += sum(map(len, row.values()))
            if size >= BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, schema=schema)
                rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def members(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of an archive, in order: links and devices are refused, sizes and counts are bounded.

    Raises:
        InvalidArgument: naming the member.
    """
    if not archive.is_file():
        raise InvalidArgument.of("source", f"{str(archive)!r} is no file")
    packed, total = archive.stat().st_size, 0
    try:
        # Read as a stream: a member may not send us back to one before it.
        with tarfile.open(archive, "r|*") as opened:
            for number, member in enumerate(opened):
                if member.isdir():
                    continue
                named = f"{str(archive)!r}: {member.name[:200]!r}"
                path = PurePosixPath(member.name)
                check_name(f"{archive}: {member.name}")
                if not member.isreg():
                    raise InvalidArgument.of("source", f"{named} is no regular file")
                if path.is_absolute() or ".." in path.parts or "\0" in member.name:
                    raise InvalidArgument.of("source", f"{named} leads out of the archive")
                total += member.size
                if member.size > MEMBER_BYTES_MAX or number >= MEMBERS_MAX or total > TOTAL_BYTES_MAX:
                    raise InvalidArgument.of("source", f"{named} is larger than is taken, or one too many")
                if total > RATIO_MAX * packed:
                    raise InvalidArgument.of(
                        "source", f"{named}: the archive unpacks to {RATIO_MAX} times its size"
                    )
                yield opened, member
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("source", f"{str(archive)!r} is no readable archive: {error}") from error


def _kinds(archives: list[Path]) -> list[str]:
    found: dict[str, None] = {}
    for archive in archives:
        for _, member in members(archive):
            found[_split(member.name)[1]] = None
            if len(found) > 1000:
                raise InvalidArgument.of("source", f"{str(archive)!r} has more than 1000 kinds of files")
    return sorted(found)


def _samples(archive: Path) -> Iterator[dict[str, str | bytes]]:
    sample: dict[str, str | bytes] = {}
    for opened, member in members(archive):
        key, kind = _split(member.name)
        if sample and sample[KEY] != key:
            yield sample
            sample = {}
        if kind in sample:
            raise InvalidArgument.of("source", f"{str(archive)!r}: {member.name!r} stands twice")
        file = opened.extractfile(member)
        assert file is not None
        sample |= {KEY: key, kind: file.read()}
    if sample:
        yield sample


def _split(name: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, kind.lower() or "data"

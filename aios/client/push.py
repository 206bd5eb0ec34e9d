"""Pushes a folder as one version: what the last version has is not sent again, small files share packs, large ones that
change in places share chunks.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aios import transfer
from aios.client.transfer import Meter, Report, Store, gather, put_blob
from aios.errors import DataLoss

if TYPE_CHECKING:
    from aios.trees.tree import Leaf, Tree

SMALL_FILE_BYTES = 1 << 20
"""Below it, asking for a file's own URL costs more than its bytes."""
PACK_BYTES = 32 << 20
"""Of small files together: few requests, and little to fetch for one of them."""
PACK_FROM = 64
"""New small files from which packs are made; fewer are sent one by one."""
REUSED_SHARE = 0.5
"""Of a large file: with less in common, it is sent whole and stays in one piece."""
FILES_AT_ONCE = 256
"""Hashed by one thread before another takes over: a task for each would cost more than its file."""
BLOBS_AT_ONCE = 8


@dataclass(frozen=True)
class Found:
    """A file on disk."""

    path: str
    file: Path
    size: int
    sha256: str = ""


@dataclass
class _Known:
    """What versions before this one hold, by content."""

    leaves: dict[str, "Leaf"] = field(default_factory=dict)
    chunks: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Digest of a chunk to blob and offset."""


async def push_files(
    store: Store, files: Mapping[str, Path], base: "Tree | None", report: Report | None = None
) -> list["Leaf"]:
    """Store files, and say where each one's bytes lie.

    Args:
        files: By path in the version.
        base: The version that they come after: its content is not sent again.
    """
    from aios.trees.chunks import is_cut

    listed = [Found(path, file, file.stat().st_size) for path, file in files.items()]
    hashed = await _hashed(listed, Meter("hash", (each.size for each in listed), report))
    known = await asyncio.to_thread(_known, base)
    new = {each.sha256: each for each in hashed if each.sha256 not in known.leaves}
    uploading = Meter("upload", (each.size for each in new.values()), report)
    small = [each for each in new.values() if 0 < each.size < SMALL_FILE_BYTES]
    packed = {each.sha256 for each in small} if len(small) >= PACK_FROM else set()
    slots = asyncio.Semaphore(BLOBS_AT_ONCE)

    with tempfile.TemporaryDirectory(prefix="aios-push-") as scratch:

        async def alone(each: Found) -> "Leaf":
            async with slots:
                leaf = (
                    await _cut(store, each, known, Path(scratch), uploading)
                    if is_cut(each.path, each.size)
                    else None
                )
                return leaf or await _whole(store, each, uploading)

        async def pack(group: Sequence[Found]) -> list["Leaf"]:
            async with slots:
                return await _pack(store, group, Path(scratch), uploading)

        single = [alone(each) for each in new.values() if each.sha256 not in packed]
        groups = [pack(group) for group in _groups(each for each in small if each.sha256 in packed)]
        for leaf in await gather(single):
            known.leaves[leaf.sha256] = leaf
        for leaves in await gather(groups):
            known.leaves |= {leaf.sha256: leaf for leaf in leaves}
    return [_at(known.leaves[each.sha256], each.path) for each in hashed]


async def _hashed(listed: Sequence[Found], meter: Meter) -> list[Found]:
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    def read(some: Sequence[Found]) -> list[Found]:
        return [Found(each.path, each.file, each.size, transfer.digest(each.file)[0]) for each in some]

    async def run(some: Sequence[Found]) -> list[Found]:
        async with gate:
            done = await asyncio.to_thread(read, some)
            meter.add(sum(each.size for each in some), len(some))
            return done

    batches = [listed[start : start + FILES_AT_ONCE] for start in range(0, len(listed), FILES_AT_ONCE)]
    return [each for batch in await gather(run(batch) for batch in batches) for each in batch]


def _known(base: "Tree | None") -> _Known:
    known = _Known()
    for leaf in base.leaves() if base is not None else ():
        known.leaves[leaf.sha256] = leaf
        for part in leaf.parts:
            if part.sha256:
                known.chunks[part.sha256] = (part.blob, part.offset)
    return known


async def _whole(store: Store, each: Found, meter: Meter, parts: Sequence[object] = ()) -> "Leaf":
    from aios.trees.tree import Leaf

    sent = await put_blob(store, each.sha256, each.file, meter.add)
    meter.add(0 if sent else each.size, 1)
    rows = await asyncio.to_thread(_rows, each)
    return Leaf(each.path, each.sha256, each.size, tuple(parts), rows)  # type: ignore[arg-type]


async def _cut(store: Store, each: Found, known: _Known, scratch: Path, meter: Meter) -> "Leaf | None":
    """A file of chunks: those that are known stay where they are, the others travel together as one blob."""
    from aios.trees.chunks import cut
    from aios.trees.tree import Leaf, Part

    chunks = await asyncio.to_thread(lambda: list(cut(each.file)))
    reused = sum(chunk.size for chunk in chunks if chunk.sha256 in known.chunks)
    if reused < REUSED_SHARE * each.size:
        parts = [Part(each.sha256, chunk.offset, chunk.size, chunk.sha256) for chunk in chunks]
        return await _whole(store, each, meter, parts)
    offsets: dict[str, int] = {}

    def write() -> tuple[Path, str]:
        target, digest, size = scratch / each.sha256, hashlib.sha256(), 0
        with each.file.open("rb") as source, target.open("wb") as out:
            for chunk in chunks:
                if chunk.sha256 in known.chunks or chunk.sha256 in offsets:
                    continue
                source.seek(chunk.offset)
                data = source.read(chunk.size)
                _same(data, chunk.sha256, each)
                digest.update(data)
                offsets[chunk.sha256] = size
                size += out.write(data)
        return target, digest.hexdigest()

    blob, sha256 = await asyncio.to_thread(write)
    if offsets:
        await put_blob(store, sha256, blob, meter.add)
    meter.add(reused, 1)
    blob.unlink()
    parts = []
    for chunk in chunks:
        where, offset = known.chunks.get(chunk.sha256) or (sha256, offsets[chunk.sha256])
        parts.append(Part(where, offset, chunk.size, chunk.sha256))
    return Leaf(each.path, each.sha256, each.size, tuple(parts))


def _groups(small: Iterable[Found]) -> Iterator[list[Found]]:
    group: list[Found] = []
    size = 0
    # By path: files that lie together are often read together, and the same files make the same packs again.
    for each in sorted(small, key=lambda each: each.path):
        if size + each.size > PACK_BYTES:
            yield group
            group, size = [], 0
        group.append(each)
        size += each.size
    if group:
        yield group


async def _pack(store: Store, group: Sequence[Found], scratch: Path, meter: Meter) -> list["Leaf"]:
    from aios.trees.tree import Leaf, Part

    def write() -> tuple[Path, str]:
        target, digest = scratch / f"pack-{group[0].sha256}", hashlib.sha256()
        with target.open("wb") as out:
            for each in group:
                data = each.file.read_bytes()
                _same(data, each.sha256, each)
                digest.update(data)
                out.write(data)
        return target, digest.hexdigest()

    pack, sha256 = await asyncio.to_thread(write)
    size = pack.stat().st_size
    sent = await put_blob(store, sha256, pack, meter.add)
    meter.add(0 if sent else size, len(group))
    pack.unlink()
    leaves, offset = [], 0
    for each in group:
        leaves.append(Leaf(each.path, each.sha256, each.size, (Part(sha256, offset, each.size, ""),)))
        offset += each.size
    return leaves


def _same(data: bytes, sha256: str, each: Found) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataLoss(f"{str(each.file)!r} changed while it was pushed: push again.")


def _rows(each: Found) -> int | None:
    """Records of a shard."""
    if Path(each.path).suffix.lower() != ".arrow":
        return None
    import pyarrow as pa

    try:
        with pa.memory_map(str(each.file)) as source:
            count: int = pa.ipc.open_file(source).count_rows()
            return count
    except (pa.ArrowInvalid, OSError):
        return None  # the name alone makes no shard


def _at(leaf: "Leaf", path: str) -> "Leaf":
    from dataclasses import replace

    return leaf if leaf.path == path else replace(leaf, path=path)

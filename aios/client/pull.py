"""Pulls a version's files: those that are there already stay, what lies side by side in a pack is fetched at once."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aios import transfer
from aios.client.connection import pages
from aios.client.transfer import PARALLEL, URLS_MAX, Meter, Report, Store, check_path, gather
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2 as pb
from aios.errors import DataLoss, FailedPrecondition

SPAN_BYTES_MAX = 16 << 20
"""Of one range that is held in memory."""


@dataclass(frozen=True)
class _Span:
    """A range of a pack, and the files in it, one after the other."""

    url: str
    offset: int
    size: int
    files: tuple[file_pb2.File, ...]
    key: bytes


async def pull(
    store: Store,
    parent: str,
    destination: Path,
    report: Report | None = None,
    paths: Sequence[str] = (),
) -> list[Path]:
    """Fetch the files of a version or checkpoint. Each appears whole and checked, or not at all; one that is there
    with the right content is left alone, so that a pull can go on where it was cut off.

    Args:
        paths: Only these files, where any are named.
    """
    for _ in range(URLS_MAX - 1):
        try:
            return await _pull(store, parent, destination, report, paths)
        except FailedPrecondition as error:
            # A URL has ended on a slow link: fresh ones, for what is missing yet.
            if error.reason != "URL_REFUSED":
                raise
    return await _pull(store, parent, destination, report, paths)


async def _pull(
    store: Store, parent: str, destination: Path, report: Report | None, paths: Sequence[str]
) -> list[Path]:
    request = pb.ListDownloadsRequest(parent=parent, paths=paths)
    downloads = [each async for each in pages(store.data.ListDownloads, request, "downloads")]
    for each in downloads:
        check_path(each.file.path)
    meter = Meter("download", (each.file.size_bytes for each in downloads), report)
    missing = await _missing(downloads, destination, meter)
    slots = asyncio.Semaphore(PARALLEL)

    async def get(download: pb.Download) -> None:
        file, target = download.file, destination / download.file.path
        async with slots:
            if download.parts:
                await _assemble(store, download, target, meter)
            else:
                await transfer.download(
                    store.http,
                    download.url,
                    file.sha256,
                    file.size_bytes,
                    target,
                    meter.add,
                    download.encryption_key,
                )
            meter.add(0, 1)

    async def get_span(span: _Span) -> None:
        async with slots:
            data = await transfer.read_range(store.http, span.url, span.offset, span.size, "a pack", span.key)
            await asyncio.to_thread(_split, span, data, destination)
            meter.add(span.size, len(span.files))

    packed = [each for each in missing if len(each.parts) == 1 and each.file.size_bytes <= SPAN_BYTES_MAX]
    inside = {each.file.path for each in packed}
    await gather(get(each) for each in missing if each.file.path not in inside)
    await gather(get_span(span) for span in _spans(packed))
    return [destination / each.file.path for each in downloads]


async def _missing(downloads: list[pb.Download], destination: Path, meter: Meter) -> list[pb.Download]:
    """Those whose files are not there yet."""
    if not destination.exists():
        return downloads

    def is_there(file: file_pb2.File) -> bool:
        target = destination / file.path
        return (
            target.is_file()
            and target.stat().st_size == file.size_bytes
            and transfer.digest(target)[0] == file.sha256
        )

    def look() -> list[pb.Download]:
        found = []
        for each in downloads:
            if is_there(each.file):
                meter.add(each.file.size_bytes, 1)
            else:
                found.append(each)
        return found

    return await asyncio.to_thread(look)


async def _assemble(store: Store, download: pb.Download, target: Path, meter: Meter) -> None:
    """Put a file together from its parts, in bounded memory."""
    file = download.file
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as out:
            for part in download.parts:
                for start in range(0, part.size_bytes, SPAN_BYTES_MAX):
                    size = min(SPAN_BYTES_MAX, part.size_bytes - start)
                    data = await transfer.read_range(
                        store.http,
                        part.url,
                        part.offset_bytes + start,
                        size,
                        target.name,
                        part.encryption_key,
                    )
                    digest.update(data)
                    out.write(data)
                    meter.add(size)
        if digest.hexdigest() != file.sha256:
            raise DataLoss(f"{target.name!r} is not the one registered: its SHA-256 differs.")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _spans(packed: Iterable[pb.Download]) -> Iterator[_Span]:
    last: _Span | None = None
    for each in sorted(packed, key=lambda each: (each.parts[0].url, each.parts[0].offset_bytes)):
        part = each.parts[0]
        if (
            last is not None
            and (last.url, last.offset + last.size) == (part.url, part.offset_bytes)
            and last.size + part.size_bytes <= SPAN_BYTES_MAX
        ):
            files = (*last.files, each.file)
            last = _Span(last.url, last.offset, last.size + part.size_bytes, files, last.key)
            continue
        if last is not None:
            yield last
        last = _Span(part.url, part.offset_bytes, part.size_bytes, (each.file,), part.encryption_key)
    if last is not None:
        yield last


def _split(span: _Span, data: bytes, destination: Path) -> None:
    start = 0
    for file in span.files:
        content = data[start : start + file.size_bytes]
        start += file.size_bytes
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise DataLoss(f"{file.path!r} is not the one registered: its SHA-256 differs.")
        target = destination / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        partial.rename(target)

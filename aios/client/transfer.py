"""Folders of files to and from the platform: each blob is stored once, a few travel at a time."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from aios import transfer
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1.data_service_pb2_grpc import DataServiceStub
from aios.errors import FailedPrecondition, InvalidArgument, Unavailable

PARALLEL = 8
"""Files under way at once: enough to fill a link with small ones, few enough to keep their buffers small."""
PARTS_AT_ONCE = 4
"""Of one large blob."""
URLS_MAX = 3
"""How often a blob is begun anew: its URL may have expired on a slow link, or its bytes may have been damaged."""
UPLOAD_SECONDS = 120.0
"""For one call that waits while the service reads a blob back and checks it."""


@dataclass(frozen=True)
class Progress:
    """How far a push or pull is."""

    phase: str
    """`hash`, `upload` or `download`."""
    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


Report = Callable[[Progress], None]


class Meter:
    """Counts what has moved, and tells."""

    def __init__(self, phase: str, sizes: Iterable[int], report: Report | None) -> None:
        listed = list(sizes)
        self._phase, self._total, self._files = phase, sum(listed), len(listed)
        self._bytes = self._done = 0
        self._report = report

    def add(self, size: int = 0, files: int = 0) -> None:
        self._bytes += size
        self._done += files
        if self._report is not None:
            self._report(Progress(self._phase, self._bytes, self._total, self._done, self._files))


def find(source: Path | Mapping[str, Path]) -> dict[str, Path]:
    """The files to push, by their path in the version, in order. Directories are not followed through links.

    Raises:
        InvalidArgument: nothing is there, or something is no regular file.
    """
    if isinstance(source, Mapping):
        found = dict(source)
    elif source.is_file():
        found = {source.name: source}
    elif source.is_dir():
        found = {
            Path(root, name).relative_to(source).as_posix(): Path(root, name)
            for root, _, names in os.walk(source)
            for name in names
        }
    else:
        raise InvalidArgument.of("source", f"no file or directory {str(source)!r}")
    if not found:
        raise InvalidArgument.of("source", f"{str(source)!r} holds no file")
    for path, file in found.items():
        check_path(path)
        if not file.is_file():
            raise InvalidArgument.of("source", f"{str(file)!r} is not a regular file")
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Store:
    """Where files go to and come from."""

    data: DataServiceStub
    http: httpx.AsyncClient
    project: str
    """`projects/{project}`."""


async def push(
    store: Store, source: Path | Mapping[str, Path], report: Report | None = None
) -> list[file_pb2.File]:
    """Store files, skipping content that the project already has."""
    found = await asyncio.to_thread(find, source)
    sizes = {path: file.stat().st_size for path, file in found.items()}
    meter = Meter("hash", sizes.values(), report)
    gate = asyncio.Semaphore(min(PARALLEL, os.cpu_count() or 1))

    async def digest(path: str, file: Path) -> file_pb2.File:
        async with gate:
            sha256, size = await asyncio.to_thread(transfer.digest, file)
            meter.add(sizes[path], 1)
            return file_pb2.File(path=path, sha256=sha256, size_bytes=size)

    files = await gather(digest(path, file) for path, file in found.items())
    distinct = {file.sha256: file for file in files}
    uploading = Meter("upload", (file.size_bytes for file in distinct.values()), report)
    slots = asyncio.Semaphore(PARALLEL)

    async def upload(file: file_pb2.File) -> None:
        async with slots:
            sent = await put_blob(store, file.sha256, found[file.path], uploading.add)
            uploading.add(0 if sent else file.size_bytes, 1)

    await gather(upload(file) for file in distinct.values())
    return files


async def put_blob(store: Store, sha256: str, source: Path, progress: transfer.Progress) -> bool:
    """Store one blob, in parts where it is large; what a try before this one got through is not sent again.

    Returns:
        False when the project has it already.
    """
    size = source.stat().st_size
    begin = pb.BeginUploadRequest(parent=store.project, sha256=sha256, size_bytes=size)
    for attempt in range(1, URLS_MAX + 1):
        upload = await store.data.BeginUpload(begin)
        if upload.exists:
            return False
        try:
            if upload.part_size_bytes:
                await put_parts(store, upload, source, size, progress)
            else:
                await transfer.upload(
                    store.http, source, upload.url, upload.headers, progress, upload.encryption_key
                )
            await _complete(store, upload.name)
        except FailedPrecondition:
            if attempt == URLS_MAX:
                raise
        else:
            return True
    raise AssertionError("the last try returns or raises")


async def put_parts(
    store: Store, upload: pb.Upload, source: Path, size: int, progress: transfer.Progress
) -> None:
    """Put the parts of an upload that are not there yet."""
    part, stored = upload.part_size_bytes, set(upload.stored_parts)
    progress(sum(min(part, size - (number - 1) * part) for number in stored))
    numbers = iter(number for number in range(1, -(-size // part) + 1) if number not in stored)

    async def worker() -> None:
        # Each takes the next part when it is done with one, so that a URL is as fresh as the part.
        for number in numbers:
            offset = (number - 1) * part
            sha256, length = await asyncio.to_thread(transfer.digest, source, offset, part)
            wanted = pb.UploadPart(number=number, sha256=sha256)
            signed = await store.data.SignUploadParts(
                pb.SignUploadPartsRequest(name=upload.name, parts=[wanted])
            )
            door = signed.parts[0]
            await transfer.upload_part(
                store.http, source, offset, length, door.url, door.headers, progress, upload.encryption_key
            )

    await gather(worker() for _ in range(PARTS_AT_ONCE))


async def _complete(store: Store, name: str) -> None:
    """Wait until what was put has been read back and checked, however long that takes."""
    request = pb.CompleteUploadRequest(name=name)
    while True:
        try:
            await store.data.CompleteUpload(request, timeout=UPLOAD_SECONDS)
        except Unavailable as error:
            if error.reason != "UPLOAD_VERIFYING":
                raise
            await asyncio.sleep(1)
        else:
            return


def check_path(path: str) -> None:
    """Refuse a path that would leave its folder.

    Raises:
        InvalidArgument
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        raise InvalidArgument.of("path", f"must be relative and without `..`, not {path!r}")


async def gather(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order. The first failure cancels the rest and is raised by itself."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise

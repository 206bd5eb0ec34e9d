"""Files to and from the object store, by presigned URL: hashed, bounded in number, checked at both ends."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from aios.client.connection import Connection, host_of, pages
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from aios.errors import DataLoss, InvalidArgument, Unavailable

PARALLEL = 8
"""Files under way at once: enough to fill a link with small ones, few enough to keep their buffers small."""
READ_BYTES = 1 << 20
ATTEMPTS_MAX = 4
RETRY_SECONDS = 0.25
UPLOAD_SECONDS = 120.0
"""For the service to read back and check one blob of up to 5 GiB."""


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


class _Meter:
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
        _check_path(path)
        if not file.is_file():
            raise InvalidArgument.of("source", f"{str(file)!r} is not a regular file")
    return dict(sorted(found.items()))


async def push(
    connection: Connection, source: Path | Mapping[str, Path], report: Report | None
) -> list[file_pb2.File]:
    """Store files, skipping content that the project already has."""
    found = await asyncio.to_thread(find, source)
    sizes = {path: file.stat().st_size for path, file in found.items()}
    meter = _Meter("hash", sizes.values(), report)
    gate = asyncio.Semaphore(min(PARALLEL, os.cpu_count() or 1))

    async def digest(path: str, file: Path) -> file_pb2.File:
        async with gate:
            sha256 = await asyncio.to_thread(_sha256, file)
            meter.add(sizes[path], 1)
            return file_pb2.File(path=path, sha256=sha256, size_bytes=sizes[path])

    files = await _all(digest(path, file) for path, file in found.items())
    distinct = {file.sha256: file for file in files}
    uploading = _Meter("upload", (file.size_bytes for file in distinct.values()), report)
    slots = asyncio.Semaphore(PARALLEL)

    async def upload(file: file_pb2.File) -> None:
        async with slots:
            await _put(connection, file, found[file.path])
            uploading.add(file.size_bytes, 1)

    await _all(upload(file) for file in distinct.values())
    return files


async def pull(connection: Connection, parent: str, destination: Path, report: Report | None) -> list[Path]:
    """Fetch the files of a version. Each appears whole and checked, or not at all."""
    stub = data_service_pb2_grpc.DataServiceStub(connection.channel)
    request = pb.ListDownloadsRequest(parent=parent)
    downloads = [each async for each in pages(stub.ListDownloads, request, "downloads")]
    meter = _Meter("download", (each.file.size_bytes for each in downloads), report)
    slots = asyncio.Semaphore(PARALLEL)

    async def get(download: pb.Download) -> Path:
        _check_path(download.file.path)
        target = destination / download.file.path
        async with slots:
            await _get(connection, download, target)
            meter.add(download.file.size_bytes, 1)
        return target

    return await _all(get(each) for each in downloads)


async def _put(connection: Connection, file: file_pb2.File, source: Path) -> None:
    stub = data_service_pb2_grpc.DataServiceStub(connection.channel)
    problem = ""
    for attempt in range(ATTEMPTS_MAX):
        # Each attempt asks for a fresh URL: the last one may have expired meanwhile.
        upload = await stub.BeginUpload(
            pb.BeginUploadRequest(parent=connection.project, sha256=file.sha256, size_bytes=file.size_bytes)
        )
        if upload.exists:
            return
        headers = {**upload.headers, "content-length": str(file.size_bytes)}
        try:
            response = await connection.http.put(upload.url, content=_read(source), headers=headers)
        except httpx.TransportError as error:
            problem = f"{host_of(upload.url)}: {str(error) or type(error).__name__}"
        else:
            # 412: somebody else has put the same content meanwhile. Completing checks it.
            if response.is_success or response.status_code == httpx.codes.PRECONDITION_FAILED:
                await stub.CompleteUpload(pb.CompleteUploadRequest(name=upload.name), timeout=UPLOAD_SECONDS)
                return
            problem = f"{host_of(upload.url)} answered HTTP {response.status_code}"
            if response.status_code < 500 and response.status_code != httpx.codes.FORBIDDEN:
                break
        await asyncio.sleep(RETRY_SECONDS * 2**attempt)
    raise Unavailable(f"Cannot upload {file.path}: {problem}.", reason="UPLOAD_FAILED", path=file.path)


async def _get(connection: Connection, download: pb.Download, target: Path) -> None:
    file, problem = download.file, ""
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS_MAX):
        descriptor, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as out:
                async with connection.http.stream("GET", download.url) as response:
                    if response.is_success:
                        async for chunk in response.aiter_bytes(READ_BYTES):
                            digest.update(chunk)
                            await asyncio.to_thread(out.write, chunk)
                    problem = f"{host_of(download.url)} answered HTTP {response.status_code}"
            if response.is_success:
                if digest.hexdigest() != file.sha256:
                    raise DataLoss(
                        f"{file.path} is not what was stored: its SHA-256 differs.", path=file.path
                    )
                Path(scratch).replace(target)
                return
            if response.status_code < 500:
                break
        except httpx.TransportError as error:
            problem = f"{host_of(download.url)}: {str(error) or type(error).__name__}"
        finally:
            Path(scratch).unlink(missing_ok=True)
        await asyncio.sleep(RETRY_SECONDS * 2**attempt)
    raise Unavailable(f"Cannot download {file.path}: {problem}.", reason="DOWNLOAD_FAILED", path=file.path)


async def _read(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, READ_BYTES):
            yield chunk


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_path(path: str) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        raise InvalidArgument.of("path", f"must be relative and without `..`, not {path!r}")


async def _all(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order. The first failure cancels the rest and is raised by itself."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise

"""Bytes between a disk and the object store, by presigned URL. They pass through no service.

Every byte is checked: what is sent was hashed before, what arrives is hashed on the way in.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import httpx

from aios import redact, seal, sse
from aios.errors import AiosError, DataLoss, FailedPrecondition, Unavailable

CHUNK_BYTES = 1 << 20
TIMEOUT = httpx.Timeout(30.0)  # for connecting and for each read or write, not for the whole file
TRIES = 4
PAUSE_SECONDS = 0.25  # before the second try; doubles each time

redact.hide_signatures()

Progress = Callable[[int], None]
"""Told the number of bytes moved since it was last told; negative when a try starts over."""


def client() -> httpx.AsyncClient:
    """An HTTP client for presigned URLs: no proxy or netrc of the environment, no redirects."""
    return httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, follow_redirects=False)


def digest(path: Path, offset: int = 0, size_max: int = sys.maxsize) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size in bytes of a file, or of a range of it, in bounded memory."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(min(CHUNK_BYTES, size_max - size)):
            sha256.update(chunk)
            size += len(chunk)
    return sha256.hexdigest(), size


async def upload(
    http: httpx.AsyncClient,
    path: Path,
    url: str,
    headers: Mapping[str, str],
    progress: Progress | None = None,
    key: bytes = b"",
) -> None:
    """PUT a file. What is there already (a try before this one got through) counts as sent.

    Args:
        key: What it is encrypted with on the way, if anything.

    Raises:
        FailedPrecondition: the store refused it; begin the upload again for a fresh URL.
        Unavailable: the store did not take it.
    """
    await upload_part(http, path, 0, path.stat().st_size, url, headers, progress, key)


async def upload_part(
    http: httpx.AsyncClient,
    path: Path,
    offset: int,
    size: int,
    url: str,
    headers: Mapping[str, str],
    progress: Progress | None = None,
    key: bytes = b"",
) -> None:
    """PUT a range of a file, as `upload` does the whole.

    Raises:
        FailedPrecondition, Unavailable
    """

    async def once(moved: Progress) -> None:
        answer = await http.put(
            url,
            content=_chunks(path, offset, size, moved, key),
            headers={**headers, "content-length": str(size)},
        )
        if answer.status_code not in (httpx.codes.PRECONDITION_FAILED, httpx.codes.CONFLICT):
            answer.raise_for_status()

    await _with_tries(once, path.name, progress)


async def download(
    http: httpx.AsyncClient,
    url: str,
    sha256: str,
    size: int,
    target: Path,
    progress: Progress | None = None,
    key: bytes = b"",
) -> None:
    """GET a file into `target`, which exists afterwards whole and right, or not at all.

    Args:
        key: What it is encrypted with in the store.

    Raises:
        DataLoss: the bytes are not those that were registered.
        FailedPrecondition: the store refused; ask for a fresh URL.
        Unavailable: the store did not deliver.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")

    async def once(moved: Progress) -> None:
        got, received, opened = hashlib.sha256(), 0, seal.cipher(key)
        # `identity`: a proxy that compressed would change the length, and a bomb would unpack here.
        wanted = {"accept-encoding": "identity", **sse.headers(key)}
        async with http.stream("GET", url, headers=wanted) as answer:
            answer.raise_for_status()
            with partial.open("wb") as out:
                async for chunk in answer.aiter_raw(CHUNK_BYTES):
                    received += len(chunk)
                    if received > size:
                        break
                    plain = opened(chunk)
                    got.update(plain)
                    out.write(plain)
                    moved(len(chunk))
        if received != size or got.hexdigest() != sha256:
            raise DataLoss(f"{target.name!r} is not the one registered: its size or SHA-256 differs.")

    try:
        await _with_tries(once, target.name, progress)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


async def read_range(
    http: httpx.AsyncClient, url: str, offset: int, size: int, name: str, key: bytes = b""
) -> bytes:
    """GET a range of an object, into memory. The caller checks what it holds.

    Raises:
        DataLoss: the object is shorter.
        FailedPrecondition: the store refused; ask for a fresh URL.
        Unavailable: the store did not deliver.
    """
    got = b""

    async def once(moved: Progress) -> None:
        nonlocal got
        wanted = {"accept-encoding": "identity", "range": f"bytes={offset}-{offset + size - 1}"}
        wanted |= sse.headers(key)
        answer = await http.get(url, headers=wanted)
        answer.raise_for_status()
        got = seal.cipher(key, offset)(answer.content)
        if len(got) != size:
            raise DataLoss(f"{name} is not the one registered: its size differs.")

    await _with_tries(once, name, None)
    return got


async def _chunks(path: Path, offset: int, size: int, moved: Progress, key: bytes) -> AsyncIterator[bytes]:
    closed = seal.cipher(key, offset)
    with path.open("rb") as file:
        file.seek(offset)
        while size and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, size))):
            yield closed(chunk)
            size -= len(chunk)
            moved(len(chunk))


async def _with_tries(
    once: Callable[[Progress], Awaitable[None]], name: str, progress: Progress | None
) -> None:
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        done = _Count(progress)
        try:
            await once(done)
        except httpx.TransportError as error:
            problem = type(error).__name__  # its message may carry the URL, which is a secret
        except httpx.HTTPStatusError as error:
            problem = f"HTTP {error.response.status_code}"
            if error.response.is_client_error:
                done.undo()
                raise FailedPrecondition(
                    f"The object store refused {name} ({problem}): ask for a fresh URL.", reason="URL_REFUSED"
                ) from None
        except AiosError:
            done.undo()
            raise
        else:
            return
        done.undo()
    raise Unavailable(f"{name} could not be moved to or from the object store: {problem}.")


class _Count:
    """Tells progress, and takes it back when a try failed."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bytes = 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        if self._progress is not None:
            self._progress(count)

    def undo(self) -> None:
        self(-self._bytes)

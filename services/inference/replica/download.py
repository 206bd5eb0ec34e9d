"""Fetch a model version's files from presigned URLs, checked against their digests."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import httpx

from aios.errors import DataLoss, InvalidArgument, Unavailable
from services.inference.replica.repository import artifact_path
from services.inference.replica.spec import Download

MODEL_BYTES_MAX = 64 << 30
"""Of all files together: more than any model that one machine serves, less than its disk."""

TRIES = 4
PAUSE_SECONDS = 0.25
"""Before the second try; doubles each time."""

TIMEOUT = httpx.Timeout(10.0)
"""For connecting and for each read, not for the whole file."""


async def fetch(downloads: Sequence[Download], into: Path) -> int:
    """Write the files below `into` and return their bytes. Either all are there and right, or it raises.

    Raises:
        DataLoss: The bytes are not those that were registered.
        Unavailable: The object store did not deliver.
    """
    total = sum(each.size_bytes for each in downloads)
    if total > MODEL_BYTES_MAX:
        raise InvalidArgument(
            f"the model version has {total} bytes; a replica takes {MODEL_BYTES_MAX} at most"
        )
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
        for each in downloads:
            await _with_retries(http, each, into / artifact_path(each.path))
    return total


async def _with_retries(http: httpx.AsyncClient, file: Download, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            return await _fetch_one(http, file, target)
        except httpx.TransportError as error:
            problem = type(error).__name__  # the message may carry the URL, which is a secret
        except httpx.HTTPStatusError as error:
            problem = f"HTTP {error.response.status_code}"
            if error.response.is_client_error:
                break
    raise Unavailable(f"model file {file.path!r} cannot be fetched: {problem}")


async def _fetch_one(http: httpx.AsyncClient, file: Download, target: Path) -> None:
    digest, received = hashlib.sha256(), 0
    # `identity`: a proxy that compressed would change the length, and a bomb would unpack here.
    async with http.stream("GET", file.url, headers={"accept-encoding": "identity"}) as answer:
        answer.raise_for_status()
        with target.open("wb") as out:
            async for chunk in answer.aiter_raw(1 << 20):
                received += len(chunk)
                if received > file.size_bytes:
                    break
                digest.update(chunk)
                out.write(chunk)
    if received != file.size_bytes or digest.hexdigest() != file.sha256:
        target.unlink()
        raise DataLoss(f"model file {file.path!r} is not the one registered: its size or SHA-256 differs")

"""Shards from the object store, the digest taken while the bytes come in."""

import base64
import errno
import hashlib
import http.client
import os
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from aios import redact, seal, sse
from aios.client.credentials import Credentials
from aios.errors import FailedPrecondition, Unavailable
from aios.train.shards import Shard

READ_BYTES = 1 << 20
redact.hide_signatures()
TIMEOUT_SECONDS = 30.0  # for connecting and for each read
TRIES = 5
PAUSE_SECONDS = 0.25  # before the second try; doubles each time
URL_SECONDS = 600.0  # of the quarter of an hour that a URL lasts: what begins then ends in it


class _Refused(Exception):
    """The store answers with something else than a shard."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpFetch:
    """Gets shards of one version. Threads and forked workers may share it.

    Args:
        version: Full name.
        urls: Of the shards by path, made a moment ago, and what each is encrypted with.
    """

    def __init__(self, credentials: Credentials, version: str, urls: Mapping[str, tuple[str, bytes]]) -> None:
        self._credentials = credentials
        self._version = version
        self._urls = {path: (*door, time.monotonic()) for path, door in urls.items()}
        self._lock = threading.Lock()
        self._clients: dict[int, httpx.Client] = {}

    def __call__(self, shard: Shard, target: Path) -> str:
        """Put a shard's file at a path, and say what digest it has.

        Raises:
            FailedPrecondition: the platform refuses.
            Unavailable: it does not answer.
        """
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                return self._get(*self._door(shard.path, fresh=attempt > 0), target)
            except (httpx.TransportError, http.client.HTTPException, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                problem = type(error).__name__  # its message may carry the URL, which is a secret
            except (httpx.HTTPStatusError, _Refused) as error:
                status = error.status if isinstance(error, _Refused) else error.response.status_code
                problem = f"HTTP {status}"
                if 400 <= status < 500 and attempt:
                    raise FailedPrecondition(
                        f"{shard.path} is refused ({problem}).", reason="URL_REFUSED"
                    ) from None
        raise Unavailable(f"{shard.path} could not be fetched: {problem}.")

    def _get(self, url: str, key: bytes, target: Path) -> str:
        # A connection for each shard, read in large pieces into one buffer: a fifth of what an HTTP client takes for it.
        door = urlsplit(url)
        connection = (
            http.client.HTTPSConnection(door.netloc, timeout=TIMEOUT_SECONDS, context=_tls())
            if door.scheme == "https"
            else http.client.HTTPConnection(door.netloc, timeout=TIMEOUT_SECONDS)
        )
        digest, opened, got = hashlib.sha256(), seal.cipher(key), 0
        room = memoryview(bytearray(READ_BYTES))
        with closing(connection), target.open("wb") as out:
            wanted = {"accept-encoding": "identity", **sse.headers(key)}
            connection.request("GET", f"{door.path}?{door.query}", headers=wanted)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise _Refused(answer.status)
            size = answer.length
            while count := answer.readinto(room):
                piece = opened(bytes(room[:count])) if seal.is_ours(key) else room[:count]
                digest.update(piece)
                out.write(piece)
                got += count
            if size is not None and got != size:
                raise http.client.IncompleteRead(b"", size - got)
        return digest.hexdigest()

    def _door(self, path: str, *, fresh: bool) -> tuple[str, bytes]:
        url, key, made = self._urls.get(path, ("", b"", 0.0))
        if url and not fresh and time.monotonic() - made < URL_SECONDS:
            return url, key
        # Over HTTP, since gRPC does not outlive the fork of a worker.
        answer = self._client().get(
            f"{self._credentials.address}/v1/{self._version}/downloads",
            params={"paths": path},
            headers={"authorization": f"Bearer {self._credentials.current_token()}"},
        )
        answer.raise_for_status()
        found = answer.json()["downloads"][0]
        url, key = str(found["url"]), base64.b64decode(found.get("encryptionKey", ""))
        self._urls[path] = url, key, time.monotonic()
        return url, key

    def _client(self) -> httpx.Client:
        with self._lock:
            process = os.getpid()
            if process not in self._clients:
                trusted = not self._credentials.on_this_machine
                self._clients = {
                    process: httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=trusted, verify=_tls())
                }
            return self._clients[process]


@cache
def _tls() -> ssl.SSLContext:
    """Loading the authorities takes longer than fetching a shard."""
    return ssl.create_default_context()

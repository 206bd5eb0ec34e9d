"""One bucket of an S3 server, as the platform uses it."""

import asyncio
import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from aios import seal, sse
from aios.blobs import multipart
from aios.blobs.barrier import Barrier
from aios.blobs.errors import BlobChanged, BlobMissing, ObjectStoreUnavailable, ObjectStoreUnfit
from aios.blobs.keyring import Keyring, not_empty, project_of
from aios.blobs.presign import Credentials, Presigned, presign
from aios.config import Settings
from aios.runtime.clock import Clock, SystemClock
from aios.runtime.context import current_call

URL_LIFETIME = timedelta(minutes=15)
"""Of a presigned URL: a 5 GiB blob at 6 MB/s still begins and ends in it."""
THREADS = 8  # as many requests at once; each hash takes a core, so more would only queue elsewhere
READ_BYTES = 256 * 1024  # held per blob while it is hashed
SMALL_BYTES_MAX = 16 * 1024 * 1024  # what `get` takes into memory: manifests, never data
START_SECONDS = 30.0  # a server that starts beside us is ready long before

T = TypeVar("T")
_log = logging.getLogger(__name__)
_TRANSPORT_ERRORS = (urllib3.exceptions.HTTPError, ServerError, InvalidResponseError, OSError)


@dataclass(frozen=True)
class Entry:
    """An object as the server lists it."""

    key: str
    size_bytes: int
    etag: str
    """Changes when the object does."""
    modify_time: datetime


@dataclass(frozen=True)
class Content:
    """What an object holds, read to its end."""

    sha256: str
    size_bytes: int
    etag: str
    """Of the very bytes that were read."""


class Blobs:
    """Async face of the S3 SDK, which is synchronous: each call runs in one of a few threads.

    Make it with `open`. A server that does not answer is ObjectStoreUnavailable everywhere.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        assert settings.s3_credentials_file is not None
        self._credentials = Credentials.load(settings.s3_credentials_file)
        self._endpoint = settings.s3_endpoint
        self._public_endpoint = settings.s3_public_endpoint or settings.s3_endpoint
        self._region, self._bucket = settings.s3_region, settings.s3_bucket
        self._clock = clock or SystemClock()
        self._http = urllib3.PoolManager(
            maxsize=THREADS,
            timeout=urllib3.Timeout(connect=5, read=60),
            retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        )
        address = urlsplit(self._endpoint)
        self._s3 = Minio(
            address.netloc,
            self._credentials.access_key,
            self._credentials.secret_key,
            secure=address.scheme == "https",
            region=self._region,
            http_client=self._http,
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")
        self._barrier = Barrier(settings.s3_directory)
        self._ring = Keyring(
            settings.secret("data.key"),
            self._read_plain,
            self._put_plain,
            self._is_empty,
            self.store_encrypts,
            settings.encrypt_data,
        )

    @classmethod
    async def open(cls, settings: Settings, clock: Clock | None = None) -> Self:
        """Wait for the server, make the bucket, and check that a conditional PUT holds.

        Raises:
            ObjectStoreUnavailable: no answer within START_SECONDS.
            ObjectStoreUnfit: the server ignores `If-None-Match`.
        """
        blobs = cls(settings, clock)
        try:
            await blobs._wait_for_bucket()
            await blobs._probe()
        except BaseException:
            await blobs.close()
            raise
        return blobs

    async def close(self) -> None:
        """Wait for the calls under way, then let go of the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        self._http.clear()

    async def ready(self, project: str, *, write: bool = False) -> None:
        """Learn how a project is encrypted, ahead of requests that are presigned; decide it where one is to write.

        Raises:
            MasterKeyMissing
        """
        await self._call(lambda: self._ring.settle(project) if write else self._ring.load(project))

    async def encrypt(self, project: str) -> None:
        """Have everything of a project that holds nothing encrypted from now on.

        Raises:
            DataEncrypted: it holds something.
            MasterKeyMissing
        """
        if not await self._call(lambda: self._ring.settle(project, encrypt=True)):
            raise not_empty(project)

    def presigned_put(self, key: str, sha256: str, size_bytes: int) -> Presigned:
        """A request that stores exactly this content under `key`, once. The project is `ready`.

        Length and checksum are signed. A server may still ignore the checksum: hash what arrived before you trust it.
        """
        headers = {
            "Content-Length": str(size_bytes),
            "If-None-Match": "*",
            **self._sealing(key, sha256),
        }
        return self._presign(self._endpoint_of_caller(), "PUT", key, headers)

    def presigned_get(self, key: str) -> Presigned:
        """A request that reads `key`, whose project is `ready`. Whether it exists is not looked up."""
        return self._presign(self._endpoint_of_caller(), "GET", key, sse.headers(self._ring.key_of(key)))

    def key_of(self, key: str) -> bytes:
        """What an object is encrypted with, for whoever may read it; empty for one that is not."""
        return self._ring.key_of(key) or b""

    def sealing_key(self, key: str) -> bytes:
        """What an object is to be encrypted with by who puts it; empty where the store does it, or nobody."""
        found = self._ring.key_of(key)
        return found if found and seal.is_ours(found) else b""

    def _endpoint_of_caller(self) -> str:
        """Jobs run where the services do, and reach the store as they do; people may reach it by another address."""
        call = current_call.get()
        inside = call is not None and call.principal is not None and call.principal.role == "worker"
        return self._endpoint if inside else self._public_endpoint

    async def stat(self, key: str) -> Entry | None:
        """What is stored under `key`; None where nothing is."""
        try:
            return await self._call(lambda: self._stat(key))
        except BlobMissing:
            return None

    async def read_digest(self, key: str) -> Content:
        """Hash an object as it streams, READ_BYTES at a time.

        Raises:
            BlobMissing: nothing is stored there.
        """
        return await self._call(lambda: self._read_digest(key))

    async def get(self, key: str, bytes_max: int = SMALL_BYTES_MAX) -> bytes:
        """A small object's bytes.

        Raises:
            BlobMissing: nothing is stored there.
            ValueError: it is larger than `bytes_max`.
        """
        return await self._call(lambda: self._get(key, bytes_max))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store a small object unless the key has one. False when it has: after a lost answer that may be ours.

        Either way, what is stored there is on disk.
        """

        def put() -> bool:
            self._settle(key)
            stored = self._put_if_absent(key, self._ring.close(key, data), self._ring.key_of(key))
            self._barrier.sync()
            return stored

        return await self._call(put)

    async def copy(self, source: str, target: str, etag: str) -> None:
        """Copy inside the server, to disk, if `source` is still the object with this etag. Overwrites `target`.

        Raises:
            BlobMissing, BlobChanged: the source is gone, or is another.
        """

        def copy() -> None:
            self._settle(target)
            self._copy(source, target, etag)
            self._barrier.sync()

        await self._call(copy)

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        await self._call(lambda: self._s3.remove_object(self._bucket, key))

    async def entries(self, prefix: str, limit: int | None = None) -> list[Entry]:
        """The first objects below a prefix, or all of them, in key order."""
        return await self._call(lambda: list(islice(self._entries(prefix), limit)))

    async def folders(self, prefix: str) -> list[str]:
        """The next segments of the keys below a prefix that ends with `/`."""
        return await self._call(lambda: self._folders(prefix))

    async def begin_multipart(self, key: str) -> str:
        """Begin an upload in parts. Returns the server's name of it."""

        def begin() -> str:
            self._settle(key)
            return multipart.begin(self._http, self._sign, key, sse.headers(self._ring.key_of(key)))

        return await self._call(begin)

    def presigned_part(self, key: str, upload: str, number: int, sha256: str, size_bytes: int) -> Presigned:
        """A request that stores exactly this content as one part. It may be sent again. The project is `ready`."""
        headers = {"Content-Length": str(size_bytes), **self._sealing(key, sha256)}
        parameters = {"partNumber": str(number), "uploadId": upload}
        return self._presign(self._endpoint_of_caller(), "PUT", key, headers, parameters)

    async def parts(self, key: str, upload: str) -> list[multipart.PartEntry]:
        """What is there of an upload in parts, by number.

        Raises:
            BlobMissing: there is no such upload.
        """
        return await self._call(lambda: multipart.parts(self._http, self._sign, key, upload))

    async def complete_multipart(self, key: str, upload: str, parts: Sequence[multipart.PartEntry]) -> None:
        """Make parts one object, on disk.

        Raises:
            BlobMissing: there is no such upload.
        """

        def complete() -> None:
            multipart.complete(self._http, self._sign, key, upload, parts)
            self._barrier.sync()

        await self._call(complete)

    async def abort_multipart(self, key: str, upload: str) -> None:
        """Throw an upload in parts away; one that is not there is no error."""
        await self._call(lambda: multipart.abort(self._http, self._sign, key, upload))

    def _stat(self, key: str) -> Entry:
        found = self._s3.stat_object(self._bucket, key, extra_headers=dict(self._opening(key)))
        assert found.size is not None
        assert found.last_modified is not None
        return Entry(key, found.size, found.etag or "", found.last_modified)

    def _read_digest(self, key: str) -> Content:
        response = self._s3.get_object(self._bucket, key, request_headers=dict(self._opening(key)))
        try:
            digest, size, opened = hashlib.sha256(), 0, seal.cipher(self._ring.key_of(key))
            for piece in response.stream(READ_BYTES, decode_content=False):
                digest.update(opened(piece))
                size += len(piece)
            return Content(digest.hexdigest(), size, response.headers.get("etag", "").strip('"'))
        finally:
            response.close()
            response.release_conn()

    def _get(self, key: str, bytes_max: int) -> bytes:
        response = self._s3.get_object(self._bucket, key, request_headers=dict(self._opening(key)))
        try:
            data = response.read(bytes_max + 1)
        finally:
            response.close()
            response.release_conn()
        if len(data) > bytes_max:
            raise ValueError(f"{key} is larger than {bytes_max} bytes")
        return self._ring.open(key, data)

    def _copy(self, source: str, target: str, etag: str) -> None:
        # The SDK names keys on connections with TLS alone; a store beside us has none.
        headers = {
            "x-amz-copy-source": quote(f"/{self._bucket}/{source}"),
            "x-amz-copy-source-if-match": f'"{etag}"',
            **sse.headers(self._ring.key_of(source), sse.SOURCE_PREFIX),
            **sse.headers(self._ring.key_of(target)),
        }
        request = self._presign(self._endpoint, "PUT", target, headers)
        response = self._http.request("PUT", request.url, headers=dict(request.headers))
        # The status is sent before the work is done: an error may come behind it.
        if response.status == 412:
            raise BlobChanged(f"{source} changed meanwhile: read it again.", key=source)
        if response.status == 404:
            raise BlobMissing(f"Nothing is stored under {source}.", key=source)
        if response.status != 200 or b"<Error>" in response.data:
            raise ObjectStoreUnavailable(
                f"The object store refused a copy: HTTP {response.status}.", key=source
            )

    def _opening(self, key: str) -> Mapping[str, str]:
        """What a request that reads an object sends."""
        project = project_of(key)
        if project is not None:
            self._ring.load(project)
        return sse.headers(self._ring.key_of(key))

    def _settle(self, key: str) -> None:
        project = project_of(key)
        if project is not None:
            self._ring.settle(project)

    def _sealing(self, key: str, sha256: str) -> Mapping[str, str]:
        """What a request that writes content with this digest sends."""
        if not self._ring.is_settled(key):
            raise RuntimeError(f"{key} is written before its project is ready")
        if self.sealing_key(key):
            return {}  # the digest of what travels is not that of the content
        return {"x-amz-checksum-sha256": _checksum(sha256), **sse.headers(self._ring.key_of(key))}

    def _read_plain(self, key: str) -> bytes | None:
        try:
            return self._get(key, SMALL_BYTES_MAX)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None

    def _put_plain(self, key: str, data: bytes) -> bool:
        stored = self._put_if_absent(key, data)
        self._barrier.sync()
        return stored

    def _is_empty(self, project: str) -> bool:
        prefixes = (f"projects/{project}/", f"staging/{project}/")
        return all(next(iter(self._entries(prefix)), None) is None for prefix in prefixes)

    def _put_if_absent(self, key: str, data: bytes, sealed: bytes | None = None) -> bool:
        # The SDK has no conditional write; a request presigned for ourselves is one.
        request = presign(
            "PUT",
            self._endpoint,
            f"/{self._bucket}/{key}",
            credentials=self._credentials,
            region=self._region,
            now=self._clock.now(),
            lifetime=URL_LIFETIME,
            headers={"If-None-Match": "*", **sse.headers(sealed)},
        )
        response = self._http.request("PUT", request.url, body=data, headers=dict(request.headers))
        # 409: another conditional PUT of the key is under way, so a retry decides; 412: the key has an object.
        if response.status == 412:
            return False
        if response.status == 409:
            raise BlobChanged(f"{key} is being written by somebody else: try again", key=key)
        if response.status not in (200, 201):
            raise ObjectStoreUnavailable(
                f"The object store refused a conditional PUT: HTTP {response.status}.", key=key
            )
        return True

    def _entries(self, prefix: str) -> Iterable[Entry]:
        for found in self._s3.list_objects(self._bucket, prefix=prefix, recursive=True):
            if found.object_name and found.last_modified:
                yield Entry(found.object_name, found.size or 0, found.etag or "", found.last_modified)

    def _folders(self, prefix: str) -> list[str]:
        found = self._s3.list_objects(self._bucket, prefix=prefix)
        names = [each.object_name for each in found if each.object_name and each.is_dir]
        return [name.removeprefix(prefix).rstrip("/") for name in names]

    def _sign(
        self, method: str, key: str, parameters: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Presigned:
        return self._presign(self._endpoint, method, key, headers, parameters)

    def _presign(
        self,
        endpoint: str,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> Presigned:
        return presign(
            method,
            endpoint,
            f"/{self._bucket}/{key}",
            credentials=self._credentials,
            region=self._region,
            now=self._clock.now(),
            lifetime=URL_LIFETIME,
            headers=headers,
            parameters=parameters,
        )

    async def _call(self, fn: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, fn)
        except S3Error as error:
            raise _translated(error) from error
        except _TRANSPORT_ERRORS as error:
            # The text of a transport error may hold a presigned URL: say what happened, not where.
            raise ObjectStoreUnavailable(
                f"The object store does not answer ({type(error).__name__}): try again.",
                retry_after=timedelta(seconds=1),
            ) from error

    async def _wait_for_bucket(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await self._call(self._make_bucket)
                return
            except ObjectStoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                _log.info("waiting for the object store")
                await asyncio.sleep(0.2)

    def _make_bucket(self) -> None:
        if not self._s3.bucket_exists(self._bucket):
            try:
                self._s3.make_bucket(self._bucket, self._region)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    async def _probe(self) -> None:
        key = f"probe/{secrets.token_hex(8)}"
        try:
            first, second = await self.put_if_absent(key, b"1"), await self.put_if_absent(key, b"2")
        finally:
            await self.delete(key)
        if (first, second) != (True, False):
            raise ObjectStoreUnfit(
                f"The object store at {self._endpoint} ignores `If-None-Match: *` on PUT, so two writers could both "
                "win. Use a server that honours conditional writes: SeaweedFS 4, MinIO of 2024 or newer, Amazon S3.",
                endpoint=self._endpoint,
            )

    def store_encrypts(self) -> bool:
        """Try whether the server encrypts by a key that it is handed, and asks for it again (SSE-C)."""
        key, secret = f"probe/{secrets.token_hex(8)}", secrets.token_bytes(sse.KEY_BYTES)

        def ask(method: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, bytes]:
            request = self._presign(self._endpoint, method, key, headers)
            answer = self._http.request(method, request.url, body=body, headers=dict(request.headers))
            return answer.status, answer.data

        try:
            stored, _ = ask("PUT", sse.headers(secret), b"1")
            return (
                stored == 200
                and ask("GET", sse.headers(secret)) == (200, b"1")
                and ask("GET", {})[0] in (400, 403)
            )
        finally:
            self._s3.remove_object(self._bucket, key)


def _checksum(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _translated(error: S3Error) -> Exception:
    key = error.object_name or ""
    match error.code:
        case "NoSuchKey" | "NoSuchBucket" | "NoSuchObject":
            return BlobMissing(f"Nothing is stored under {key}.", key=key)
        case "PreconditionFailed":
            return BlobChanged(f"{key} changed meanwhile: read it again.", key=key)
        case code:
            return ObjectStoreUnavailable(f"The object store refused: {code}.", key=key, s3_code=code or "")

"""How content comes in: put by its owner into staging, read back and hashed here, and only then usable.

A crash between any two steps leaves nothing visible: bytes count only with their row, a version only with its
manifest in the bucket and its row, and each step can be repeated.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from weakref import WeakValueDictionary

from aios.blobs import BlobMissing, Blobs, Presigned
from aios.blobs.blobs import URL_LIFETIME
from aios.names import UploadName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.data import blob_store, layout
from services.data.manifests import check_sha256
from services.data.uploads import (
    KEPT_FOR,
    MULTIPART_KEPT_FOR,
    SizeDiffers,
    Upload,
    UploadCorrupt,
    UploadMissing,
    UploadNotFound,
    UploadVerifying,
    check_content,
    check_parts,
    part_bytes,
    part_count,
)

VERIFY_WAIT_SECONDS = (
    20.0  # below the server's limit for one call; a blob of 5 GiB takes longer on a slow disk
)
REAP_SECONDS = 30.0  # so that a blob is gone within a minute of its grace's end
REAP_AT_ONCE = 500
COLLECTED_AT_ONCE = 8  # as many requests as the object store gets at once
GRACE = timedelta(days=1)
"""How long a blob that nothing needs is kept: longer than any push takes, and a day to notice a mistake."""

_log = logging.getLogger(__name__)


class Ingest:
    """Uploads of one service. `close` it before the database and the bucket."""

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        clock: Clock,
        verify_wait_seconds: float = VERIFY_WAIT_SECONDS,
        grace: timedelta = GRACE,
    ) -> None:
        self._db = db
        self._grace = grace
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._blobs = blobs
        self._clock = clock
        self._verify_wait_seconds = verify_wait_seconds
        self._verifying: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop reading; the uploads can be completed later."""
        tasks = list(self._verifying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def begin(self, project: str, sha256: str, size_bytes: int) -> "Begun":
        """Where to put content, if the project does not have it already.

        Raises:
            SizeDiffers: it has it with another size.
        """
        now = self._clock.now()

        def known(tx: Tx) -> tuple[int | None, Upload | None]:
            return blob_store.blob_size(tx, project, sha256), blob_store.upload(tx, project, sha256)

        size, earlier = await self._db.read(known)
        if size is not None:
            if size != size_bytes:
                raise SizeDiffers(
                    f"The content with SHA-256 {sha256} has {size} bytes, not {size_bytes}.",
                    fields={"size_bytes": f"must be {size} for this sha256"},
                    size_bytes=str(size),
                )
            await self._db.write(lambda tx: blob_store.touch_blob(tx, project, sha256, now))
            return Begun(Upload(project, sha256, size_bytes, now), exists=True)
        if part_bytes(size_bytes):
            return await self._begin_parts(project, sha256, size_bytes, earlier)
        upload = Upload(project, sha256, size_bytes, now)
        await self._blobs.ready(project, write=True)
        await self._db.write(lambda tx: blob_store.begin_upload(tx, upload))
        return Begun(upload, self._blobs.presigned_put(layout.staging(project, sha256), sha256, size_bytes))

    async def _begin_parts(
        self, project: str, sha256: str, size_bytes: int, earlier: Upload | None
    ) -> "Begun":
        key = layout.blob(project, sha256)
        multipart, stored = "", list[int]()
        if earlier is not None and earlier.multipart and earlier.size_bytes == size_bytes:
            try:
                stored = [part.number for part in await self._blobs.parts(key, earlier.multipart)]
                multipart = earlier.multipart
            except BlobMissing:
                _log.info("the object store has lost the parts of %s", earlier.name)
        if not multipart:
            multipart = await self._blobs.begin_multipart(key)
        upload = Upload(project, sha256, size_bytes, self._clock.now(), multipart)
        await self._db.write(lambda tx: blob_store.begin_upload(tx, upload))
        return Begun(upload, stored=stored)

    async def sign_parts(self, name: UploadName, parts: Mapping[int, str]) -> list[Presigned]:
        """Where to put parts, by number and digest of each.

        Raises:
            UploadNotFound, PartsInvalid
        """
        upload = await self._db.read(lambda tx: blob_store.upload(tx, name.project, name.upload))
        if upload is None or not upload.multipart:
            raise UploadNotFound(
                f"{name} has not begun in parts, or was forgotten: begin it.", name=str(name)
            )
        check_parts(upload, parts)
        await self._blobs.ready(name.project, write=True)
        key = layout.blob(name.project, name.upload)
        return [
            self._blobs.presigned_part(key, upload.multipart, number, sha256, upload.part_size(number))
            for number, sha256 in parts.items()
        ]

    async def complete(self, name: UploadName) -> None:
        """Read back what was put and make it usable. Calls for the same upload share the work.

        Raises:
            UploadNotFound, UploadMissing, UploadCorrupt
            UploadVerifying: it takes longer than one call may. It goes on: call again.
        """
        check_sha256(name.upload, "name")
        task = self._verifying.get(str(name))
        if task is None:
            task = asyncio.create_task(self._verify(name.project, name.upload), name=f"verify {name}")
            self._verifying[str(name)] = task
            task.add_done_callback(lambda done: self._verified(str(name), done))
        done, _ = await asyncio.wait([task], timeout=self._verify_wait_seconds)
        if not done:
            raise UploadVerifying(
                f"{name} is still being read back: call again.",
                retry_after=timedelta(seconds=1),
                name=str(name),
            )
        task.result()

    async def reap(self) -> None:
        """Forget what nobody completed and delete what nothing needs. Runs until cancelled."""
        while True:
            await self.reap_once()
            await self.collect_once()
            await asyncio.sleep(REAP_SECONDS)

    async def reap_once(self) -> None:
        """Forget uploads that nobody completed, and delete what was put for them."""
        now = self._clock.now()
        stale_from, parts_from = now - KEPT_FOR, now - MULTIPART_KEPT_FOR
        for upload in await self._db.read(lambda tx: blob_store.uploads_before(tx, stale_from, REAP_AT_ONCE)):
            project, sha256 = upload.project, upload.sha256
            before = parts_from if upload.multipart else stale_from
            if await self._db.write(
                lambda tx, project=project, sha256=sha256, before=before: blob_store.forget_upload(  # type: ignore[misc]
                    tx, project, sha256, before
                )
            ):
                if upload.multipart:
                    await self._blobs.abort_multipart(layout.blob(project, sha256), upload.multipart)
                else:
                    await self._blobs.delete(layout.staging(project, sha256))
                _log.info("forgot the unfinished upload %s", upload.name)
        # A PUT that was under way when its upload was forgotten, or a crash after a commit, leaves an object alone.
        for entry in await self._blobs.entries(layout.STAGING, REAP_AT_ONCE):
            if entry.modify_time < stale_from - URL_LIFETIME:
                project, sha256 = layout.staged(entry.key)
                if (
                    await self._db.read(
                        lambda tx, project=project, sha256=sha256: blob_store.upload(tx, project, sha256)  # type: ignore[misc]
                    )
                    is None
                ):
                    await self._blobs.delete(entry.key)

    async def collect_once(self) -> None:
        """Delete all blobs that no version has needed for as long as the grace."""
        before = self._clock.now() - self._grace
        slots = asyncio.Semaphore(COLLECTED_AT_ONCE)

        async def collect(project: str, sha256: str) -> None:
            # The same content may be on its way in again: its check waits until the old object is gone.
            async with slots, self._lock(project, sha256):
                if await self._db.write(lambda tx: blob_store.forget_blob(tx, project, sha256, before)):
                    await self._blobs.delete(layout.blob(project, sha256))

        while found := await self._db.read(lambda tx: blob_store.unpinned_before(tx, before, REAP_AT_ONCE)):
            await asyncio.gather(*(collect(project, sha256) for project, sha256 in found))

    def _lock(self, project: str, sha256: str) -> asyncio.Lock:
        return self._locks.setdefault(f"{project}/{sha256}", asyncio.Lock())

    def _verified(self, name: str, done: asyncio.Task[None]) -> None:
        del self._verifying[name]
        if not done.cancelled() and done.exception() is not None:
            _log.info("%s was refused: %s", name, done.exception())  # its callers may have left

    async def _verify(self, project: str, sha256: str) -> None:
        async with self._lock(project, sha256):
            found, upload = await self._db.read(
                lambda tx: (
                    blob_store.blob_size(tx, project, sha256),
                    blob_store.upload(tx, project, sha256),
                )
            )
            if found is not None:
                return
            if upload is None:
                name = UploadName(project, sha256)
                raise UploadNotFound(f"{name} has not begun, or was forgotten: begin it.", name=str(name))
            await (self._verify_parts(upload) if upload.multipart else self._verify_whole(upload))
            await self._db.write(lambda tx: blob_store.commit_blob(tx, upload, self._clock.now()))
            if not upload.multipart:
                await self._blobs.delete(layout.staging(project, sha256))

    async def _verify_whole(self, upload: Upload) -> None:
        staged = layout.staging(upload.project, upload.sha256)
        try:
            content = await self._blobs.read_digest(staged)
        except BlobMissing:
            raise _missing(upload) from None
        try:
            check_content(upload, content.sha256, content.size_bytes)
        except UploadCorrupt:
            # The door of the URL closes once something lies behind it: open it for the right bytes.
            await self._blobs.delete(staged)
            raise
        # The etag holds the copy to the very bytes that were hashed, whatever else is put meanwhile.
        await self._blobs.copy(staged, layout.blob(upload.project, upload.sha256), content.etag)

    async def _verify_parts(self, upload: Upload) -> None:
        # In place: a server copies at most 5 GiB at once. An object counts with its row alone, and no URL leads here
        # once the upload is complete.
        key = layout.blob(upload.project, upload.sha256)
        try:
            parts = await self._blobs.parts(key, upload.multipart)
        except BlobMissing:
            parts = []  # a crash after the completion, or the object store has lost them
        whole = part_count(upload.size_bytes)
        if [(part.number, part.size_bytes) for part in parts] == [
            (number, upload.part_size(number)) for number in range(1, whole + 1)
        ]:
            await self._blobs.complete_multipart(key, upload.multipart, parts)
        elif parts:
            raise _missing(upload, f"{whole - len(parts)} of its {whole} parts are missing")
        try:
            content = await self._blobs.read_digest(key)
        except BlobMissing:
            raise _missing(upload) from None
        try:
            check_content(upload, content.sha256, content.size_bytes)
        except UploadCorrupt:
            await self._blobs.delete(key)
            fresh = replace(upload, multipart=await self._blobs.begin_multipart(key))
            await self._db.write(lambda tx: blob_store.begin_upload(tx, fresh))
            raise


@dataclass(frozen=True)
class Begun:
    """An upload, and the door to it."""

    upload: Upload
    door: Presigned | None = None
    """None for content that travels in parts, and for content that is there."""
    stored: Sequence[int] = ()
    """Numbers of the parts that are there."""
    exists: bool = False


def _missing(upload: Upload, what: str = "Nothing was put") -> UploadMissing:
    return UploadMissing(f"{upload.name}: {what}. PUT the bytes, then complete.", name=str(upload.name))

"""How content comes in: put by its owner into staging, read back and hashed here, and only then usable.

A crash between any two steps leaves nothing visible: bytes count only with their row, a version only with its
manifest in the bucket and its row, and each step can be repeated.
"""

import asyncio
import logging
from datetime import timedelta

from aios.blobs import BlobMissing, Blobs, Presigned
from aios.blobs.blobs import URL_LIFETIME
from aios.names import UploadName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.data import layout, store
from services.data.manifests import Manifest, check_sha256
from services.data.uploads import (
    KEPT_FOR,
    SizeDiffers,
    Upload,
    UploadCorrupt,
    UploadMissing,
    UploadNotFound,
    UploadVerifying,
    check_content,
)

VERIFY_WAIT_SECONDS = (
    20.0  # below the server's limit for one call; a blob of 5 GiB takes longer on a slow disk
)
REAP_SECONDS = 60.0
REAP_AT_ONCE = 500

_log = logging.getLogger(__name__)


class Ingest:
    """Uploads of one service. `close` it before the database and the bucket."""

    def __init__(
        self, db: Database, blobs: Blobs, clock: Clock, verify_wait_seconds: float = VERIFY_WAIT_SECONDS
    ) -> None:
        self._db = db
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

    async def begin(self, project: str, sha256: str, size_bytes: int) -> tuple[Upload, Presigned | None]:
        """Where to put content; None when the project has it already.

        Raises:
            SizeDiffers: it has it with another size.
        """
        upload = Upload(project, sha256, size_bytes, self._clock.now())

        def write(tx: Tx) -> int | None:
            size = store.blob_size(tx, project, sha256)
            if size is None:
                store.begin_upload(tx, upload)
            return size

        size = await self._db.read(lambda tx: store.blob_size(tx, project, sha256))
        if size is None:
            size = await self._db.write(write)
        if size is None:
            return upload, self._blobs.presigned_put(layout.staging(project, sha256), sha256, size_bytes)
        if size != size_bytes:
            raise SizeDiffers(
                f"The content with SHA-256 {sha256} has {size} bytes, not {size_bytes}.",
                fields={"size_bytes": f"must be {size} for this sha256"},
                size_bytes=str(size),
            )
        return upload, None

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

    async def publish(self, project: str, manifest: Manifest) -> None:
        """Put a manifest into the bucket, ahead of the row that makes it visible.

        Raises:
            BlobsMissing: naming the files whose content is not there.
        """
        await self._db.read(lambda tx: store.require_blobs(tx, project, manifest))
        await self._blobs.put_if_absent(layout.manifest(project, manifest.sha256), manifest.encoded)

    async def reap(self) -> None:
        """Forget what nobody completed, and delete what was put for it. Runs until cancelled."""
        while True:
            await self.reap_once()
            await asyncio.sleep(REAP_SECONDS)

    async def reap_once(self) -> None:
        """One round of `reap`."""
        stale_from = self._clock.now() - KEPT_FOR
        for upload in await self._db.read(lambda tx: store.uploads_before(tx, stale_from, REAP_AT_ONCE)):
            project, sha256 = upload.project, upload.sha256
            if await self._db.write(
                lambda tx, project=project, sha256=sha256: store.forget_upload(
                    tx, project, sha256, stale_from
                )  # type: ignore[misc]
            ):
                await self._blobs.delete(layout.staging(project, sha256))
                _log.info("forgot the unfinished upload %s", upload.name)
        # A PUT that was under way when its upload was forgotten, or a crash after a commit, leaves an object alone.
        for entry in await self._blobs.entries(layout.STAGING, REAP_AT_ONCE):
            if entry.modify_time < stale_from - URL_LIFETIME:
                project, sha256 = layout.staged(entry.key)
                if (
                    await self._db.read(
                        lambda tx, project=project, sha256=sha256: store.upload(tx, project, sha256)  # type: ignore[misc]
                    )
                    is None
                ):
                    await self._blobs.delete(entry.key)

    def _verified(self, name: str, done: asyncio.Task[None]) -> None:
        del self._verifying[name]
        if not done.cancelled() and done.exception() is not None:
            _log.info("%s was refused: %s", name, done.exception())  # its callers may have left

    async def _verify(self, project: str, sha256: str) -> None:
        found, upload = await self._db.read(
            lambda tx: (store.blob_size(tx, project, sha256), store.upload(tx, project, sha256))
        )
        if found is not None:
            return
        if upload is None:
            name = UploadName(project, sha256)
            raise UploadNotFound(f"{name} has not begun, or was forgotten: begin it.", name=str(name))
        staged = layout.staging(project, sha256)
        try:
            content = await self._blobs.read_digest(staged)
        except BlobMissing:
            raise UploadMissing(
                f"Nothing was put for {upload.name}: PUT the bytes, then complete.", name=str(upload.name)
            ) from None
        try:
            check_content(upload, content.sha256, content.size_bytes)
        except UploadCorrupt:
            # The door of the URL closes once something lies behind it: open it for the right bytes.
            await self._blobs.delete(staged)
            raise
        # The etag holds the copy to the very bytes that were hashed, whatever else is put meanwhile.
        await self._blobs.copy(staged, layout.blob(project, sha256), content.etag)
        await self._db.write(lambda tx: store.commit_blob(tx, upload, self._clock.now()))
        await self._blobs.delete(staged)

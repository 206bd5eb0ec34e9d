"""One service's database: the only way to its rows."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Connection, MetaData, delete, select
from sqlalchemy.exc import SQLAlchemyError

from aios.config import Settings
from aios.errors import ResourceExhausted
from aios.records import dialect, feed, idempotency, migrations, tables
from aios.records.tx import Tx
from aios.runtime.clock import Clock, SystemClock

T = TypeVar("T")
M = TypeVar("M", bound=Message)

log = logging.getLogger(__name__)

# About a second of work for one disk; more would only make every caller wait past its deadline.
WRITES_QUEUED_MAX = 2_000
# One fsync for all that arrived during the last one. Bounded so that the first of a group is not kept waiting.
GROUP_WRITES_MAX = 128
GROUP_SECONDS_MAX = 0.02
# Longer than JetStream redelivers anything.
INBOX_KEPT_FOR = timedelta(days=7)
HOUSEKEEPING_SECONDS = 300.0


@dataclass
class _Write:
    fn: Callable[[Tx], Any]
    context: Context
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = field(default=None)


class Database:
    """Transactions on one service's records. Make it with `open`, on the event loop that will use it.

    Functions passed to `read` and `write` are plain functions that run in a thread, in the caller's context: no await
    inside a transaction, and nothing that waits for another process.
    """

    def __init__(self, service: str, engines: dialect.Engines, clock: Clock) -> None:
        self.service = service
        self.revision = 0
        """Newest committed revision of the events log."""
        self._engines = engines
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._writes: queue.Queue[_Write | None] = queue.Queue(WRITES_QUEUED_MAX)
        self._writer = threading.Thread(target=self._run_writer, name=f"{service}-records-writer", daemon=True)
        self._readers = ThreadPoolExecutor(dialect.READERS, thread_name_prefix=f"{service}-records-reader")
        self._housekeeping: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, settings: Settings, service: str, metadata: MetaData, migrations_dir: Path, clock: Clock | None = None
    ) -> Self:
        """Take sole ownership of a service's records and bring their schema up to date.

        Args:
            service: The domain it owns: `scheduler`, `data`, `trainer`, `inference`, `identity`. Names the file or
                schema, and the events.
            metadata: The service's tables, with `add_to(metadata)` called.
            migrations_dir: Folder that holds `versions/`.

        Raises:
            FailedPrecondition: Another process owns the records, or a newer release wrote them.
        """
        missing = {"events", "feed"} - set(metadata.tables)
        if missing:
            raise ValueError(f"metadata of {service} lacks {sorted(missing)}: call records.add_to(metadata)")
        engines = await asyncio.to_thread(dialect.open_engines, settings, service)
        try:
            await asyncio.to_thread(migrations.upgrade, engines.writer, migrations_dir)
            db = cls(service, engines, clock or SystemClock())
            await asyncio.to_thread(db._start)
        except BaseException:
            await asyncio.to_thread(engines.close)
            raise
        db._housekeeping = asyncio.create_task(db._keep_house(), name=f"{service}-records-housekeeping")
        return db

    async def close(self) -> None:
        """Finish the writes that were accepted, then let go of the records."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        await asyncio.to_thread(self._stop)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in the one writer and return its result once it is on disk.

        What `fn` raises is raised here, and nothing of it is kept. Cancelling the caller stops the waiting, never a
        commit half-way: the outcome is then unknown to the caller.

        Raises:
            ResourceExhausted: More writes are waiting than the disk can take; nothing was done.
            Unavailable: The database could not be reached; nothing was done.
        """
        write = _Write(fn, copy_context(), self._loop.create_future())
        try:
            self._writes.put_nowait(write)
        except queue.Full:
            raise WritesOverloaded(
                f"{WRITES_QUEUED_MAX} writes are waiting: try again later", retry_after=timedelta(seconds=1)
            ) from None
        result: T = await write.future
        return result

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a reader, on one consistent snapshot. A write in it is an error."""
        return await self._loop.run_in_executor(self._readers, copy_context().run, self._read, fn)

    async def once(self, request: Message, fn: Callable[[Tx], M], response_type: Callable[[], M]) -> M:
        """`write` for a create: a replay of `request` returns the first response instead of running `fn` again.

        The response is stored in the transaction of its effect, for 24 hours, under the caller, method and
        `request_id`. Without a request_id this is `write`.

        Raises:
            RequestIdReused: The request_id belongs to a different request.
        """
        return await self.write(
            lambda tx: idempotency.answer(tx, request, fn, response_type, self._clock.now())
        )

    async def wait(self, after: int) -> int:
        """Return the newest revision as soon as it is greater than `after`."""
        while self.revision <= after:
            await self._changed.wait()
        return self.revision

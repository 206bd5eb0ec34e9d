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
from aios.errors import ResourceExhausted, Unavailable
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
PROBE_SECONDS = 1.0  # a server that ended is known to be away after this
ANSWER_SECONDS = 5.0  # one that hangs, after this: half of a unary call's deadline


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
        self._writer = threading.Thread(
            target=self._run_writer, name=f"{service}-records-writer", daemon=True
        )
        self._readers = ThreadPoolExecutor(dialect.READERS, thread_name_prefix=f"{service}-records-reader")
        self._loops: list[asyncio.Task[None]] = []
        self._answers = True
        self._closed = False

    @classmethod
    async def open(
        cls,
        settings: Settings,
        service: str,
        metadata: MetaData,
        migrations_dir: Path,
        clock: Clock | None = None,
    ) -> Self:
        """Take sole ownership of a service's records and bring their schema up to date.

        Args:
            service: The domain it owns: `scheduler`, `data`, `trainer`, `inference`, `identity`. Names the file or
                schema, and the events.
            metadata: The service's tables, with `add_to(metadata)` called.
            migrations_dir: Folder that holds `versions/`.

        Raises:
            FailedPrecondition: Another process owns the records, or a newer release wrote them.
            Unavailable: The database could not be reached.
        """
        missing = {"events", "feed"} - set(metadata.tables)
        if missing:
            raise ValueError(f"metadata of {service} lacks {sorted(missing)}: call records.add_to(metadata)")
        engines = await asyncio.to_thread(dialect.open_engines, settings, service)
        try:
            await asyncio.to_thread(migrations.upgrade, engines.writer, migrations_dir)
            db = cls(service, engines, clock or SystemClock())
            await asyncio.to_thread(db._start)
        except BaseException as error:
            await asyncio.to_thread(engines.close)
            failure = dialect.translate(error)
            if failure is error:
                raise
            raise failure from error
        db._loops = [
            asyncio.create_task(loop(), name=f"{service}-records-{loop.__name__}")
            for loop in (db._keep_house, db._probe)
        ]
        return db

    async def close(self) -> None:
        """Finish the writes that were accepted, then let go of the records."""
        self._closed = True
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await asyncio.to_thread(self._stop)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in the one writer and return its result once it is on disk.

        What `fn` raises is raised here, and nothing of it is kept. Cancelling the caller stops the waiting, never a
        commit half-way: the outcome is then unknown to the caller.

        Raises:
            ResourceExhausted: More writes are waiting than the disk can take; nothing was done.
            Unavailable: The database could not be reached; nothing was done.
        """
        self._require_open()
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
        self._require_open()
        return await self._loop.run_in_executor(self._readers, copy_context().run, self._read, fn)

    async def once(self, request: Message, fn: Callable[[Tx], M], response_type: Callable[[], M]) -> M:
        """`write` for a create: a replay of `request` returns the first response instead of running `fn` again.

        The response is stored in the transaction of its effect, for 24 hours, under the caller, request type and
        `request_id`. Without a request_id this is `write`.

        Raises:
            RequestIdReused: The request_id belongs to a different request.
        """
        return await self.write(
            lambda tx: idempotency.answer(tx, request, fn, response_type, self._clock.now())
        )

    def answers(self) -> bool:
        """Whether the database answered when it was last asked, a moment ago."""
        return self._answers

    async def wait(self, after: int) -> int:
        """Return the newest revision as soon as it is greater than `after`."""
        while self.revision <= after:
            await self._changed.wait()
        return self.revision

    def _require_open(self) -> None:
        if self._closed:
            raise dialect.RecordsUnavailable("This process is stopping: try again.")

    def _start(self) -> None:
        with self._engines.writer.begin() as connection:
            self.revision = _ensure_feed(connection)
        self._writer.start()

    def _stop(self) -> None:
        if self._writer.is_alive():
            self._writes.put(None)
            self._writer.join()
        self._readers.shutdown()
        self._engines.close()

    def _read(self, fn: Callable[[Tx], T]) -> T:
        try:
            with self._engines.reader.begin() as connection:
                return fn(Tx(connection, self._clock))
        except SQLAlchemyError as error:
            failure = dialect.translate(error)
            if failure is error:
                raise
            raise failure from error

    def _run_writer(self) -> None:
        while (first := self._writes.get()) is not None:
            group = [first]
            try:
                revision = self._commit(group)
            except BaseException as error:  # noqa: BLE001  # raised again in every caller
                # Nothing of the group is on disk, whatever each of its writes came to.
                failure = dialect.translate(error)
                for write in group:
                    write.error = write.error or failure
                revision = 0
            self._loop.call_soon_threadsafe(self._settle, group, revision)

    def _commit(self, group: list[_Write]) -> int:
        """Run the group's first write and those queued behind it, each in its savepoint, in one transaction."""
        started = time.monotonic()
        with self._engines.writer.begin() as connection:
            tx = Tx(connection, self._clock)
            self._attempt(connection, tx, group[0])
            while len(group) < GROUP_WRITES_MAX and time.monotonic() - started < GROUP_SECONDS_MAX:
                try:
                    write = self._writes.get_nowait()
                except queue.Empty:
                    break
                if write is None:
                    self._writes.put(None)  # closing: leave it for the loop that reads it
                    break
                group.append(write)
                self._attempt(connection, tx, write)
            return tx.revision()

    def _attempt(self, connection: Connection, tx: Tx, write: _Write) -> None:
        if write.future.cancelled():
            return
        # In plain SQL: SQLAlchemy's own savepoints are compiled anew each time, for a fifth of a write's work.
        connection.exec_driver_sql("SAVEPOINT one")
        try:
            write.result = write.context.run(write.fn, tx)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            write.error = dialect.translate(error)
            try:
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
            except SQLAlchemyError as lost:
                # The whole transaction is gone, as after a full disk: where that was said before, it is the reason.
                raise (write.error if isinstance(write.error, dialect.FAILURES) else lost) from None
        connection.exec_driver_sql("RELEASE SAVEPOINT one")

    def _settle(self, group: list[_Write], revision: int) -> None:
        if revision > self.revision:
            self.revision = revision
            self._changed.set()
            self._changed = asyncio.Event()
        for write in group:
            if write.future.done():
                continue
            if write.error is not None:
                write.future.set_exception(write.error)
            else:
                write.future.set_result(write.result)

    async def _keep_house(self) -> None:
        while True:
            try:
                while await self.write(self._prune):
                    pass
            except Exception:
                log.exception("old records of %s could not be pruned", self.service)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def _probe(self) -> None:
        """Know whether the database answers; and hear of a commit whose answer was lost with the connection."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._settle([], await self.read(Tx.revision))
                self._answers = True
            except (TimeoutError, SQLAlchemyError, Unavailable):
                self._answers = False
            await asyncio.sleep(PROBE_SECONDS)

    def _prune(self, tx: Tx) -> bool:
        now = self._clock.now()
        idempotency.prune(tx, now)
        tx.execute(delete(tables.inbox).where(tables.inbox.c.time < now - INBOX_KEPT_FOR))
        return feed.compact(tx, now)


class WritesOverloaded(ResourceExhausted):
    """More writes are waiting than the disk can take. Nothing was done: try again later."""

    reason = "WRITES_OVERLOADED"


def _ensure_feed(connection: Connection) -> int:
    found: int | None = connection.execute(select(tables.feed.c.revision)).scalar_one_or_none()
    if found is not None:
        return found
    connection.execute(tables.feed.insert().values(id=1, revision=1, published=1, compacted=1))
    return 1

"""How a change is made: decided on the index, written as the next entry of a log in the bucket, then folded into the
index. The entry is the change; a crash after it loses nothing, a crash before it leaves nothing.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import Message

from aios.blobs import BlobMissing, Blobs
from aios.errors import AiosError, Unavailable
from aios.records import Database, Tx
from aios.records.idempotency import answer as answer_once
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from services.data import entry_store, folds, layout
from services.data.contents import Contents
from services.data.logs import Change, Entry, Log
from services.data.store import Content

SETTLE_SECONDS = 5.0  # how long a change whose writer died may stay unseen
TRIES = (
    100  # of one change against writers elsewhere: with this many the log is busier than a person can follow
)

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Overtaken(Exception):
    """What a change was decided on has changed."""


class IndexBusy(Unavailable):
    """The index is being made again from the bucket. Try again."""

    reason = "INDEX_BUSY"


@dataclass(frozen=True)
class Draft:
    """An entry that has no number yet."""

    change: Change
    body: Mapping[str, Any] = field(default_factory=dict)
    content: Content | None = None


class _Append(Exception):
    def __init__(self, draft: Draft) -> None:
        self.draft = draft


class Ledger:
    """Every change of this service. `close` it before the database and the bucket."""

    def __init__(self, db: Database, blobs: Blobs, contents: Contents, clock: Clock) -> None:
        self._db = db
        self._blobs = blobs
        self._contents = contents
        self._clock = clock
        self._locks: WeakValueDictionary[Log, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = False

    async def close(self) -> None:
        """Finish the changes that have begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def whole(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change to its end even if the caller leaves: what is in the log is to be in the index too."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def change(
        self,
        log: Log,
        decide: Callable[[Tx], Draft | M],
        answer: Callable[[Tx], M],
        response: Callable[[], M],
        request: Message | None = None,
    ) -> M:
        """Make one change.

        Args:
            decide: Looks at the index and returns what to write, or the answer where nothing is to be changed.
            answer: What the caller gets, read after the change.
            request: One with a `request_id`: repeated, it gets its first answer.
        """

        async def make() -> M:
            async with self.hold(log):
                for _ in range(TRIES):
                    try:
                        return await self.append(log, decide, answer, response, request)
                    except Overtaken:
                        continue
            raise too_busy(log)

        return await self.whole(make())

    @asynccontextmanager
    async def hold(self, log: Log) -> AsyncIterator[None]:
        """Be the only writer of a log in this process, with all of it read.

        Raises:
            IndexBusy
        """
        if self._stopped:
            raise IndexBusy("The index is being made again.", retry_after=timedelta(seconds=1))
        self._held += 1
        self._idle.clear()
        try:
            async with self._locks.setdefault(log, asyncio.Lock()):
                if await self._db.read(lambda tx: entry_store.is_open(tx, log)):
                    await self.catch_up(log)
                yield
        finally:
            self._held -= 1
            if not self._held:
                self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait for the changes under way, and let none begin."""
        self._stopped = True
        try:
            await self._idle.wait()
            yield
        finally:
            self._stopped = False

    async def append(
        self,
        log: Log,
        decide: Callable[[Tx], Draft | M],
        answer: Callable[[Tx], M],
        response: Callable[[], M],
        request: Message | None = None,
    ) -> M:
        """Write the next entry of a log that the caller holds, and fold it.

        Raises:
            Overtaken: a writer elsewhere took the number. What it wrote is in the index now.
        """
        decided = await self._db.write(lambda tx: self._decided(tx, log, decide, response, request))
        if not isinstance(decided, tuple):
            return decided
        entry, content = decided
        if not await self._put(log, entry):
            await self.catch_up(log)
            raise Overtaken

        def fold(tx: Tx) -> M:
            folds.announce(tx, log, folds.fold(tx, log, entry, content))
            entry_store.close_log(tx, log)
            if request is None:
                return answer(tx)
            return answer_once(tx, request, answer, response, self._clock.now())

        return await self._db.write(fold)

    async def catch_up(self, log: Log) -> None:
        """Fold what the bucket has of a log and the index has not."""
        while True:
            sequence = await self._db.read(lambda tx: entry_store.next_sequence(tx, log))
            try:
                stored = await self._blobs.get(layout.entry(log.project, log.path, sequence))
            except BlobMissing:
                await self._db.write(lambda tx: entry_store.close_log(tx, log))
                return
            entry = Entry.decode(stored)
            content = await self._contents.load(log.project, entry.manifest) if entry.manifest else None
            if content is not None:
                await self._contents.adopt(log.project, content)
            await self._db.write(
                lambda tx, entry=entry, content=content: folds.announce(  # type: ignore[misc]
                    tx, log, folds.fold(tx, log, entry, content)
                )
            )
            _log.info("read entry %d of %s from the bucket", sequence, log.path)

    async def settle(self) -> None:
        """Look after changes whose writer died on the way. Runs until cancelled."""
        while True:
            await self.settle_once()
            await asyncio.sleep(SETTLE_SECONDS)

    async def settle_once(self) -> None:
        """One round of `settle`."""
        for log in await self._db.read(entry_store.logs_open):
            try:
                async with self.hold(log):
                    pass
            except AiosError as error:
                _log.warning("%s of %s cannot be read yet: %s", log.path, log.project, error)

    def _decided(
        self,
        tx: Tx,
        log: Log,
        decide: Callable[[Tx], Draft | M],
        response: Callable[[], M],
        request: Message | None,
    ) -> M | tuple[Entry, Content | None]:
        def run(tx: Tx) -> M:
            found = decide(tx)
            if isinstance(found, Draft):
                raise _Append(found)
            return found

        try:
            return run(tx) if request is None else answer_once(tx, request, run, response, self._clock.now())
        except _Append as decision:
            draft = decision.draft
        entry_store.open_log(tx, log)
        sequence, now = entry_store.next_sequence(tx, log), self._clock.now()
        nonce = secrets.token_hex(8)
        return Entry(sequence, draft.change, now, principal().subject, nonce, draft.body), draft.content

    async def _put(self, log: Log, entry: Entry) -> bool:
        key = layout.entry(log.project, log.path, entry.sequence)
        if await self._blobs.put_if_absent(key, entry.encoded):
            return True
        # After a lost answer, the entry that is there may be our own.
        return Entry.decode(await self._blobs.get(key)).nonce == entry.nonce


def too_busy(log: Log) -> Unavailable:
    return Unavailable(
        f"Too many writers change {log.path} at once: try again.", retry_after=timedelta(seconds=1)
    )

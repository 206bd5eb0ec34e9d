"""The log of changes as watchers and the relay read it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Row, delete, func, select, update

from aios.errors import OutOfRange
from aios.records.events import Event
from aios.records.tables import events, feed
from aios.records.tx import Tx

if TYPE_CHECKING:
    from aios.records.database import Database

R = TypeVar("R")

# What a watcher may miss and still go on. A day covers a night's outage; the count bounds the file at ~100 MB.
KEEP_FOR = timedelta(hours=24)
KEEP_EVENTS = 100_000
# One deletion holds the writer for some milliseconds, not seconds.
COMPACT_EVENTS = 2_000


class RevisionCompacted(OutOfRange):
    """The revision is not in the log: too old, or of another history. List again and watch from the new revision."""

    reason = "REVISION_COMPACTED"


@dataclass(frozen=True)
class Changes:
    """A stretch of the log."""

    events: list[Event]
    revision: int
    """Everything that matches up to here is in `events`: go on after it."""
    _made: dict[object, Any] = field(default_factory=dict, compare=False)

    def told(self, respond: Callable[[Sequence[Event], int], R]) -> R:
        """What `respond` makes of them: once for all watchers that share this stretch."""
        if respond not in self._made:
            self._made[respond] = respond(self.events, self.revision)
        made: R = self._made[respond]
        return made


class Feed:
    """Read access to one service's log: what Watch RPCs and the relay follow."""

    def __init__(self, db: "Database") -> None:
        self._db = db
        self._reading: dict[tuple[str | None, str | None, int, int], asyncio.Task[Changes]] = {}

    def current_revision(self) -> int:
        """Newest committed revision, from memory; at least 1."""
        return self._db.revision

    async def read(self, noun: str | None, project: str | None, after: int, limit: int = 500) -> Changes:
        """The next changes after a revision, oldest first. Watchers that wake together share one look into the log.

        Args:
            noun: Kind of resource; None for every kind.
            project: None for every project.
            after: The revision already seen.

        Raises:
            RevisionCompacted: `after` is older than the log, or newer than its end.
        """
        key = (noun, project, after, limit)
        reading = self._reading.get(key)
        if reading is None or reading.done():  # one that is done may be older than what we were woken for
            look = self._db.read(lambda tx: read(tx, self._db.service, noun, project, after, limit))
            reading = self._reading[key] = asyncio.create_task(look)
            reading.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(reading)

    def _forget(self, key: tuple[str | None, str | None, int, int], done: "asyncio.Task[Changes]") -> None:
        if self._reading.get(key) is done:
            del self._reading[key]

    async def wait(self, after: int) -> int:
        """Return the current revision as soon as it is greater than `after`. Bound it with `asyncio.timeout`."""
        return await self._db.wait(after)


def read(tx: Tx, domain: str, noun: str | None, project: str | None, after: int, limit: int) -> Changes:
    """See `Feed.read`; inside a transaction of the caller."""
    state = tx.execute(select(feed)).one()
    if not state.compacted <= after <= state.revision:
        raise RevisionCompacted(
            f"revision {after} is not in the log, which holds {state.compacted} to {state.revision}: list again",
            revision=str(after),
            oldest=str(state.compacted),
            newest=str(state.revision),
        )
    query = select(events).where(events.c.revision > after).order_by(events.c.revision).limit(limit)
    if noun is not None:
        query = query.where(events.c.noun == noun)
    if project is not None:
        query = query.where(events.c.project == project)
    found = [_event(row, domain) for row in tx.execute(query)]
    return Changes(found, found[-1].revision if len(found) == limit else state.revision)


def compact(tx: Tx, now: datetime, keep: int = KEEP_EVENTS) -> bool:
    """Delete the oldest stretch that is on the bus and no longer kept. True when more may be left to delete."""
    state = tx.execute(select(feed)).one()
    too_old = tx.execute(
        select(func.max(events.c.revision)).where(events.c.time < now - KEEP_FOR)
    ).scalar_one()
    wanted = max(too_old or 0, state.revision - keep)
    floor: int = min(wanted, state.published, state.compacted + COMPACT_EVENTS)
    if floor <= state.compacted:
        return False
    tx.execute(delete(events).where(events.c.revision <= floor))
    tx.execute(update(feed).values(compacted=floor))
    return bool(floor < min(wanted, state.published))


def start_stream(tx: Tx, stream: str) -> int:
    """The revision up to which everything is in this stream of the bus. In a new one nothing is: all that the log still
    holds is to be sent again, and the inboxes drop what they know."""
    state = tx.execute(select(feed)).one()
    if state.stream != stream:
        tx.execute(update(feed).values(stream=stream, published=state.compacted))
        return int(state.compacted)
    return int(state.published)


def mark_published(tx: Tx, revision: int, stream: str) -> None:
    """Everything up to `revision` is in this stream; it is not sent again and may be compacted."""
    of_stream = (feed.c.published < revision) & (feed.c.stream == stream)
    tx.execute(update(feed).where(of_stream).values(published=revision))


def _event(row: Row[tuple[object, ...]], domain: str) -> Event:
    return Event(domain=domain, **row._mapping)

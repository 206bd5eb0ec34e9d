"""A bounded file of spans: the newest traces survive a restart, the oldest make room.

One thread owns the file, so nothing waits for a lock and writes that arrive together commit together. It is a cache:
nothing is fsynced, and a file that cannot be read is replaced by an empty one.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    case,
    create_engine,
    delete,
    event,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.exc import DatabaseError

from aios.errors import ResourceExhausted
from aios.records import Json, Page, Tx
from aios.runtime.clock import SystemClock
from gateway.telemetry.spans import (
    BYTES_MAX,
    ROWS_MAX,
    SPANS_PER_TRACE_MAX,
    Span,
    Summary,
    TraceNotFound,
    summaries,
)

VERSION = 1  # of the tables: a file of another version is thrown away
PENDING_SPANS_MAX = 20_000  # about 10 MiB, and a second of writing
EVICT_TO = 0.9  # so that not every write evicts

T = TypeVar("T")
_log = logging.getLogger(__name__)
_metadata = MetaData()

_spans = Table(
    "spans",
    _metadata,
    Column("trace", String, nullable=False),
    Column("id", String, nullable=False),
    Column("parent", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("project", String, nullable=True),
    Column("attributes", Json, nullable=False),
    Column("error", Text, nullable=False),
    PrimaryKeyConstraint("trace", "id"),
    sqlite_with_rowid=False,
)
_traces = Table(
    "traces",
    _metadata,
    Column("trace", String, primary_key=True),
    # The first that was known: who names a trace later does not get to see it.
    Column("project", String, nullable=True),
    Column("root", Text, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("spans", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("traces_start", "start"),
    Index("traces_project_start", "project", "start"),
)


class Kept(NamedTuple):
    """How much is in the file. Counted once, then kept by adding: a count reads every trace."""

    rows: int
    size: int


class SpanStore:
    """Spans on disk. Make it with `open`, end it with `close`."""

    def __init__(self, engine: Engine, thread: ThreadPoolExecutor, rows_max: int, bytes_max: int) -> None:
        self._engine = engine
        self._thread = thread
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._kept: Kept | None = None
        self._pending: list[Span] = []
        self._lock = threading.Lock()

    @classmethod
    async def open(cls, path: Path, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> "SpanStore":
        """Open or make the file."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="spans")
        engine = await asyncio.get_running_loop().run_in_executor(thread, _open, path)
        return cls(engine, thread, rows_max, bytes_max)

    async def close(self) -> None:
        """Write what is pending and let go of the file."""
        await self._run(self._flush)
        await self._run(self._engine.dispose)
        self._thread.shutdown()

    def add(self, spans: Sequence[Span]) -> None:
        """Keep spans; they can be read a moment later.

        Raises:
            ResourceExhausted: the disk does not keep up.
        """
        with self._lock:
            if len(self._pending) + len(spans) > PENDING_SPANS_MAX:
                raise ResourceExhausted(
                    "spans arrive faster than they can be kept", retry_after=timedelta(seconds=1)
                )
            idle = not self._pending
            self._pending.extend(spans)
        if idle:
            self._thread.submit(self._flush)

    async def get(self, trace: str, project: str | None) -> list[Span]:
        """The spans of a trace, by start.

        Args:
            project: Who asks: sees its own spans, and those of nobody if the trace is its own. None sees all.

        Raises:
            TraceNotFound: there are none.
        """

        def read() -> list[Span]:
            query = select(_spans).where(_spans.c.trace == trace).order_by(_spans.c.start, _spans.c.id)
            with self._engine.connect() as connection:
                if project is not None:
                    owner = connection.scalar(select(_traces.c.project).where(_traces.c.trace == trace))
                    mine = _spans.c.project == project
                    query = query.where(or_(mine, _spans.c.project.is_(None)) if owner == project else mine)
                return [Span(**row._mapping) for row in connection.execute(query)]

        found = await self._run(read)
        if not found:
            raise TraceNotFound(f"no span of trace {trace} is kept in this project", trace=trace)
        return found

    async def list(self, page: Page, project: str, *, with_unowned: bool) -> tuple[list[Summary], str]:
        """The traces of a project, newest first, and the next page's token.

        Args:
            with_unowned: Also those that no project is known of.
        """

        def read() -> tuple[list[Summary], str]:
            mine = _traces.c.project == project
            query = select(_traces).where(or_(mine, _traces.c.project.is_(None)) if with_unowned else mine)
            with self._engine.connect() as connection:
                order = (_traces.c.start, _traces.c.trace)
                rows, token = page.fetch(Tx(connection, SystemClock()), query, by=order, descending=True)
            return [Summary(**row._mapping) for row in rows], token

        return await self._run(read)

    async def _run(self, fn: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn)

    def _flush(self) -> None:
        with self._lock:
            spans, self._pending = self._pending, []
        try:
            if spans:
                with self._engine.begin() as connection:
                    kept = self._kept or _count(connection)
                    added = _write(connection, spans)
                    kept = Kept(kept.rows + added.rows, kept.size + added.size)
                    if kept.rows > self._rows_max or kept.size > self._bytes_max:
                        kept = self._evict(connection, kept)
                self._kept = kept
        except DatabaseError:
            self._kept = None
            _log.exception("%d spans were lost", len(spans))

    def _evict(self, connection: Connection, kept: Kept) -> Kept:
        """Drop the oldest traces, whole. Returns what is left."""
        rows, size = kept
        last = 0
        for trace in connection.execute(select(_traces).order_by(_traces.c.start)):
            if rows <= self._rows_max * EVICT_TO and size <= self._bytes_max * EVICT_TO:
                break
            last, rows, size = trace.start, rows - trace.spans, size - trace.size
        old = _traces.c.start <= last
        connection.execute(delete(_spans).where(_spans.c.trace.in_(select(_traces.c.trace).where(old))))
        connection.execute(delete(_traces).where(old))
        return _count(connection)


def _count(connection: Connection) -> Kept:
    rows, size = connection.execute(select(func.sum(_traces.c.spans), func.sum(_traces.c.size))).one()
    return Kept(rows or 0, size or 0)


def _write(connection: Connection, spans: Sequence[Span]) -> Kept:
    """Keep what is new. Returns how much that is."""
    fresh = _unknown(connection, spans)
    if not fresh:
        return Kept(0, 0)
    connection.execute(insert(_spans), [vars(span) for span in fresh])
    found = summaries(fresh)
    connection.execute(_MERGE, [vars(summary) for summary in found])
    return Kept(len(fresh), sum(summary.size for summary in found))


def _merge() -> Insert:
    statement = insert(_traces)
    new, old = statement.excluded, _traces.c
    return statement.on_conflict_do_update(
        index_elements=[old.trace],
        set_={
            "project": func.coalesce(old.project, new.project),
            "root": case((new.start < old.start, new.root), else_=old.root),
            "start": func.min(old.start, new.start),
            "end": func.max(old.end, new.end),
            "spans": old.spans + new.spans,
            "size": old.size + new.size,
        },
    )


_MERGE = _merge()  # built once: that costs more than running it


def _unknown(connection: Connection, spans: Sequence[Span]) -> list[Span]:
    """Those that are not kept yet (a sender repeats what it got no answer for), within the limit per trace."""
    known: dict[str, set[str]] = {span.trace: set() for span in spans}
    query = select(_spans.c.trace, _spans.c.id).where(_spans.c.trace.in_(known))
    for trace, span_id in connection.execute(query):
        known[trace].add(span_id)
    fresh = []
    for span in spans:
        mine = known[span.trace]
        if span.id not in mine and len(mine) < SPANS_PER_TRACE_MAX:
            mine.add(span.id)
            fresh.append(span)
    return fresh


def _open(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _connect(path)
    except (DatabaseError, ValueError) as error:
        _log.warning("%s is replaced: %s", path, error)
        for suffix in ("", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", pool_size=1, max_overflow=0)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    with engine.begin() as connection:
        found = connection.scalar(text("PRAGMA user_version"))
        if found not in (0, VERSION):
            raise ValueError(f"its tables are of version {found}")
        _metadata.create_all(connection)
        connection.execute(text(f"PRAGMA user_version={VERSION}"))
    return engine

"""What SQLite and PostgreSQL do differently: connecting, owning, locking, and what their errors mean.

All other SQL in AIOS is portable SQLAlchemy Core.
"""

import fcntl
import importlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
)
from sqlalchemy.pool import QueuePool

from aios.config import Settings
from aios.errors import AiosError, FailedPrecondition, ResourceExhausted, Unavailable

READERS = 4  # connections; reads are short, and more than the cores would only queue inside the database
BUSY_TIMEOUT_MILLIS = 5_000  # half of a unary call's deadline: fail while the caller still listens
# A restarted process may meet its predecessor while that one drains.
OWNER_WAIT_SECONDS = 5.0
RETRY_AFTER = timedelta(seconds=1)


class RecordsOwned(FailedPrecondition):
    """Another process owns these records. Stop it first, or give this one a home of its own."""

    reason = "RECORDS_OWNED"


class RecordsUnavailable(Unavailable):
    """The database cannot be reached. Nothing was changed unless a commit was under way."""

    reason = "RECORDS_UNAVAILABLE"


class RecordsFull(ResourceExhausted):
    """The disk of the database is full. Nothing was changed; reads work."""

    reason = "RECORDS_FULL"


FAILURES = (RecordsUnavailable, RecordsFull)
"""Of the database itself: they undo the whole transaction, not one write of it."""


@dataclass(frozen=True)
class Engines:
    """Two ways into one database: the only writer, and a few readers that cannot write."""

    writer: Engine
    reader: Engine
    release: Callable[[], None]
    """Gives ownership back."""

    def close(self) -> None:
        """Close every connection, then give ownership back."""
        self.reader.dispose()
        self.writer.dispose()
        self.release()


def open_engines(settings: Settings, service: str) -> Engines:
    """Connect to a service's records as their sole owner. Blocks up to `OWNER_WAIT_SECONDS` for a predecessor."""
    if settings.database_url:
        return _open_postgres(settings.database_url, service)
    return _open_sqlite(settings.home / "records" / f"{service}.db")


def translate(error: BaseException) -> BaseException:
    """The catalogue's error for a failure of the database itself; any other is the caller's and stays as it is."""
    if isinstance(error, PendingRollbackError):  # the connection broke earlier in this transaction
        return _unavailable()
    if not isinstance(error, DBAPIError):
        return error
    if isinstance(error.orig, sqlite.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite.SQLITE_FULL:
            return _full()
        if code in (
            sqlite.SQLITE_BUSY,
            sqlite.SQLITE_IOERR,
            sqlite.SQLITE_CANTOPEN,
            sqlite.SQLITE_LOCKED,
        ):
            return _unavailable()
        return error
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith("53100"):
        return _full()
    # 08 connection, 40 rollback, 53 resources, 55P03 lock timeout, 57 operator intervention; none: never connected.
    lost = state[:2] in ("08", "40", "53", "57") or state == "55P03"
    return (
        _unavailable()
        if lost or (not state and isinstance(error, OperationalError | InterfaceError))
        else error
    )


def _full() -> AiosError:
    return RecordsFull("The disk of the records is full: free some space.", retry_after=RETRY_AFTER)


def _unavailable() -> AiosError:
    return RecordsUnavailable("The records cannot be reached now.", retry_after=RETRY_AFTER)


# --- SQLite -----------------------------------------------------------------------------------------------------


def journal_mode(version: tuple[int, ...]) -> str:
    """WAL where it is safe. Before these releases a WAL that resets while another connection commits can corrupt.

    Source: sqlite.org, release notes of 3.51.3 and its backports 3.50.7 and 3.44.6.
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0)
    return "WAL" if fixed else "TRUNCATE"


def _library() -> Any:
    """The module that speaks to SQLite: that of the wheel where there is one and WAL is safe in it, else Python's own.

    One process must not open one file through both: the locks of one would be lost when the other closes it.
    """
    with suppress(ImportError):
        wheel = importlib.import_module("pysqlite3.dbapi2")
        if journal_mode(wheel.sqlite_version_info) == "WAL":
            return wheel
    return importlib.import_module("sqlite3")


sqlite = _library()


def _open_sqlite(path: Path) -> Engines:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _own(path.with_suffix(".lock"))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        writer = _sqlite_engine(path, begin="BEGIN IMMEDIATE", pool_size=1, read_only=False)
        reader = _sqlite_engine(path, begin="BEGIN", pool_size=READERS, read_only=True)
    except BaseException:
        lock.close()
        raise
    return Engines(writer, reader, release=lock.close)


def _own(path: Path) -> IO[str]:
    # The kernel drops this lock when the process ends, however it ends.
    lock = path.open("a+")
    deadline = time.monotonic() + OWNER_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.seek(0)
            owner = lock.read() or "unknown"
            lock.close()
            raise RecordsOwned(
                f"{path.stem} records in {path.parent} belong to process {owner}: stop it first", owner=owner
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def _sqlite_engine(path: Path, *, begin: str, pool_size: int, read_only: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        module=sqlite,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        # Each connection is used by one thread at a time, though not always by the same.
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MILLIS / 1000},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # The driver's own transactions begin too late, and not for reads: BEGIN is ours alone.
        connection.isolation_level = None
        mode = journal_mode(sqlite.sqlite_version_info)
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MILLIS}",
            f"journal_mode={mode}",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            f"query_only={'ON' if read_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


# --- PostgreSQL -------------------------------------------------------------------------------------------------

# A server that went without a word is noticed within half a unary call's deadline.
POSTGRES_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def _open_postgres(url: str, service: str) -> Engines:
    # One schema per service keeps their tables and migrations apart in one database.
    schema = f"-csearch_path={service}"
    writer = create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        # No bound on statements: a migration may take long.
        connect_args={
            **POSTGRES_CONNECTION,
            "options": f"{schema} -csynchronous_commit=on -clock_timeout={BUSY_TIMEOUT_MILLIS}",
        },
    )
    reader = create_engine(
        url,
        pool_size=READERS,
        max_overflow=0,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={
            **POSTGRES_CONNECTION,
            "options": f"{schema} -cdefault_transaction_read_only=on -cstatement_timeout={BUSY_TIMEOUT_MILLIS}",
        },
    )

    @event.listens_for(writer, "connect")
    def own(connection: Any, _record: object) -> None:
        # Held by the connection: a writer that lost it must own the records again before it writes.
        deadline = time.monotonic() + OWNER_WAIT_SECONDS
        with connection.cursor() as cursor:
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (f"aios-{service}",))
                if cursor.fetchone()[0]:
                    break
                if time.monotonic() > deadline:
                    raise RecordsOwned(f"{service} records belong to another process: stop it first")
                time.sleep(0.05)
            cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{service}"')
        connection.commit()

    def nothing() -> None:
        """The lock goes with the connection."""

    return Engines(writer, reader, release=nothing)

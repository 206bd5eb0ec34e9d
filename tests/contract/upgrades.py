"""Databases of earlier releases: populated, upgraded by a process that is killed, and compared."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Engine, MetaData

from aios.config import Settings
from aios.records import Database, dialect, migrations
from tests.postgres import copy_database

ROWS = 3
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Service:
    """One owner of records: its name, its tables as the code has them, and the folder of its migrations."""

    name: str
    metadata: MetaData
    directory: Path

    @property
    def versions(self) -> list[Path]:
        """Its migrations, oldest first."""
        return sorted(self.directory.glob("versions/[0-9]*.py"))

    def release(self, number: int, folder: Path) -> Path:
        """The migrations of an earlier release: the first `number`."""
        versions = folder / f"release-{number}" / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        for version in self.versions[:number]:
            shutil.copy(version, versions)
        return versions.parent


def at_release(settings: Settings, service: Service, number: int, folder: Path) -> Engine:
    """The writer of a database as an earlier release left it."""
    engine = as_left(settings, service)
    migrations.upgrade(engine, service.release(number, folder))
    return engine


def as_left(settings: Settings, service: Service) -> Engine:
    """The writer of a database as it is."""
    engines = dialect.open_engines(settings, service.name)
    engines.reader.dispose()
    engines.release()
    return engines.writer


def elsewhere(settings: Settings, folder: Path) -> Settings:
    """A database of its own on the same kind of server."""
    if not settings.database_url:
        return replace(settings, home=folder / "home")
    return replace(settings, database_url=copy_database(settings.database_url))


def populate(connection: Connection) -> None:
    """A few rows in every table, whatever its columns."""
    for table in _tables(connection):
        count = 1 if table.name == "feed" else ROWS
        connection.execute(
            table.insert(), [{c.name: _value(c, n) for c in table.columns} for n in range(count)]
        )


def contents(connection: Connection) -> Rows:
    """Every row of every table, in an order of its own."""
    return {
        table.name: sorted(
            (dict(row._mapping) for row in connection.execute(table.select())), key=lambda row: repr(row)
        )
        for table in _tables(connection)
    }


def kept(before: Rows, after: Rows) -> None:
    """Assert that what was there is there, in the tables and columns that the newer release still has."""
    filled = {table for table, rows in before.items() if rows}
    for table in filled & after.keys():
        assert len(before[table]) == len(after[table]), table
        columns = before[table][0].keys() & after[table][0].keys()
        assert _picked(before[table], columns) == _picked(after[table], columns), table


def version(connection: Connection) -> str | None:
    """The migration that a database stands at."""
    return MigrationContext.configure(connection).get_current_revision()


def copies(settings: Settings, service: Service, folder: Path) -> Callable[[], Settings]:
    """Makes further databases like the one of these settings, which nobody may use meanwhile."""

    def on_sqlite() -> Settings:
        home = folder / f"copy-{random.getrandbits(32):08x}"
        shutil.copytree(settings.home / "records", home / "records")
        return replace(settings, home=home)

    def on_postgresql() -> Settings:
        return replace(settings, database_url=copy_database(settings.database_url))

    return on_postgresql if settings.database_url else on_sqlite


class Upgrader:
    """Upgrades records in processes that it can kill. One program has imported everything and forks for each: an upgrade
    begins within milliseconds."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        self._server = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def close(self) -> None:
        """End it, and whatever it started."""
        self._server.communicate()

    def run(self, settings: Settings, service: Service, kill_after: float | None) -> float:
        """Upgrade the records, and kill the process that does it after so many seconds; None lets it finish.

        Returns:
            How many seconds it ran.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = [str(settings.home), settings.database_url, service.name, str(service.directory), kill_after]
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return float(self._server.stdout.readline())


def serve() -> None:
    """The program of `Upgrader`."""
    for line in sys.stdin:
        home, url, name, directory, kill_after = json.loads(line)
        ready, begin = os.pipe()
        child = os.fork()
        if child == 0:
            engines = dialect.open_engines(Settings(home=Path(home), database_url=url), name)
            engines.writer.connect().close()
            os.write(begin, b".")
            migrations.upgrade(engines.writer, Path(directory))
            os._exit(0)
        assert os.read(ready, 1) == b"."
        began = time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
        print(time.monotonic() - began, flush=True)


async def open_again(settings: Settings, service: Service) -> Rows:
    """What a newer release has in its tables, once it has started on these records."""
    db = await Database.open(settings, service.name, service.metadata, service.directory)
    try:
        return await db.read(lambda tx: contents(tx._connection))
    finally:
        await db.close()


def _tables(connection: Connection) -> list[sa.Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def _picked(rows: list[dict[str, Any]], columns: set[str]) -> list[list[Any]]:
    return sorted([[repr(row[name]) for name in sorted(columns)] for row in rows])


def _value(column: Column[Any], row: int) -> Any:
    """Something that fits, and is the same as what a foreign key refers to."""
    for key in column.foreign_keys:
        return _value(key.column, row)
    kind = column.type
    if isinstance(kind, sa.String):
        return f"{column.name[:8]}-{row}"[: kind.length]
    if isinstance(kind, sa.Boolean):
        return bool(row % 2)
    if isinstance(kind, sa.Integer):
        return row + 1
    if isinstance(kind, (sa.Numeric, sa.Float)):
        return row + 0.5
    if isinstance(kind, sa.DateTime):
        time = datetime(2100, 1, 1 + row, 12, 30, 15, 250, tzinfo=UTC)  # too young to be pruned
        return time if kind.timezone else time.replace(tzinfo=None)
    if isinstance(kind, sa.JSON):
        return {column.name: row}
    if isinstance(kind, sa.LargeBinary):
        return f"{column.name}\0{row}".encode()
    raise AssertionError(f"no value for {column!r}")


def run_open(settings: Settings, service: Service) -> Rows:
    """`open_again` for tests that are plain functions."""
    return asyncio.run(open_again(settings, service))

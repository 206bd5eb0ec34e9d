"""A smallest service's records, for the tests of what every service has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select

from aios import records
from aios.config import Settings
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import Call, Principal, current_call

metadata = MetaData()
notes = Table(
    "notes",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("create_time", records.UtcTime, nullable=False),
)
records.add_to(metadata)

_FIRST = """
from tests.notes import metadata
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())
"""


async def open_notes(settings: Settings, service: str = "notes", clock: Clock | None = None) -> Database:
    """The database of a service that has the table `notes`."""
    versions = settings.home / "migrations" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    (versions / "0001_first.py").write_text(_FIRST)
    return await Database.open(settings, service, metadata, versions.parent, clock)


def add(tx: Tx, note: str, rank: int = 0) -> None:
    """Write a note and say so."""
    tx.execute(insert(notes), {"id": note, "rank": rank, "create_time": tx.now()})
    tx.emit("note", "demo", note, "created", {"id": note, "rank": rank})


def adding(note: str) -> Callable[[Tx], None]:
    """`add`, for `db.write`."""
    return lambda tx: add(tx, note)


def ids(tx: Tx) -> list[Any]:
    """Every note, by id."""
    return list(tx.execute(select(notes.c.id).order_by(notes.c.id)).scalars())


@contextmanager
def called_by(subject: str) -> Iterator[None]:
    """As if this ran in a call of `subject`."""
    token = current_call.set(Call("/notes/Add", Principal(subject=subject, project="demo", role="editor")))
    try:
        yield
    finally:
        current_call.reset(token)

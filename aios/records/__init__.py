"""Durable state in SQL: one database per service, owned by one process, on SQLite or PostgreSQL.

Owns transactions, schema upgrades, the `events` log (outbox and watch log in one), idempotent requests and pages.
A state change and the event that tells of it commit together; `aios.bus` publishes the event afterwards. Never
talks to another process than the database, and never waits for one inside a transaction.

The shape of every service:

    metadata = MetaData()                                  # store.py
    jobs = Table("jobs", metadata, ...)
    records.add_to(metadata)

    db = await Database.open(settings, "scheduler", metadata, Path(__file__).parent / "migrations")
    job = await db.read(lambda tx: store.get(tx, name))
    await db.write(lambda tx: store.cancel(tx, name))
    return await db.once(request, lambda tx: mapping.job(store.create(tx, ...)), job_pb2.Job)
"""

from aios.records.database import Database
from aios.records.events import Event
from aios.records.feed import Changes, Feed, RevisionCompacted
from aios.records.idempotency import RequestIdReused
from aios.records.pages import Page
from aios.records.tables import add_to
from aios.records.tx import Tx
from aios.records.types import Json, Proto, UtcTime

__all__ = [
    "Changes",
    "Database",
    "Event",
    "Feed",
    "Json",
    "Page",
    "Proto",
    "RequestIdReused",
    "RevisionCompacted",
    "Tx",
    "UtcTime",
    "add_to",
]

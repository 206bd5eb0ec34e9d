"""The tables that every service has beside its own."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
)

from aios.records.types import Json, UtcTime

_common = MetaData()

# Outbox and watch log in one. `revision` is assigned in commit order, without gaps.
events = Table(
    "events",
    _common,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(36), nullable=False, unique=True),
    Column("noun", String(63), nullable=False),
    Column("project", String(63), nullable=False),
    Column("resource_id", String(255), nullable=False),
    Column("type", String(63), nullable=False),
    Column("payload", Json, nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("time", UtcTime, nullable=False),
    Index("events_noun_revision", "noun", "revision"),
)

# One row. Counting in a row, not in a sequence, makes revisions follow commit order on every database: the row lock
# is held until commit.
feed = Table(
    "feed",
    _common,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Newest revision. The first is 1 and no event has it, since a watch from 0 means "from now".
    Column("revision", BigInteger, nullable=False),
    # Everything up to here is on the bus.
    Column("published", BigInteger, nullable=False),
    # Which stream of the bus that is true of: one that was wiped is another. Empty before the first.
    Column("stream", String(63), nullable=False, server_default=""),
    # Everything up to here is deleted.
    Column("compacted", BigInteger, nullable=False),
)

# Events whose effect is committed, by consumer.
inbox = Table(
    "inbox",
    _common,
    Column("consumer", String(63), nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("time", UtcTime, nullable=False, index=True),
    PrimaryKeyConstraint("consumer", "event_id"),
)

# First responses to requests that carried a request_id.
idempotency = Table(
    "idempotency",
    _common,
    Column("subject", String(255), nullable=False),
    Column("request_type", String(255), nullable=False),
    Column("request_id", String(36), nullable=False),
    Column("request_hash", LargeBinary(32), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("time", UtcTime, nullable=False, index=True),
    PrimaryKeyConstraint("subject", "request_type", "request_id"),
)


def add_to(metadata: MetaData) -> None:
    """Put the common tables into a service's metadata, so that its migrations create and keep them."""
    for table in _common.sorted_tables:
        table.to_metadata(metadata)

"""The tables of sources. They lie beside the index: the bucket knows the versions that came of them, and no more."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from aios.data.v1 import ingest_pb2
from aios.records import Proto, UtcTime
from services.data.annotation.tables import metadata as metadata

_PROJECT = ("project", String(63))
_SOURCE = ("source", String(63))
_STREAM = ("stream", String(40))

ingest_sources = Table(
    "ingest_sources",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("id", String(63), nullable=False),
    # As its maker stated it, with what was left out filled in.
    Column("spec", Proto(ingest_pb2.IngestSource), nullable=False),
    # The latest time of any message; null before the first.
    Column("newest", UtcTime),
    Column("accepted", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("creator", String(255), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
)
ingest_devices = Table(
    "ingest_devices",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_SOURCE, nullable=False),
    Column("id", String(63), nullable=False),
    # SHA-256 of a password of 256 random bits: there is nothing to guess.
    Column("password_sha256", String(64), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "source", "id"),
)
# How far each stream was read. One that was made anew counts anew.
ingest_positions = Table(
    "ingest_positions",
    metadata,
    Column(*_STREAM, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    PrimaryKeyConstraint("stream"),
)
# Rows that no version has yet.
ingest_rows = Table(
    "ingest_rows",
    metadata,
    Column(*_STREAM, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column(*_PROJECT, nullable=False),
    Column(*_SOURCE, nullable=False),
    Column("device", String(63), nullable=False),
    Column("window_start", UtcTime, nullable=False),
    # The part of the window that it was put into; empty while that is open.
    Column("part", String(20), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("arrival", UtcTime, nullable=False),
    PrimaryKeyConstraint("stream", "sequence"),
    Index("ingest_rows_window", "project", "source", "part", "window_start"),
)
# Parts that were closed and are being committed.
ingest_parts = Table(
    "ingest_parts",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_SOURCE, nullable=False),
    Column("id", String(20), nullable=False),
    Column("window_start", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "source", "id"),
)
ingest_dead = Table(
    "ingest_dead",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_SOURCE, nullable=False),
    Column("arrival", UtcTime, nullable=False, index=True),
    Column(*_STREAM, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("device", String(63), nullable=False),
    Column("reason", String(31), nullable=False),
    Column("detail", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("project", "source", "stream", "sequence"),
)

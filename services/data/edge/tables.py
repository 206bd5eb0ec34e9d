"""The tables of edge devices. They lie beside the index and are no part of it: the bucket does not know them."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, String, Table, Text

from aios.records import UtcTime
from services.data.intake.tables import metadata as metadata

_PROJECT = ("project", String(63))

edge_devices = Table(
    "edge_devices",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("id", String(63), nullable=False),
    # SHA-256 of a password of 256 random bits: there is nothing to guess.
    Column("password_sha256", String(64), nullable=False),
    Column("follows", String(255), nullable=False),
    Column("running", String(255), nullable=False),
    Column("problem", Text, nullable=False),
    Column("seen_time", UtcTime),
    # Which stream of the device's figures was added up, and how far. One that was made anew counts anew.
    Column("stream", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
)
edge_figures = Table(
    "edge_figures",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("device", String(63), nullable=False),
    Column("version", String(255), nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("predictions", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "device", "version"),
)
edge_bundles = Table(
    "edge_bundles",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("model", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    # The one file of the model.
    Column("file_sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "model", "number"),
)

"""The tables of the index. A row in one of them is what makes something in the bucket visible."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from aios import records
from aios.common.v1 import tensor_pb2
from aios.records import Json, Proto, UtcTime

metadata = MetaData()
_PROJECT = ("project", String(63))
_DIGEST = String(64)

# Content that was checked. A row is what makes a blob usable.
blobs = Table(
    "blobs",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "sha256"),
)
uploads = Table(
    "uploads",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("begin_time", UtcTime, nullable=False, index=True),
    PrimaryKeyConstraint("project", "sha256"),
)
manifests = Table(
    "manifests",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "sha256"),
)
files = Table(
    "files",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("path", String(512), nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "manifest", "path"),
    ForeignKeyConstraint(["project", "manifest"], ["manifests.project", "manifests.sha256"]),
    ForeignKeyConstraint(["project", "sha256"], ["blobs.project", "blobs.sha256"]),
    Index("files_blob", "project", "sha256"),
)
datasets = Table(
    "datasets",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("id", String(63), nullable=False),
    Column("description", Text, nullable=False),
    Column("latest", String(16), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
)
dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("dataset", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("id", String(16), nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("message", Text, nullable=False),
    Column("parent", String(16), nullable=False),
    Column("creator", String(255), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "dataset", "number"),
    UniqueConstraint("project", "dataset", "id"),
    ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.id"]),
    ForeignKeyConstraint(["project", "manifest"], ["manifests.project", "manifests.sha256"]),
)
models = Table(
    "models",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("id", String(63), nullable=False),
    Column("description", Text, nullable=False),
    Column("latest", Integer, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
)
model_versions = Table(
    "model_versions",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("model", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("signature", Proto(tensor_pb2.Signature), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("run", String(63)),  # null for an uploaded model, and nulls never collide
    Column("creator", String(255), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "model", "number"),
    UniqueConstraint("project", "model", "run"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.id"]),
    ForeignKeyConstraint(["project", "manifest"], ["manifests.project", "manifests.sha256"]),
)
aliases = Table(
    "aliases",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("model", String(63), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    PrimaryKeyConstraint("project", "model", "alias"),
    ForeignKeyConstraint(
        ["project", "model", "number"],
        ["model_versions.project", "model_versions.model", "model_versions.number"],
    ),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("run", String(63), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "run", "step", "epoch"),
    ForeignKeyConstraint(["project", "manifest"], ["manifests.project", "manifests.sha256"]),
)
lineage = Table(
    "lineage",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("source", String(255), nullable=False),
    Column("target", String(255), nullable=False),
    Column("relation", String(16), nullable=False),
    PrimaryKeyConstraint("project", "source", "target", "relation"),
    Index("lineage_target", "project", "target"),
)
records.add_to(metadata)

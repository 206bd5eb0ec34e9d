"""The tables of the index: what the logs in the bucket say, in a form that can be asked. All of it but the uploads under
way, the events and the answers to repeated requests can be made again from the bucket.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    # Since when no version needs it; null while one does.
    Column("unpinned_time", UtcTime, index=True),
    PrimaryKeyConstraint("project", "sha256"),
)
uploads = Table(
    "uploads",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("begin_time", UtcTime, nullable=False, index=True),
    # The object store's name of an upload in parts; empty for one that is a single PUT.
    Column("multipart", String(255), nullable=False, server_default=""),
    PrimaryKeyConstraint("project", "sha256"),
)
manifests = Table(
    "manifests",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    # Digest of content and origin: equal for two versions that differ in their parents alone.
    Column("meaning", _DIGEST, nullable=False, server_default="", index=True),
    # The table of its files; empty where the manifest lists them itself.
    Column("index_sha256", _DIGEST, nullable=False, server_default=""),
    Column("file_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "sha256"),
)
# The blobs that a version needs: what is pinned stays.
pins = Table(
    "pins",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("sha256", _DIGEST, nullable=False),
    PrimaryKeyConstraint("project", "manifest", "sha256"),
    ForeignKeyConstraint(["project", "manifest"], ["manifests.project", "manifests.sha256"]),
    ForeignKeyConstraint(["project", "sha256"], ["blobs.project", "blobs.sha256"]),
    Index("pins_blob", "project", "sha256"),
)
# The logs as the bucket has them, up to what was read.
entries = Table(
    "entries",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("log", String(127), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("body", Json, nullable=False),
    PrimaryKeyConstraint("project", "log", "sequence"),
)
# Logs that an entry was being written to: the bucket may know more of them than `entries`.
open_logs = Table(
    "open_logs",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("log", String(127), nullable=False),
    PrimaryKeyConstraint("project", "log"),
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
# Branches and tags.
refs = Table(
    "refs",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("dataset", String(63), nullable=False),
    Column("ref", String(63), nullable=False),
    Column("tag", Boolean, nullable=False),
    Column("version", String(16), nullable=False),
    PrimaryKeyConstraint("project", "dataset", "ref"),
    ForeignKeyConstraint(["project", "dataset"], ["datasets.project", "datasets.id"]),
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
    # The highest number ever given: one that was deleted is not used again.
    Column("numbered", Integer, nullable=False, server_default="0"),
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
    Column("card", Text, nullable=False, server_default=""),
    Column("rejected", Text, nullable=False, server_default=""),
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
# Who read and changed data, and who was refused. Rows are never changed but for the mark that the bucket has a copy.
audit = Table(
    "audit",
    metadata,
    # Begins with the time, so that it sorts as that does.
    Column("id", String(40), nullable=False),
    # Of the resource; of the caller where none is known.
    Column(*_PROJECT, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("subject", String(255), nullable=False),
    Column("role", String(63), nullable=False),
    Column("caller_project", String(63), nullable=False),
    Column("token_id", String(255), nullable=False),
    Column("method", String(255), nullable=False),
    Column("resource", String(255), nullable=False),
    Column("code", String(31), nullable=False),
    Column("reason", String(63), nullable=False),
    Column("source", String(63), nullable=False),
    Column("archived", Boolean, nullable=False, index=True),
    PrimaryKeyConstraint("id"),
    Index("audit_project", "project", "id"),
)
records.add_to(metadata)

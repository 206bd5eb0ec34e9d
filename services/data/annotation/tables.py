"""The tables of label projects. They lie beside the index and are no part of it: the bucket does not know them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from aios.data.v1 import annotation_pb2
from aios.records import Json, Proto, UtcTime
from services.data.tables import metadata as metadata

_PROJECT = ("project", String(63))
_LABEL_PROJECT = ("label_project", String(63))
_TASK = ["project", "label_project", "number"]

label_projects = Table(
    "label_projects",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column("id", String(63), nullable=False),
    # As its maker stated it, with what was left out filled in.
    Column("spec", Proto(annotation_pb2.LabelProject), nullable=False),
    Column("dataset_version", String(255), nullable=False),
    Column("tasks", Integer, nullable=False),
    Column("creator", String(255), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("label_projects_version", "project", "dataset_version"),
)
label_tasks = Table(
    "label_tasks",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_LABEL_PROJECT, nullable=False),
    Column("number", Integer, nullable=False),
    Column("path", String(512), nullable=False),
    Column("row", BigInteger, nullable=False),  # -1 where the file is the item: nulls are never equal
    Column("data", Json, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("round", Integer, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("skips", Integer, nullable=False),
    Column("label", Proto(annotation_pb2.Label)),
    Column("confidence", Float, nullable=False),
    Column("gold", Boolean, nullable=False),
    Column("prelabel", Proto(annotation_pb2.Prelabel)),
    Column("priority", Float, nullable=False),
    Column("reviewer", String(255), nullable=False),
    # Counts leases: the newest of a task has the highest.
    Column("fence", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    PrimaryKeyConstraint(*_TASK),
    UniqueConstraint("project", "label_project", "path", "row"),
    ForeignKeyConstraint(["project", "label_project"], ["label_projects.project", "label_projects.id"]),
    Index("label_tasks_next", "project", "label_project", "state", "priority", "number"),
)
label_annotations = Table(
    "label_annotations",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_LABEL_PROJECT, nullable=False),
    Column("number", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("annotator", String(255), nullable=False),
    Column("label", Proto(annotation_pb2.Label)),  # null: skipped
    Column("skip_reason", Text, nullable=False),
    Column("prelabelled", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint(*_TASK, "round", "annotator"),
    ForeignKeyConstraint(_TASK, [f"label_tasks.{column}" for column in _TASK]),
)
label_leases = Table(
    "label_leases",
    metadata,
    Column(*_PROJECT, nullable=False),
    Column(*_LABEL_PROJECT, nullable=False),
    Column("number", Integer, nullable=False),
    Column("annotator", String(255), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    PrimaryKeyConstraint(*_TASK, "annotator"),
    ForeignKeyConstraint(_TASK, [f"label_tasks.{column}" for column in _TASK]),
)

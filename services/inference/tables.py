"""Tables of the inference service: the metadata that all share, and those of what is watched in production."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from aios.inference.v1 import monitoring_pb2
from aios.records import Proto, UtcTime

metadata = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")
# How much was kept of each deployment's predictions, and what there was no room for.
payload_logs = Table(
    "payload_logs",
    metadata,
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "deployment"),
)
# Files of kept predictions; `version` is the dataset version that has it, empty until its window is over.
payload_files = Table(
    "payload_files",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("path", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("start_time", UtcTime, nullable=False),
    Column("end_time", UtcTime, nullable=False),
    Column("window_end", UtcTime, nullable=False),
    Column("version", String(255), nullable=False, server_default=""),
    UniqueConstraint("project", "deployment", "path"),
    Index("payload_files_time", "project", "deployment", "end_time"),
    Index("payload_files_version", "version", "window_end"),
)
explanations = Table(
    "explanations",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("running", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("body", Proto(monitoring_pb2.Explanation), nullable=False),
    UniqueConstraint("project", "deployment", "id"),
    Index("explanations_running", "running"),
)
# What was answered lately, for feedback to be compared with: the newest of each deployment.
answers = Table(
    "answers",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("request_id", String(255), nullable=False),
    Column("instance", Integer, nullable=False),
    Column("label", Text),
    Column("value", Float),
    Index("answers_trace", "project", "deployment", "trace_id"),
    Index("answers_request", "project", "deployment", "request_id"),
)
# What predictions should have been. `revision` is who answered, NULL until the answer is there.
feedback = Table(
    "feedback",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("request_id", String(255), nullable=False),
    Column("instance", Integer, nullable=False),
    Column("label", Text),
    Column("value", Float),
    Column("revision", Integer),
    Column("correct", Boolean),
    Column("off", Float),
    UniqueConstraint("project", "deployment", "trace_id", "request_id", "instance"),
    Index("feedback_revision", "project", "deployment", "revision", "number"),
)
drift_reports = Table(
    "drift_reports",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("running", Boolean, nullable=False),
    Column("body", Proto(monitoring_pb2.DriftReport), nullable=False),
    UniqueConstraint("project", "deployment", "id"),
    Index("drift_reports_running", "running"),
)
alerts = Table(
    "alerts",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("secret", String(64), nullable=False),
    # Since when what is seen speaks against the state; NULL while it speaks for it.
    Column("doubted_since", UtcTime),
    Column("body", Proto(monitoring_pb2.Alert), nullable=False),
    UniqueConstraint("project", "id"),
)
# Calls of webhooks that are still to be made.
alert_calls = Table(
    "alert_calls",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("alert", String(63), nullable=False),
    Column("body", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_time", UtcTime, nullable=False),
    Index("alert_calls_next", "next_time"),
    Index("alert_calls_alert", "project", "alert", "number"),
)

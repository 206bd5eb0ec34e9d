"""The trainer's tables."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from aios.records import Json, UtcTime, add_to

metadata = MetaData()
add_to(metadata)

runs = Table(
    "runs",
    metadata,
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("spec", Json, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("reason", String(63), nullable=False),
    Column("message", Text, nullable=False),
    Column("creator", String(255), nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("job_epoch", BigInteger, nullable=False),
    Column("job_version", BigInteger, nullable=False),
    Column("job_created", Boolean, nullable=False),
    Column("progress", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("completed", Boolean, nullable=False),
    Column("output", LargeBinary, nullable=False),
    Column("model_version", String(255), nullable=False),
    Column("outputs_version", String(255), nullable=False, server_default=""),
    Column("exit_code", Integer),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("end_time", UtcTime),
    Column("trial", String(128), nullable=False, server_default=""),
    Column("source", String(63), nullable=False, server_default=""),
    PrimaryKeyConstraint("project", "run"),
    Index("runs_newest", "project", "create_time", "run"),
)

metric_points = Table(
    "metric_points",
    metadata,
    # In order of arrival, so that a watcher can go on after the last one it was sent.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("key", String(255), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Index("metric_points_once", "project", "run", "key", "step", unique=True),
    sqlite_autoincrement=True,  # a rewound point's id is not given to another
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("project", String(63), nullable=False),
    Column("sweep", String(63), nullable=False),
    Column("asked", LargeBinary, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("version", BigInteger, nullable=False),
    Column("reason", String(63), nullable=False),
    Column("message", Text, nullable=False),
    Column("creator", String(255), nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("last_created", Boolean, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("end_time", UtcTime),
    PrimaryKeyConstraint("project", "sweep"),
    Index("sweeps_newest", "project", "create_time", "sweep"),
)

trials = Table(
    "trials",
    metadata,
    Column("project", String(63), nullable=False),
    Column("sweep", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("hyperparameters", Json, nullable=False),
    Column("attributes", Json, nullable=False),
    Column("state", String(20), nullable=False),
    Column("becomes", String(20), nullable=False),
    Column("runs", Integer, nullable=False),
    Column("scores", Json, nullable=False),
    Column("looks", Json, nullable=False),
    Column("reports", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("end_time", UtcTime),
    PrimaryKeyConstraint("project", "sweep", "number"),
)

experiments = Table(
    "experiments",
    metadata,
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("name", String(500), nullable=False),
    Column("tags", Json, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("experiments_name", "project", "name", unique=True),
)

# What MLflow knows of a run. One without a row here is the platform's, in the experiment that is there always.
tracked_runs = Table(
    "tracked_runs",
    metadata,
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("experiment", String(63), nullable=False),
    Column("title", String(500), nullable=False),
    Column("user", String(255), nullable=False),
    Column("deleted", Boolean, nullable=False),
    PrimaryKeyConstraint("project", "run"),
    Index("tracked_runs_experiment", "project", "experiment"),
)

run_params = Table(
    "run_params",
    metadata,
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("key", String(255), nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("project", "run", "key"),
)

run_tags = Table(
    "run_tags",
    metadata,
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("key", String(300), nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("project", "run", "key"),
)

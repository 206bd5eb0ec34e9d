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

# What a path of a tracked run or a logged model means. The bytes are content of the data service.
artifacts = Table(
    "artifacts",
    metadata,
    Column("project", String(63), nullable=False),
    Column("root", String(200), nullable=False),
    Column("path", String(512), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "root", "path"),
)

# Every root of artifacts: the version of a dataset that holds them, once they are one.
artifact_roots = Table(
    "artifact_roots",
    metadata,
    Column("project", String(63), nullable=False),
    Column("root", String(200), nullable=False),
    Column("version", String(255), nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("change_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "root"),
    Index("artifact_roots_open", "sealed", "change_time"),
)

# Datasets and logged models that a tracked run was given or made.
run_links = Table(
    "run_links",
    metadata,
    Column("project", String(63), nullable=False),
    Column("run", String(63), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("key", String(600), nullable=False),
    Column("body", Json, nullable=False),
    PrimaryKeyConstraint("project", "run", "kind", "key"),
)

logged_models = Table(
    "logged_models",
    metadata,
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("experiment", String(63), nullable=False),
    Column("name", String(500), nullable=False),
    Column("model_type", String(500), nullable=False),
    Column("run", String(63), nullable=False),
    Column("status", String(40), nullable=False),
    Column("params", Json, nullable=False),
    Column("tags", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("logged_models_experiment", "project", "experiment", "create_time"),
)

# What MLflow says of models and versions of the data service. Version 0 is the model itself.
registered = Table(
    "registered",
    metadata,
    Column("project", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("title", String(255), nullable=False),
    Column("description", Text),
    Column("source", Text, nullable=False),
    Column("run", String(63), nullable=False),
    Column("logged_model", String(63), nullable=False),
    Column("user", String(255), nullable=False),
    Column("tags", Json, nullable=False),
    PrimaryKeyConstraint("project", "model", "version"),
    Index("registered_title", "project", "title"),
    Index("registered_logged_model", "project", "logged_model"),
)

"""artifacts and models as MLflow has them"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "artifact_roots",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("root", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("change_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "root"),
    )
    with op.batch_alter_table("artifact_roots", schema=None) as batch_op:
        batch_op.create_index("artifact_roots_open", ["sealed", "change_time"], unique=False)

    op.create_table(
        "artifacts",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("root", sa.String(length=200), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "root", "path"),
    )
    op.create_table(
        "logged_models",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("experiment", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("model_type", sa.String(length=500), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "id"),
    )
    with op.batch_alter_table("logged_models", schema=None) as batch_op:
        batch_op.create_index(
            "logged_models_experiment", ["project", "experiment", "create_time"], unique=False
        )

    op.create_table(
        "registered",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("logged_model", sa.String(length=63), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "version"),
    )
    with op.batch_alter_table("registered", schema=None) as batch_op:
        batch_op.create_index("registered_logged_model", ["project", "logged_model"], unique=False)
        batch_op.create_index("registered_title", ["project", "title"], unique=False)

    op.create_table(
        "run_links",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=600), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "kind", "key"),
    )

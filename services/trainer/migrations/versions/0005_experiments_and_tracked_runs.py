"""experiments and tracked runs"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "id"),
    )
    with op.batch_alter_table("experiments", schema=None) as batch_op:
        batch_op.create_index("experiments_name", ["project", "name"], unique=True)

    op.create_table(
        "run_params",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "key"),
    )
    op.create_table(
        "run_tags",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "key"),
    )
    op.create_table(
        "tracked_runs",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=63), nullable=False),
        sa.Column("experiment", sa.String(length=63), nullable=False),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("project", "run"),
    )
    with op.batch_alter_table("tracked_runs", schema=None) as batch_op:
        batch_op.create_index("tracked_runs_experiment", ["project", "experiment"], unique=False)

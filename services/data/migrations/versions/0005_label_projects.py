"""label projects"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "label_projects",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("dataset_version", sa.String(length=255), nullable=False),
        sa.Column("tasks", sa.Integer(), nullable=False),
        sa.Column("creator", sa.String(length=255), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "id"),
    )
    with op.batch_alter_table("label_projects", schema=None) as batch_op:
        batch_op.create_index("label_projects_version", ["project", "dataset_version"], unique=False)

    op.create_table(
        "label_tasks",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("label_project", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("skips", sa.Integer(), nullable=False),
        sa.Column("label", sa.LargeBinary(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("gold", sa.Boolean(), nullable=False),
        sa.Column("prelabel", sa.LargeBinary(), nullable=True),
        sa.Column("priority", sa.Float(), nullable=False),
        sa.Column("reviewer", sa.String(length=255), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "label_project"],
            ["label_projects.project", "label_projects.id"],
        ),
        sa.PrimaryKeyConstraint("project", "label_project", "number"),
        sa.UniqueConstraint("project", "label_project", "path", "row"),
    )
    with op.batch_alter_table("label_tasks", schema=None) as batch_op:
        batch_op.create_index(
            "label_tasks_next", ["project", "label_project", "state", "priority", "number"], unique=False
        )

    op.create_table(
        "label_annotations",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("label_project", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(length=255), nullable=False),
        sa.Column("label", sa.LargeBinary(), nullable=True),
        sa.Column("skip_reason", sa.Text(), nullable=False),
        sa.Column("prelabelled", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "label_project", "number"],
            ["label_tasks.project", "label_tasks.label_project", "label_tasks.number"],
        ),
        sa.PrimaryKeyConstraint("project", "label_project", "number", "round", "annotator"),
    )
    op.create_table(
        "label_leases",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("label_project", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(length=255), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "label_project", "number"],
            ["label_tasks.project", "label_tasks.label_project", "label_tasks.number"],
        ),
        sa.PrimaryKeyConstraint("project", "label_project", "number", "annotator"),
    )

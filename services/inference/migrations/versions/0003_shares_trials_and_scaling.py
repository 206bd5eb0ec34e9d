"""shares, trials and scaling"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "traffic",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("deployment", sa.String(length=63), nullable=False),
        sa.Column("shares", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("routed_in", sa.BigInteger(), nullable=False),
        sa.Column("request_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("effect_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    with op.batch_alter_table("traffic", schema=None) as batch_op:
        batch_op.create_index("traffic_deployment", ["project", "deployment", "number"], unique=False)

    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("shares", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.Text(), server_default="", nullable=False))

    with op.batch_alter_table("replicas", schema=None) as batch_op:
        batch_op.add_column(sa.Column("left_in", sa.BigInteger(), server_default="0", nullable=False))

    with op.batch_alter_table("revisions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("mirror", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("stage", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("stage_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("quality", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("wanted", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("asleep", sa.Boolean(), server_default=sa.false(), nullable=False))

"""gangs and what operators say of nodes"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("replicas", sa.LargeBinary(), nullable=True))

    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cordoned", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("taints", sa.JSON(none_as_null=True), nullable=True))

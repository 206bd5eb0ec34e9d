"""progress and time of jobs"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        for name in ("ran_seconds", "waited_seconds"):
            batch_op.add_column(sa.Column(name, sa.Float(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("progress", sa.LargeBinary(), nullable=True))

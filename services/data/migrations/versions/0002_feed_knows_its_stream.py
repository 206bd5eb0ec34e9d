"""dead events are on the bus, and the feed knows its stream"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_table("dead_letters")
    with op.batch_alter_table("feed", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stream", sa.String(length=63), server_default="", nullable=False))

"""changes of jobs are numbered"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("change", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("jobs_change", "jobs", ["change"])

"""logs, pins, branches and tags; the files of a version are in its manifest alone"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("log", sa.String(length=127), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "log", "sequence"),
    )
    op.create_table(
        "open_logs",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("log", sa.String(length=127), nullable=False),
        sa.PrimaryKeyConstraint("project", "log"),
    )
    op.create_table(
        "pins",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "manifest"],
            ["manifests.project", "manifests.sha256"],
        ),
        sa.ForeignKeyConstraint(
            ["project", "sha256"],
            ["blobs.project", "blobs.sha256"],
        ),
        sa.PrimaryKeyConstraint("project", "manifest", "sha256"),
    )
    with op.batch_alter_table("pins", schema=None) as batch_op:
        batch_op.create_index("pins_blob", ["project", "sha256"], unique=False)

    op.create_table(
        "refs",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("dataset", sa.String(length=63), nullable=False),
        sa.Column("ref", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.Boolean(), nullable=False),
        sa.Column("version", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "dataset"],
            ["datasets.project", "datasets.id"],
        ),
        sa.PrimaryKeyConstraint("project", "dataset", "ref"),
    )
    op.execute(
        "INSERT INTO pins (project, manifest, sha256) SELECT DISTINCT project, manifest, sha256 FROM files"
    )
    refs = sa.table("refs", *map(sa.column, ("project", "dataset", "ref", "tag", "version")))
    datasets = sa.table("datasets", *map(sa.column, ("project", "id", "latest")))
    heads = sa.select(
        datasets.c.project, datasets.c.id, sa.literal("main"), sa.false(), datasets.c.latest
    ).where(datasets.c.latest != "")
    op.execute(refs.insert().from_select(["project", "dataset", "ref", "tag", "version"], heads))
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("files_blob"))

    op.drop_table("files")
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unpinned_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index(batch_op.f("ix_blobs_unpinned_time"), ["unpinned_time"], unique=False)

    with op.batch_alter_table("manifests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("meaning", sa.String(length=64), server_default="", nullable=False))
        batch_op.add_column(
            sa.Column("index_sha256", sa.String(length=64), server_default="", nullable=False)
        )
        batch_op.create_index(batch_op.f("ix_manifests_meaning"), ["meaning"], unique=False)

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("card", sa.Text(), server_default="", nullable=False))

    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("numbered", sa.Integer(), server_default="0", nullable=False))

    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("multipart", sa.String(length=255), server_default="", nullable=False))

    op.execute("UPDATE models SET numbered = latest")
    pinned = "SELECT 1 FROM pins WHERE pins.project = blobs.project AND pins.sha256 = blobs.sha256"
    op.execute(f"UPDATE blobs SET unpinned_time = CURRENT_TIMESTAMP WHERE NOT EXISTS ({pinned})")  # noqa: S608

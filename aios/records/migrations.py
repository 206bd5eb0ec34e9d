"""Schema upgrades: each service's `migrations/versions/NNNN_what.py`, run when its database is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, MetaData, create_engine
from sqlalchemy.types import TypeDecorator, TypeEngine

from aios.errors import FailedPrecondition

_SCRIPTS = Path(__file__).parent / "alembic"


class RecordsTooNew(FailedPrecondition):
    """A newer release wrote these records. Run that release, or restore the backup made before the upgrade."""

    reason = "RECORDS_TOO_NEW"


def upgrade(engine: Engine, migrations_dir: Path) -> None:
    """Bring the schema to the newest version, in one transaction: a crash half-way leaves the old one.

    Raises:
        RecordsTooNew: The database has a version that this code does not know.
    """
    with engine.connect() as connection, _tables_may_be_rebuilt(connection), connection.begin():
        settings = config(migrations_dir, connection)
        script = ScriptDirectory.from_config(settings)
        heads = MigrationContext.configure(connection).get_current_heads()
        if set(heads) == set(script.get_heads()):
            return
        try:
            command.upgrade(settings, "head")
        except CommandError as error:
            raise RecordsTooNew(
                f"The records of {migrations_dir.parent.name} are of version {', '.join(heads)}, which this release "
                f"does not know ({error}): run the release that wrote them, or restore the backup made before it",
                version=", ".join(heads),
            ) from error
        _check_references(connection)


def differences(migrations_dir: Path, metadata: MetaData) -> list[Any]:
    """What the tables in code have and the migrations do not make, or the reverse. Empty is as it should be."""
    engine = create_engine("sqlite://")
    upgrade(engine, migrations_dir)
    with engine.connect() as connection:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection), metadata)
        return found


@contextmanager
def _tables_may_be_rebuilt(connection: Connection) -> Iterator[None]:
    """On SQLite most changes copy a table and drop the old one, which would delete all rows that refer to it.

    Source: sqlite.org/lang_altertable.html, section 7.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    # On the driver's connection: within a transaction, which SQLAlchemy would begin, this changes nothing.
    raw = connection.connection.driver_connection
    assert raw is not None
    (before,) = raw.execute("PRAGMA foreign_keys").fetchone()
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA foreign_keys={before}")


def _check_references(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if lost:
            raise RuntimeError(f"a migration left {len(lost)} rows without what they refer to: {lost[:3]}")


def config(migrations_dir: Path, connection: Connection, metadata: MetaData | None = None) -> Config:
    """Alembic's configuration, from code: there is no alembic.ini."""
    settings = Config()
    settings.set_main_option("script_location", _SCRIPTS.as_posix().replace("%", "%%"))
    settings.set_main_option("path_separator", "newline")
    settings.set_main_option("version_locations", (migrations_dir / "versions").as_posix().replace("%", "%%"))
    settings.attributes |= {"connection": connection, "metadata": metadata}
    return settings


def render_type(kind: str, item: Any, context: Any) -> str | Literal[False]:
    """Write our column types into a migration as what they are on disk: a migration never changes with the code."""
    if kind == "type" and isinstance(item, TypeDecorator):
        plain: TypeEngine[Any] = item.impl_instance
        return f"sa.{plain!r}"
    return False

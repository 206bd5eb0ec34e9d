"""Write a service's next migration from its tables: `python -m aios.records.revise services.scheduler "add labels"`.

Read the result before you commit it: a rename looks to it like a drop and an add. Migrations go forward only: what
undoes one is a backup.
"""

import importlib
import subprocess
import sys
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine

from aios.records import migrations


def revise(package: str, message: str) -> Path | None:
    """Compare `<package>.store.metadata` with what the migrations so far make, and write the difference.

    Returns:
        The new file; None when nothing differs.
    """
    store = importlib.import_module(f"{package}.store")
    metadata: MetaData = store.metadata
    directory = Path(str(store.__file__)).parent / "migrations"
    (directory / "versions").mkdir(parents=True, exist_ok=True)
    if not migrations.differences(directory, metadata):
        return None
    engine = create_engine("sqlite://")
    migrations.upgrade(engine, directory)
    with engine.begin() as connection:
        config = migrations.config(directory, connection, metadata)
        number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
        made = command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
    path = Path(made.path)  # type: ignore[union-attr]  # one branch makes one script
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("    # ###")))
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "check", "--fix-only", "-q", path], check=True)
    subprocess.run([ruff, "format", "-q", path], check=True)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(revise(sys.argv[1], sys.argv[2]) or "nothing differs")

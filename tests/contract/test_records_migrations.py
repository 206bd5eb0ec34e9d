"""Migrations are complete, and the tool that writes them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from aios.config import Settings
from aios.records import Database
from aios.records.dialect import sqlite
from aios.records.migrations import differences

ROOT = Path(__file__).parents[2]
STORES = sorted(
    ".".join(store.relative_to(ROOT).with_suffix("").parts)
    for folder in ("services", "gateway")
    for store in (ROOT / folder).glob("*/store.py")
    if (store.parent / "migrations").exists()
)

STORE = """
from sqlalchemy import Column, MetaData, String, Table

from aios import records
from aios.scheduler.v1 import job_pb2

metadata = MetaData()
Table(
    "things",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("job", records.Proto(job_pb2.Job), nullable=False),
    Column("create_time", records.UtcTime, nullable=False),{more}
)
records.add_to(metadata)
"""


@pytest.mark.parametrize("store", STORES)
def test_the_migrations_of_a_service_make_the_tables_in_its_code(store: str) -> None:
    module = importlib.import_module(store)

    migrations = Path(str(module.__file__)).parent / "migrations"

    assert differences(migrations, module.metadata) == [], "run python -m aios.records.revise"


async def test_the_next_migration_is_written_from_the_tables_and_keeps_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shed"
    package.mkdir()
    store = package / "store.py"

    store.write_text(STORE.format(more=""))
    assert revise(tmp_path, "first").endswith("shed/migrations/versions/0001_first.py")
    assert revise(tmp_path, "again") == "nothing differs"
    await open_and_close(tmp_path, monkeypatch)
    with sqlite.connect(tmp_path / "records" / "shed.db") as file:
        file.execute("INSERT INTO things VALUES ('a', x'', '2026-01-01 00:00:00.000000')")
    file.close()

    store.write_text(
        STORE.format(more='\n    Column("note", String(9), nullable=False, server_default="-"),')
    )
    assert revise(tmp_path, "add note").endswith("0002_add_note.py")
    await open_and_close(tmp_path, monkeypatch)
    with sqlite.connect(tmp_path / "records" / "shed.db") as file:
        assert file.execute("SELECT id, note FROM things").fetchall() == [("a", "-")]
    file.close()


def revise(directory: Path, message: str) -> str:
    command = [sys.executable, "-m", "aios.records.revise", "shed", message]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(directory)}, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()[-1].strip()


async def open_and_close(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(directory)
    sys.modules.pop("shed.store", None)
    metadata = importlib.import_module("shed.store").metadata
    db = await Database.open(Settings(home=directory), "shed", metadata, directory / "shed" / "migrations")
    await db.close()

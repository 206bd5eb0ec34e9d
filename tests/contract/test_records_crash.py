"""What a caller was told is done survives the death of the process."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from aios.config import Settings
from aios.records import Feed
from aios.records.dialect import RecordsFull, journal_mode
from tests.notes import adding, ids, open_notes

ROOT = Path(__file__).parents[2]
KILLS = 4
WITHOUT_THE_WHEEL = "import sys; sys.modules['pysqlite3'] = None\n"
"""So that Python's own SQLite is used, by the rules for its version."""

WRITER = """
import asyncio, sys, uuid
from pathlib import Path
from aios.config import Settings
from tests.notes import add, open_notes

async def main():
    db = await open_notes(Settings(home=Path(sys.argv[1]), database_url=sys.argv[2]))

    async def lane():
        while True:
            note = uuid.uuid4().hex
            await db.write(lambda tx: add(tx, note))
            print(note, flush=True)

    await asyncio.gather(*(lane() for _ in range(8)))

asyncio.run(main())
"""


async def test_every_acknowledged_write_survives_kill_9_of_either_library(tmp_path: Path) -> None:
    settings, acknowledged = Settings(home=tmp_path), set[str]()
    for kill in range(KILLS):
        before = "" if kill % 2 else WITHOUT_THE_WHEEL
        acknowledged |= await asyncio.to_thread(write_until_killed, settings, before)

    db = await open_notes(Settings(home=tmp_path))
    kept = await db.read(ids)
    changes = await Feed(db).read("note", None, after=1, limit=100_000)
    await db.close()

    assert len(acknowledged) > 20
    assert acknowledged <= set(kept)
    # Each change has its event, each event its change, and no revision is missing.
    assert sorted(event.resource_id for event in changes.events) == kept
    assert [event.revision for event in changes.events] == list(range(2, len(kept) + 2))


async def test_a_full_disk_refuses_writes_cleanly_and_recovers(tmp_path: Path) -> None:
    db = await open_notes(Settings(home=tmp_path))
    await db.write(adding("a"))
    await db.write(lambda tx: tx.execute(text("PRAGMA max_page_count=1")))  # SQLite takes the present size

    results = await asyncio.gather(
        *(db.write(adding(str(n) * 1000)) for n in range(300)), return_exceptions=True
    )
    refused = [result for result in results if result is not None]

    assert refused
    assert {type(error) for error in refused} == {RecordsFull}
    assert len(await db.read(ids)) == 301 - len(refused)

    await db.write(lambda tx: tx.execute(text("PRAGMA max_page_count=1000000")))
    await db.write(adding("b"))
    assert "b" in await db.read(ids)
    await db.close()


def write_until_killed(settings: Settings, before: str = "") -> set[str]:
    """The notes that a process said were written, before it was killed in the middle of writing more."""
    command = [sys.executable, "-c", before + WRITER, str(settings.home), settings.database_url]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(0.3)
    process.kill()
    lines = [first, *process.communicate()[0].splitlines(keepends=True)]
    return {line.strip() for line in lines if line.endswith("\n")}


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "TRUNCATE"),
        ((3, 44, 5), "TRUNCATE"),
        ((3, 44, 6), "WAL"),
        ((3, 46, 0), "TRUNCATE"),
        ((3, 50, 6), "TRUNCATE"),
        ((3, 50, 7), "WAL"),
        ((3, 51, 2), "TRUNCATE"),
        ((3, 51, 3), "WAL"),
        ((3, 52, 0), "WAL"),
    ],
)
def test_wal_is_used_only_where_its_reset_is_fixed(version: tuple[int, int, int], mode: str) -> None:
    assert journal_mode(version) == mode


@pytest.mark.parametrize("before", ["", WITHOUT_THE_WHEEL])
def test_the_library_in_use_decides(tmp_path: Path, before: str) -> None:
    look = "db = await open_notes(Settings(home=Path(sys.argv[1])))\n    print(dialect.sqlite.sqlite_version, await db.read(mode))"
    program = f"""{before}
import asyncio, sys
from pathlib import Path
from sqlalchemy import text
from aios.config import Settings
from aios.records import dialect
from tests.notes import open_notes

def mode(tx):
    return [tx.execute(text(f"PRAGMA {{name}}")).scalar() for name in ("journal_mode", "synchronous")]

async def main():
    {look}
    await db.close()

asyncio.run(main())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    version, _, pragmas = out.strip().partition(" ")
    expected = journal_mode(tuple(map(int, version.split("."))))
    assert pragmas == str([expected.lower(), 2])  # 2 is FULL
    if not before:
        assert expected == "WAL"

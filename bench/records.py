"""Durable writes per second, alone and many at once, against the bare SQLite library under the same settings.

Each write adds one row and one event and is on disk when it is answered. The bare side does the same statements
through its Python module: one transaction for each write, or one for as many as our writer may put in a group.
"""

import asyncio
import json
import statistics
import tempfile
import time
import uuid
from pathlib import Path

from aios.config import Settings
from aios.records import Database
from aios.records.database import GROUP_WRITES_MAX
from aios.records.dialect import journal_mode, sqlite
from bench.report import Report
from tests.notes import adding, open_notes

ROUNDS = 7
SERIAL_WRITES = 60  # per round and side
GROUPED_WRITES = 600


class Bare:
    """The library alone, with what our connection sets."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite.connect(path, isolation_level=None)
        mode = journal_mode(sqlite.sqlite_version_info)
        for pragma in (f"journal_mode={mode}", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, rank INTEGER, create_time TEXT)")
        self._connection.execute("CREATE TABLE feed (id INTEGER PRIMARY KEY, revision INTEGER)")
        self._connection.execute("INSERT INTO feed VALUES (1, 1)")
        self._connection.execute(
            "CREATE TABLE events (revision INTEGER PRIMARY KEY, id TEXT UNIQUE, noun TEXT, project TEXT,"
            " resource_id TEXT, type TEXT, payload TEXT, traceparent TEXT, time TEXT)"
        )
        self._connection.execute("CREATE INDEX events_noun_revision ON events (noun, revision)")

    def write(self, ids: list[str], per_transaction: int) -> None:
        for start in range(0, len(ids), per_transaction):
            self._connection.execute("BEGIN IMMEDIATE")
            for note in ids[start : start + per_transaction]:
                self._add(note)
            self._connection.execute("COMMIT")

    def _add(self, note: str) -> None:
        now = "2026-01-01 00:00:00.000000"
        self._connection.execute("INSERT INTO notes VALUES (?, 0, ?)", (note, now))
        advance = "UPDATE feed SET revision = revision + 1 RETURNING revision"
        (revision,) = self._connection.execute(advance).fetchone()
        payload = json.dumps({"id": note, "rank": 0})
        row = (revision, str(uuid.uuid4()), "note", "demo", note, "created", payload, "", now)
        self._connection.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?)", row)


async def main() -> None:
    report = Report("records")
    rates: dict[str, list[float]] = {
        name: [] for name in ("serial", "bare_serial", "grouped", "bare_grouped")
    }
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        bare = Bare(Path(home, "bare.db"))
        db = await open_notes(Settings(home=Path(home)))
        report.figures["sqlite"] = sqlite.sqlite_version
        report.figures["journal_mode"] = journal_mode(sqlite.sqlite_version_info)
        for number in range(ROUNDS):
            serial = [f"s{number}-{each}" for each in range(SERIAL_WRITES)]
            grouped = [f"g{number}-{each}" for each in range(GROUPED_WRITES)]
            began = time.perf_counter()
            bare.write(serial, 1)
            rates["bare_serial"].append(SERIAL_WRITES / (time.perf_counter() - began))
            began = time.perf_counter()
            await _one_by_one(db, serial)
            rates["serial"].append(SERIAL_WRITES / (time.perf_counter() - began))
            began = time.perf_counter()
            bare.write(grouped, GROUP_WRITES_MAX)
            rates["bare_grouped"].append(GROUPED_WRITES / (time.perf_counter() - began))
            began = time.perf_counter()
            await asyncio.gather(*(db.write(adding(note)) for note in grouped))
            rates["grouped"].append(GROUPED_WRITES / (time.perf_counter() - began))
            report.say(", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
        await db.close()
    for name, values in rates.items():
        report.figure(f"{name}_writes_per_second", statistics.median(values))
    for name in ("serial", "grouped"):
        pairs = zip(rates[f"bare_{name}"], rates[name], strict=True)
        report.figure(f"{name}_bare_over_ours", statistics.median(theirs / ours for theirs, ours in pairs))
    report.finish()


async def _one_by_one(db: Database, ids: list[str]) -> None:
    for note in ids:
        await db.write(adding(note))


if __name__ == "__main__":
    asyncio.run(main())

"""PostgreSQL is killed, hangs, and comes back; the process that uses it goes on."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aios.config import Settings
from aios.records import Database, Feed, dialect
from aios.records.dialect import RecordsUnavailable
from tests.contract.test_records_crash import write_until_killed
from tests.notes import adding, ids, open_notes
from tests.postgres import PostgresServer

LANES = 8


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """Killed freely: it runs again for whoever comes next."""
    yield postgres_server
    postgres_server.kill()
    postgres_server.start()


@pytest.fixture
def settings(server: PostgresServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=server.database())


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    opened = await open_notes(settings)
    yield opened
    await opened.close()


async def health(db: Database, answers: bool) -> None:
    async with asyncio.timeout(10):
        while db.answers() is not answers:  # noqa: ASYNC110  # it asks a server
            await asyncio.sleep(0.05)


async def test_while_the_database_is_away_calls_are_unavailable_and_afterwards_they_work(
    db: Database, server: PostgresServer
) -> None:
    await db.write(adding("before"))
    server.kill()

    for _ in range(3):
        results = await asyncio.gather(
            *(db.write(adding(f"away{n}")) for n in range(5)), db.read(ids), return_exceptions=True
        )
        assert {type(result) for result in results} == {RecordsUnavailable}, results
    await health(db, False)

    server.start()
    await health(db, True)
    await db.write(adding("after"))
    assert await db.read(ids) == ["after", "before"]


async def test_what_was_acknowledged_is_kept_when_the_database_dies_under_load(
    db: Database, server: PostgresServer
) -> None:
    """What fails may have been committed: its answer was lost with the connection."""
    seen: dict[str, bool] = {}
    dice = random.Random(3)

    async def lane(number: int) -> None:
        for each in range(10_000):
            note = f"{number}-{each}"
            try:
                await db.write(adding(note))
                seen[note] = True
            except RecordsUnavailable:
                seen[note] = False
                await asyncio.sleep(0.05)

    lanes = [asyncio.create_task(lane(number)) for number in range(LANES)]
    for _ in range(3):
        await asyncio.sleep(dice.uniform(0.1, 0.3))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await asyncio.sleep(0.3)
    for task in lanes:
        task.cancel()
    ended = await asyncio.gather(*lanes, return_exceptions=True)
    assert {type(end) for end in ended} == {asyncio.CancelledError}, ended

    # What was given up is written all the same, and before what is asked now.
    await db.write(adding("last"))
    kept = set(await db.read(ids))
    async with asyncio.timeout(5):
        await db.wait(len(kept))  # a commit whose answer was lost is heard of by the next probe
    acknowledged = {note for note, done in seen.items() if done}
    assert acknowledged <= kept
    assert False in seen.values()
    changes = await Feed(db).read("note", None, after=1, limit=100_000)
    assert {event.resource_id for event in changes.events} == kept
    assert [event.revision for event in changes.events] == list(range(2, len(kept) + 2))


async def test_a_database_that_hangs_is_noticed_and_what_was_asked_is_done_when_it_goes_on(
    settings: Settings, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios.records.database.ANSWER_SECONDS", 0.3)
    db = await open_notes(settings)
    server.pause()
    try:
        waiting = asyncio.create_task(db.write(adding("a")))
        await health(db, False)
        assert not waiting.done()
    finally:
        server.go_on()

    await asyncio.wait_for(waiting, 5)
    await health(db, True)
    assert await db.read(ids) == ["a"]
    await db.close()


async def test_opening_says_that_the_database_cannot_be_reached(
    settings: Settings, server: PostgresServer
) -> None:
    server.kill()

    with pytest.raises(RecordsUnavailable):
        await open_notes(settings)


async def test_a_killed_owner_is_followed_at_once_and_lost_nothing(settings: Settings) -> None:
    said = await asyncio.to_thread(write_until_killed, settings)

    db = await open_notes(settings)
    kept = set(await db.read(ids))
    await db.close()

    assert len(said) > 20
    assert said <= kept


async def test_an_owner_that_was_replaced_while_it_was_away_cannot_write(
    db: Database, settings: Settings, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "OWNER_WAIT_SECONDS", 0.2)
    server.kill()
    server.start()
    other = await open_notes(settings)

    with pytest.raises(dialect.RecordsOwned):
        await db.write(adding("mine"))

    await other.write(adding("theirs"))
    assert await other.read(ids) == ["theirs"]
    await other.close()

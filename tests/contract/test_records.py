"""What records promise on every database."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from aios.config import Settings
from aios.errors import InvalidArgument, Unavailable
from aios.records import Database, Feed, Page, RequestIdReused, RevisionCompacted, Tx, dialect, feed
from aios.records.migrations import RecordsTooNew
from aios.records.tables import idempotency
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2
from tests.notes import add, adding, called_by, ids, notes, open_notes

Reopen = Callable[[], Awaitable[Database]]


class HandClock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, database_url: Callable[[str], str]) -> Settings:
    return Settings(home=tmp_path, database_url=database_url(request.param))


@pytest.fixture
async def reopen(settings: Settings, clock: HandClock) -> AsyncIterator[Reopen]:
    """Opens the same records each time; the last database opened is closed at the end."""
    service = f"notes_{uuid.uuid4().hex[:8]}"
    opened: list[Database] = []

    async def open_again() -> Database:
        if opened:
            await opened.pop().close()
        opened.append(await open_notes(settings, service, clock))
        return opened[-1]

    yield open_again
    for db in opened:
        await db.close()


@pytest.fixture
async def db(reopen: Reopen) -> Database:
    return await reopen()


# --- transactions


async def test_what_is_written_is_still_there_after_a_restart(db: Database, reopen: Reopen) -> None:
    await db.write(adding("a"))

    db = await reopen()

    assert await db.read(ids) == ["a"]
    assert db.revision == 2


async def test_a_write_that_raises_leaves_nothing_and_raises_in_the_caller(db: Database) -> None:
    def fail(tx: Tx) -> None:
        add(tx, "a")
        raise InvalidArgument("no")

    with pytest.raises(InvalidArgument, match="no"):
        await db.write(fail)

    assert await db.read(ids) == []
    assert (await Feed(db).read("note", None, after=1)).events == []


async def test_one_of_many_concurrent_writes_fails_alone(db: Database) -> None:
    await db.write(adding("07"))

    results = await asyncio.gather(*(db.write(adding(f"{n:02}")) for n in range(40)), return_exceptions=True)

    assert [n for n, result in enumerate(results) if isinstance(result, IntegrityError)] == [7]
    assert await db.read(ids) == [f"{n:02}" for n in range(40)]


async def test_a_reader_cannot_write(db: Database) -> None:
    with pytest.raises(DBAPIError, match=r"read.?only"):
        await db.read(adding("a"))

    assert await db.read(ids) == []


async def test_cancelling_the_caller_does_not_undo_the_commit(db: Database) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(tx: Tx) -> None:
        loop.call_soon_threadsafe(started.set)
        add(tx, "a")

    task = asyncio.create_task(db.write(slow))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await db.write(adding("b"))
    assert await db.read(ids) == ["a", "b"]


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest(db: Database, reopen: Reopen) -> None:
    accepted = [asyncio.create_task(db.write(adding(f"n{n}"))) for n in range(20)]
    await asyncio.sleep(0)

    await db.close()

    await asyncio.gather(*accepted)
    for late in (db.write(adding("late")), db.read(ids)):
        with pytest.raises(Unavailable):
            await late
    db = await reopen()
    assert len(await db.read(ids)) == 20


async def test_times_come_back_in_utc_and_naive_ones_are_refused(db: Database) -> None:
    time = datetime.fromisoformat("2026-03-01T10:00:00.000123+02:00")
    await db.write(lambda tx: tx.execute(insert(notes).values(id="a", rank=0, create_time=time)))

    read = await db.read(lambda tx: tx.execute(select(notes.c.create_time)).scalar_one())

    assert read == time
    assert read.tzinfo is UTC
    naive = insert(notes).values(id="b", rank=0, create_time=time.replace(tzinfo=None))
    with pytest.raises(StatementError, match="no time zone"):
        await db.write(lambda tx: tx.execute(naive))


# --- the log of changes


async def test_revisions_count_up_in_commit_order_without_gaps(db: Database) -> None:
    await asyncio.gather(*(db.write(adding(f"n{n}")) for n in range(50)))

    changes = await Feed(db).read("note", "demo", after=1)

    assert [event.revision for event in changes.events] == list(range(2, 52))
    assert changes.revision == db.revision == 51


async def test_a_watcher_wakes_when_something_is_committed(db: Database) -> None:
    waiting = asyncio.create_task(Feed(db).wait(after=1))
    await asyncio.sleep(0)
    assert not waiting.done()

    await db.write(adding("a"))

    assert await asyncio.wait_for(waiting, 1) == 2


async def test_an_event_carries_the_resource_with_proto_field_names(db: Database, clock: HandClock) -> None:
    job = job_pb2.Job(name="projects/demo/jobs/j")
    job.create_time.FromDatetime(clock.now())
    await db.write(lambda tx: tx.emit("job", "demo", "j", "created", job))

    (event,) = (await Feed(db).read("job", None, after=1)).events

    assert event.payload == {"name": "projects/demo/jobs/j", "create_time": "2026-01-01T12:00:00Z"}
    assert (event.domain, event.noun, event.project, event.resource_id) == (db.service, "job", "demo", "j")
    assert event.time == clock.now()


async def test_a_reader_of_one_project_goes_on_past_the_events_of_others(db: Database) -> None:
    for n in range(6):
        await db.write(
            partial(
                Tx.emit, noun="job", project=f"p{n % 2}", resource_id=f"j{n}", event="created", payload={}
            )
        )

    first = await Feed(db).read("job", "p0", after=1, limit=2)
    second = await Feed(db).read("job", "p0", after=first.revision, limit=2)

    assert [event.resource_id for event in first.events + second.events] == ["j0", "j2", "j4"]
    assert second.revision == db.revision


async def test_what_is_compacted_or_never_was_is_out_of_range(db: Database) -> None:
    for n in range(10):
        await db.write(adding(f"n{n}"))
    await db.write(lambda tx: feed.mark_published(tx, 8, ""))

    await db.write(lambda tx: feed.compact(tx, tx.now(), keep=2))

    # 9 would do for the number kept, but 9 is not on the bus yet.
    assert [e.revision for e in (await Feed(db).read(None, None, after=8)).events] == [9, 10, 11]
    for lost in (7, 12):
        with pytest.raises(RevisionCompacted):
            await Feed(db).read(None, None, after=lost)


async def test_a_new_stream_gets_all_that_the_log_still_holds(db: Database) -> None:
    for n in range(10):
        await db.write(adding(f"n{n}"))
    assert await db.write(lambda tx: feed.start_stream(tx, "first")) == 1
    await db.write(lambda tx: feed.mark_published(tx, 8, "first"))
    await db.write(lambda tx: feed.compact(tx, tx.now(), keep=5))
    assert await db.write(lambda tx: feed.start_stream(tx, "first")) == 8

    assert await db.write(lambda tx: feed.start_stream(tx, "second")) == 6
    await db.write(lambda tx: feed.mark_published(tx, 9, "first"))  # by a relay that has not heard of it
    assert await db.write(lambda tx: feed.start_stream(tx, "second")) == 6


async def test_events_of_yesterday_are_compacted(db: Database, clock: HandClock) -> None:
    await db.write(adding("old"))
    clock.time += timedelta(hours=25)
    await db.write(adding("new"))
    await db.write(lambda tx: feed.mark_published(tx, 3, ""))

    assert await db.write(lambda tx: feed.compact(tx, tx.now())) is False

    assert [e.resource_id for e in (await Feed(db).read(None, None, after=2)).events] == ["new"]


# --- one answer per request

REQUEST_ID = "5f0f5a46-2c5e-4b61-93c2-6b1a0a3c9d11"


def creation(job: str = "j", request_id: str = REQUEST_ID) -> scheduler_service_pb2.CreateJobRequest:
    return scheduler_service_pb2.CreateJobRequest(parent="projects/demo", job_id=job, request_id=request_id)


async def create(
    db: Database, request: scheduler_service_pb2.CreateJobRequest, by: str = "ann"
) -> job_pb2.Job:
    def make(tx: Tx) -> job_pb2.Job:
        note = uuid.uuid4().hex
        add(tx, note)
        return job_pb2.Job(name=note)

    with called_by(by):
        return await db.once(request, make, job_pb2.Job)


async def test_a_repeated_request_takes_effect_once_also_when_sent_at_the_same_time(
    db: Database, reopen: Reopen
) -> None:
    answers = await asyncio.gather(*(create(db, creation()) for _ in range(10)))
    db = await reopen()
    answers.append(await create(db, creation(request_id=REQUEST_ID.upper())))

    assert {answer.name for answer in answers} == set(await db.read(ids))
    assert len(await db.read(ids)) == 1


async def test_the_same_request_id_with_another_body_is_refused(db: Database) -> None:
    await create(db, creation())

    with pytest.raises(RequestIdReused) as caught:
        await create(db, creation(job="another"))

    assert "request_id" in caught.value.fields
    assert len(await db.read(ids)) == 1


async def test_callers_do_not_see_each_others_requests(db: Database) -> None:
    assert await create(db, creation(), by="ann") != await create(db, creation(), by="ben")


async def test_a_failed_request_may_be_tried_again(db: Database) -> None:
    def fail(tx: Tx) -> job_pb2.Job:
        raise InvalidArgument("not now")

    with called_by("ann"), pytest.raises(InvalidArgument):
        await db.once(creation(), fail, job_pb2.Job)

    assert (await create(db, creation())).name in await db.read(ids)


async def test_after_a_day_a_request_id_is_forgotten(db: Database, clock: HandClock) -> None:
    first = await create(db, creation())
    clock.time += timedelta(hours=24, seconds=1)

    assert await create(db, creation(job="another")) != first
    assert await db.read(lambda tx: len(tx.execute(select(idempotency)).all())) == 1


async def test_a_request_id_that_is_no_uuid_is_refused(db: Database) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await create(db, creation(request_id="7"))

    assert "request_id" in caught.value.fields


# --- pages


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_give_every_row_once_in_order(db: Database, clock: HandClock, descending: bool) -> None:
    for n in range(23):
        clock.time += timedelta(seconds=n % 3 == 0)  # many notes share a time
        await db.write(adding(f"n{n:02}"))

    seen: list[str] = []
    request = scheduler_service_pb2.ListJobsRequest(parent="projects/demo", page_size=4)
    while True:
        page = Page.of(request)
        by = (notes.c.create_time, notes.c.id)
        rows, token = await db.read(partial(page.fetch, select=select(notes), by=by, descending=descending))
        seen += [row.id for row in rows]
        if not token:
            break
        request.page_token = token

    assert seen == sorted((f"n{n:02}" for n in range(23)), reverse=descending)
    assert request.page_token  # there were several pages


# --- ownership and schema


async def test_a_second_owner_is_refused(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "OWNER_WAIT_SECONDS", 0.1)

    with pytest.raises(dialect.RecordsOwned):
        await open_notes(settings, db.service)


async def test_records_of_a_newer_release_are_refused(db: Database, reopen: Reopen) -> None:
    await db.write(lambda tx: tx.execute(text("UPDATE alembic_version SET version_num = '0099'")))

    with pytest.raises(RecordsTooNew, match="0099"):
        await reopen()

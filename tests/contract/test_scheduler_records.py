"""What nodes say and what the scheduler holds in memory, against real records: quick, and never wrong for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aios.config import Settings
from aios.errors import Aborted
from aios.names import JobName
from aios.records import Database, Feed
from aios.runtime.clock import SystemClock
from services.scheduler import jobs, store
from services.scheduler.app import MIGRATIONS
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.inbox import Inbox
from services.scheduler.jobs import Job, JobExists, State
from services.scheduler.mirror import Mirror
from services.scheduler.nodes import Node, NodeState
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC = JobSpec(("true",), Resources(1000))


@pytest.fixture(params=["sqlite", "postgresql"])
async def db(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: Callable[[str], str]
) -> AsyncIterator[Database]:
    settings = Settings(home=tmp_path, database_url=database_url(request.param))
    opened = await Database.open(settings, "scheduler", store.metadata, MIGRATIONS)
    yield opened
    await opened.close()


async def added(db: Database, *names: str) -> list[Job]:
    asked = [jobs.create(JobName("p", name), SPEC, NOW) for name in names]
    return await db.write(lambda tx: [store.add(tx, job) for job in asked])


async def started(db: Database, *names: str) -> list[Job]:
    """Jobs that were sent to node a."""
    waiting = await added(db, *names)
    changes = [(job, [jobs.assign(job, ["a"], SPEC.resources, NOW)]) for job in waiting]
    found = await db.write(lambda tx: store.save_all(tx, changes))
    return [job for job in found if job is not None]


async def stored(db: Database, name: str) -> Job:
    return await db.read(lambda tx: store.get(tx, JobName("p", name)))


def said(job: Job, state: AttemptState) -> Attempt:
    return Attempt(job.name, job.epoch, "a", state, exit_code=0 if state is AttemptState.ENDED else None)


async def opened(db: Database) -> tuple[Mirror, Inbox]:
    mirror = Mirror(db, lambda job: job)
    await mirror.look()
    return mirror, Inbox(db, mirror, SystemClock())


async def test_all_that_nodes_say_at_once_is_stored_and_announced_step_by_step(db: Database) -> None:
    one, two = await started(db, "one", "two")
    mirror, inbox = await opened(db)
    both = [said(one, AttemptState.RUNNING), said(one, AttemptState.ENDED)]
    counts = await asyncio.gather(inbox.put(both), inbox.put([said(two, AttemptState.RUNNING)]))
    assert [*counts] == [[True, True], [True]]
    assert (await stored(db, "one")).state is State.SUCCEEDED
    assert (await stored(db, "two")).state is State.RUNNING
    told = [(event.resource_id, event.type) for event in (await Feed(db).read("job", "p", 1)).events]
    assert [event for name, event in told if name == "one"] == ["created", "starting", "running", "succeeded"]
    seen = await mirror.look()
    assert ([job.name.job for job in seen.holding], seen.queue) == (["two"], [])


async def test_what_was_seen_last_decides_nothing_that_the_records_do_not_say(db: Database) -> None:
    [job] = await started(db, "one")
    _, inbox = await opened(db)
    assert await inbox.put([said(job, AttemptState.RUNNING)]) == [True]
    # Somebody else gives the attempt up, and opens another one.
    now = await stored(db, "one")
    now = await db.write(lambda tx: store.save(tx, now, jobs.lose(now, NOW, "a")))
    assert await inbox.put([said(job, AttemptState.RUNNING)]) == [False], "memory said that it runs"
    later = jobs.assign(now, ["a"], SPEC.resources, NOW)
    now = await db.write(lambda tx: store.save(tx, now, later))
    ends = [said(job, AttemptState.ENDED), said(now, AttemptState.RUNNING), said(now, AttemptState.ENDED)]
    assert await inbox.put(ends) == [False, True, True], "memory knows of no second attempt"
    assert ((await stored(db, "one")).state, (await stored(db, "one")).epoch) == (State.SUCCEEDED, 2)
    unknown = replace(said(job, AttemptState.ENDED), job=JobName("p", "none"))
    assert await inbox.put([unknown]) == [False]


async def test_a_change_of_what_has_changed_meanwhile_is_left_out_and_the_others_are_stored(
    db: Database,
) -> None:
    one, two = await added(db, "one", "two")
    await db.write(lambda tx: store.save(tx, one, jobs.cancel(one, NOW)))
    changes = [(job, [jobs.assign(job, ["a"], SPEC.resources, NOW)]) for job in (one, two)]
    assert [job and job.state for job in await db.write(lambda tx: store.save_all(tx, changes))] == [
        None,
        State.STARTING,
    ]
    with pytest.raises(Aborted):
        await db.write(lambda tx: store.save(tx, one, jobs.assign(one, ["a"], SPEC.resources, NOW)))
    with pytest.raises(JobExists):
        await added(db, "two")


async def test_what_was_told_need_not_be_read_and_what_was_not_is(db: Database) -> None:
    mirror, _ = await opened(db)
    told, untold = await added(db, "told", "untold")
    mirror.told([told])
    assert mirror.get(told.name) == told, "known before the next look"
    assert {job.name.job for job in (await mirror.look()).queue} == {"told", "untold"}
    assert {job.name for job in mirror.take().jobs} == {told.name, untold.name}
    gone = await db.write(lambda tx: store.save(tx, told, jobs.cancel(told, NOW)))
    mirror.told([gone])
    assert [job.name.job for job in (await mirror.look()).queue] == ["untold"]
    changes = mirror.take()
    assert (changes.jobs, changes.gone) == ((), (told.name,))
    again = Mirror(db, lambda job: job)
    assert await again.look() == await mirror.look(), "a restart knows the same"


async def test_what_jobs_run_in_is_read_when_it_has_changed(db: Database) -> None:
    mirror, _ = await opened(db)
    before = await mirror.look()
    assert (await mirror.look()).nodes is before.nodes
    await db.write(lambda tx: store.put_node(tx, Node("a", NodeState.READY, Resources(1000))))
    assert [node.name for node in (await mirror.look()).nodes] == ["a"]
    assert [node.name for node in (await db.read(mirror.surroundings)).nodes] == ["a"]

"""Queues in SQL, and what they used before. Plain functions of a transaction."""

from datetime import datetime, timedelta

from sqlalchemy import delete, insert, or_, select, update

from aios.names import JobName, QueueName
from aios.records import Tx
from services.scheduler import mapping, store
from services.scheduler.engine.recent import part
from services.scheduler.jobs import HOLDS_RESOURCES, State
from services.scheduler.queue_mapping import queue_to_proto
from services.scheduler.queues import Queue, QueueChanged, QueueExists, QueueInUse, QueueNotFound

HALF_LIVES = 10
"""Beyond so many what was used counts less than a thousandth."""


def get(tx: Tx, name: str) -> Queue:
    """A queue that was made.

    Raises:
        QueueNotFound: none of this name was.
    """
    queue = store.all_queues(tx).get(name)
    if queue is None:
        raise QueueNotFound(f"{QueueName(name)} was not made: see `aios queue list`.", name=name)
    return queue


def add(tx: Tx, queue: Queue, now: datetime) -> Queue:
    """Make a queue.

    Raises:
        QueueExists: there is one of this name.
    """
    if queue.name in store.all_queues(tx):
        raise QueueExists(f"{QueueName(queue.name)} exists: update it.", name=queue.name)
    store.count_pool_change(tx)
    row = {"name": queue.name, "queue": queue_to_proto(queue), "create_time": now}
    tx.execute(insert(store.queues).values(row | {"update_time": now, "version": 1}))
    return get(tx, queue.name)


def save(tx: Tx, queue: Queue, now: datetime) -> Queue:
    """Store what a queue became.

    Raises:
        QueueChanged: it was changed after it was read.
    """
    store.count_pool_change(tx)
    row = {"queue": queue_to_proto(queue), "update_time": now, "version": queue.version + 1}
    of = store.queues.c.name == queue.name, store.queues.c.version == queue.version
    if tx.execute(update(store.queues).where(*of).values(row)).rowcount != 1:
        raise QueueChanged(f"{QueueName(queue.name)} changed meanwhile: read it again.", name=queue.name)
    return get(tx, queue.name)


def remove(tx: Tx, name: str) -> None:
    """Remove a queue.

    Raises:
        QueueInUse: others are part of it, or live jobs name it.
    """
    get(tx, name)
    under = [each.name for each in store.all_queues(tx).values() if each.parent == name]
    if under:
        raise QueueInUse(f"{', '.join(under[:3])} is part of {QueueName(name)}: move it first.", name=name)
    named = [str(job) for job, queue in _live(tx) if queue == name]
    if named:
        raise QueueInUse(f"{len(named)} live jobs such as {named[0]} name {QueueName(name)}.", name=name)
    store.count_pool_change(tx)
    tx.execute(delete(store.queues).where(store.queues.c.name == name))


def past(tx: Tx, half_life: timedelta, now: datetime) -> dict[str, dict[str, float]]:
    """What each queue used lately, from the attempts of its jobs: decayed averages by resource."""
    if not half_life:
        return {}
    found: dict[str, dict[str, float]] = {}
    jobs, attempts = store.jobs.c, store.attempts.c
    since = or_(attempts.end_time.is_(None), attempts.end_time > now - HALF_LIVES * half_life)
    held = (attempts.granted, attempts.replicas, attempts.assign_time, attempts.end_time)
    query = select(jobs.project, jobs.spec, *held).where(
        attempts.job == jobs.number, attempts.assign_time.is_not(None), since
    )
    for row in tx.execute(query):
        queue = mapping.spec_from_proto(row.spec).queue or row.project
        start, end = row.assign_time.timestamp(), (row.end_time or now).timestamp()
        counts = part(start, end, now.timestamp(), half_life.total_seconds())
        amounts = found.setdefault(queue, {})
        processes = len(mapping.replicas_from_proto(row.replicas)) or 1
        for resource, amount in mapping.resources_from_proto(row.granted).times(processes).named().items():
            amounts[resource] = amounts.get(resource, 0.0) + counts * amount
    return found


def _live(tx: Tx) -> list[tuple[JobName, str]]:
    """Jobs that wait or hold something, with the queue that each names."""
    jobs = store.jobs.c
    query = select(jobs.project, jobs.id, jobs.spec).where(jobs.state.in_([State.QUEUED, *HOLDS_RESOURCES]))
    return [
        (JobName(row.project, row.id), mapping.spec_from_proto(row.spec).queue) for row in tx.execute(query)
    ]

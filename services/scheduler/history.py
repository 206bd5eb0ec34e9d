"""What jobs have been through: their attempts, and how long those that ended ran. Plain functions of a transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from aios.names import JobName
from aios.records import Tx
from aios.records.pages import ListRequest
from services.scheduler import mapping, store
from services.scheduler.attempts import Attempt
from services.scheduler.jobs import Job, State
from services.scheduler.specs import Kind

DURATIONS_MAX = 500
"""Newest first: how long jobs take changes with what people do."""


def attempts(tx: Tx, name: JobName) -> list[Attempt]:
    """Every try of a job, in order."""
    return _attempts(tx, [store.get(tx, name)])[name]


def starts(tx: Tx, names: Sequence[JobName]) -> dict[JobName, list[datetime]]:
    """When each of these jobs started, each time, if it is still known."""
    found = [job for name in names if (job := store.find(tx, name)) is not None]
    tries = _attempts(tx, found)
    return {name: [each.assign_time for each in tries[name] if each.assign_time] for name in tries}


def page(
    tx: Tx, request: ListRequest, project: str, since: datetime | None
) -> tuple[list[tuple[Job, list[Attempt]]], str]:
    """One page of jobs with all their attempts, oldest first, and the token of the next.

    Args:
        project: One, or ANY_PROJECT.
    """
    found, token = store.oldest(tx, request, project, since)
    tries = _attempts(tx, found)
    return [(job, tries[job.name]) for job in found], token


def _attempts(tx: Tx, jobs: Sequence[Job]) -> dict[JobName, list[Attempt]]:
    names = {job.number: job.name for job in jobs}
    found: dict[JobName, list[Attempt]] = {name: [] for name in names.values()}
    attempt = store.attempts.c
    query = select(*store.OF_ATTEMPT).where(attempt.job.in_(names)).order_by(attempt.job, attempt.epoch)
    for row in tx.execute(query):
        name = names[row.attempt_job]
        found[name].append(store.attempt_of(row, name))
    return found


def durations(tx: Tx) -> list[float]:
    """Seconds that jobs ran which came to an end by themselves."""
    job = store.jobs.c
    query = select(job.spec, job.ran_seconds).where(job.state == State.SUCCEEDED)
    rows = tx.execute(query.order_by(job.end_time.desc()).limit(DURATIONS_MAX))
    return [row.ran_seconds for row in rows if mapping.spec_from_proto(row.spec).kind is Kind.BATCH]

"""What jobs have been through: their attempts, and how long those that ended ran. Plain functions of a transaction."""

from sqlalchemy import select

from aios.names import JobName
from aios.records import Tx
from services.scheduler import mapping, store
from services.scheduler.jobs import Attempt, AttemptState, State
from services.scheduler.specs import Kind

DURATIONS_MAX = 500
"""Newest first: how long jobs take changes with what people do."""


def attempts(tx: Tx, name: JobName) -> list[Attempt]:
    """Every try of a job, in order."""
    job, attempt = store.jobs.c, store.attempts.c
    query = select(store.attempts).join(store.jobs, attempt.job == job.number)
    of = query.where(job.project == name.project, job.id == name.job).order_by(attempt.epoch)
    return [
        Attempt(
            job=name,
            epoch=row.epoch,
            node=row.node,
            state=AttemptState(row.state),
            granted=mapping.resources_from_proto(row.granted),
            exit_code=row.exit_code,
            end_reason=row.end_reason,
            assign_time=row.assign_time,
            start_time=row.start_time,
            end_time=row.end_time,
        )
        for row in tx.execute(of)
    ]


def durations(tx: Tx) -> list[float]:
    """Seconds that jobs ran which came to an end by themselves."""
    job = store.jobs.c
    query = select(job.spec, job.ran_seconds).where(job.state == State.SUCCEEDED)
    rows = tx.execute(query.order_by(job.end_time.desc()).limit(DURATIONS_MAX))
    return [row.ran_seconds for row in rows if mapping.spec_from_proto(row.spec).kind is Kind.BATCH]

"""Rows of leases: which task goes to whom. Plain functions of a transaction."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, insert, select, update

from aios.names import LabelProjectName, LabelTaskName
from aios.records import Tx
from services.data.annotation import store
from services.data.annotation.tables import label_annotations, label_leases, label_tasks
from services.data.annotation.tasks import State
from services.data.annotation.work import Lease, Task


def leases_of(tx: Tx, name: LabelProjectName, annotator: str) -> list[Lease]:
    """What somebody has, also for longer than was agreed, as long as nobody else took it."""
    query = select(label_leases).filter_by(**store.key(name), annotator=annotator)
    return [_lease(row) for row in tx.execute(query.order_by(label_leases.c.number))]


def find_lease(tx: Tx, name: LabelTaskName, annotator: str, fence: int) -> Lease | None:
    """A lease, unless it ended."""
    query = select(label_leases).filter_by(**store.at(name), annotator=annotator, fence=fence)
    row = tx.execute(query).one_or_none()
    return _lease(row) if row else None


def renew(tx: Tx, name: LabelProjectName, annotator: str, expire_time: datetime) -> None:
    """Let somebody keep what they have."""
    mine = update(label_leases).filter_by(**store.key(name), annotator=annotator)
    tx.execute(mine.values(expire_time=expire_time))


def take(tx: Tx, task: Task, lease: Lease, now: datetime) -> None:
    """Give a task to somebody, and fence off those who had it too long."""
    mine = label_leases
    tx.execute(delete(mine).filter_by(**store.at(task.name)).where(mine.c.expire_time <= now))
    row = {
        "annotator": lease.annotator,
        "fence": lease.fence,
        "lease_time": lease.lease_time,
        "expire_time": lease.expire_time,
    }
    tx.execute(insert(mine).values(store.at(task.name) | row))
    tx.execute(update(label_tasks).filter_by(**store.at(task.name)).values(fence=lease.fence))


def end_lease(tx: Tx, name: LabelTaskName, annotator: str) -> None:
    """Somebody is done with a task."""
    tx.execute(delete(label_leases).filter_by(**store.at(name), annotator=annotator))


def untouched(tx: Tx, task: Task) -> bool:
    """Nobody has the task or has answered it in this round."""
    leased = select(label_leases.c.number).filter_by(**store.at(task.name)).limit(1)
    return not (task.progress.labels or task.progress.skips or tx.execute(leased).first())


def next_tasks(
    tx: Tx, name: LabelProjectName, annotator: str, overlap: int, now: datetime, limit: int
) -> list[Task]:
    """Open tasks that want one more opinion, which may be this annotator's: most urgent first."""
    leases = label_leases.alias()
    out = (
        select(func.count())
        .select_from(leases)
        .where(_same(leases), leases.c.expire_time > now)
        .correlate(label_tasks)
        .scalar_subquery()
    )
    query = (
        store.tasks_of(name)
        .where(label_tasks.c.state == State.OPEN, label_tasks.c.gold.is_(False))
        .where(label_tasks.c.labels + out < overlap, *_new_to(annotator))
        .order_by(label_tasks.c.priority.desc(), label_tasks.c.number)
    )
    return [store.task_of(row) for row in tx.execute(query.limit(limit))]


def next_gold(tx: Tx, name: LabelProjectName, annotator: str) -> Task | None:
    """A task with a known label that this annotator has not met, if there is one."""
    query = store.tasks_of(name).where(label_tasks.c.gold.is_(True), *_new_to(annotator))
    row = tx.execute(query.order_by(label_tasks.c.number).limit(1)).one_or_none()
    return store.task_of(row) if row else None


def answers_of(tx: Tx, name: LabelProjectName, annotator: str) -> int:
    """How many tasks somebody has answered."""
    query = select(func.count()).select_from(label_annotations)
    count: int = tx.execute(query.filter_by(**store.key(name), annotator=annotator)).scalar_one()
    return count


def _same(table: Any) -> ColumnElement[bool]:
    """It speaks of the task that is looked at."""
    columns = ("project", "label_project", "number")
    return and_(*(table.c[column] == label_tasks.c[column] for column in columns))


def _new_to(annotator: str) -> tuple[ColumnElement[bool], ...]:
    said, has = label_annotations.alias(), label_leases.alias()
    answered = exists().where(_same(said), said.c.round == label_tasks.c.round, said.c.annotator == annotator)
    return ~answered, ~exists().where(_same(has), has.c.annotator == annotator)


def _lease(row: Row[Any]) -> Lease:
    return Lease(row.number, row.annotator, row.fence, row.lease_time, row.expire_time)

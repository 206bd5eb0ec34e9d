"""Jobs, attempts and nodes in SQL. Plain functions of a transaction; each change is one row's, guarded by its version."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from aios import records
from aios.common.v1 import resources_pb2
from aios.errors import Aborted
from aios.names import ANY_PROJECT, JobName
from aios.records import Json, Page, Proto, Tx, UtcTime
from aios.records.pages import ListRequest
from aios.records.tx import Happened
from aios.runtime import telemetry
from aios.scheduler.v1 import job_pb2, policy_pb2, queue_pb2
from aios.scheduling import TAINT
from services.scheduler import mapping
from services.scheduler.announce import announced
from services.scheduler.attempts import LIVE, Attempt, AttemptState
from services.scheduler.jobs import EVENT, FINAL, HOLDS_RESOURCES, Job, JobExists, JobNotFound, State
from services.scheduler.nodes import Node, NodeNotFound, NodeState
from services.scheduler.policies import Policy
from services.scheduler.progress import Progress
from services.scheduler.queue_mapping import queue_from_proto
from services.scheduler.queues import Queue
from services.scheduler.resources import Resources

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself in INTEGER alone

jobs = Table(
    "jobs",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("spec", Proto(job_pb2.JobSpec), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(63), nullable=False),
    Column("message", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("streak", Integer, nullable=False),
    Column("retry_time", UtcTime),
    Column("queued_time", UtcTime, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("end_time", UtcTime),
    Column("traceparent", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("change", BigInteger, nullable=False, server_default="0"),
    Column("ran_seconds", Float, nullable=False, server_default="0"),
    Column("waited_seconds", Float, nullable=False, server_default="0"),
    Column("progress", Proto(job_pb2.JobProgress)),
    UniqueConstraint("project", "id"),
    Index("jobs_state", "state"),
    Index("jobs_change", "change"),
)
attempts = Table(
    "attempts",
    metadata,
    Column("job", _Number, ForeignKey("jobs.number", ondelete="CASCADE"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("node", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("granted", Proto(resources_pb2.Resources), nullable=False),
    Column("host", String(255), nullable=False),
    Column("ports", Json, nullable=False),
    Column("exit_code", Integer),
    Column("end_reason", String(63), nullable=False),
    Column("assign_time", UtcTime),
    Column("start_time", UtcTime),
    Column("end_time", UtcTime),
    Column("replicas", Proto(job_pb2.Attempt)),
    PrimaryKeyConstraint("job", "epoch"),
    Index("attempts_node_state", "node", "state"),
)
nodes = Table(
    "nodes",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("capacity", Proto(resources_pb2.Resources), nullable=False),
    Column("host", String(255), nullable=False),
    Column("labels", Json, nullable=False),
    Column("cordoned", Boolean, nullable=False, server_default=false()),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("taints", Json),
)
policies = Table(
    "policies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", Proto(policy_pb2.Policy), nullable=False),
    Column("update_time", UtcTime, nullable=False),
)
"""One row at most; none while nobody has chosen."""
queues = Table(
    "queues",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("queue", Proto(queue_pb2.Queue), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("version", Integer, nullable=False),
)
pool = Table(
    "pool",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("change", BigInteger, nullable=False),
)
"""One row, none at first: how often nodes, queues or the policy have changed."""
records.add_to(metadata)

OF_ATTEMPT = [column.label(f"attempt_{column.name}") for column in attempts.c]
_JOBS = select(jobs, *OF_ATTEMPT).outerjoin(
    attempts, and_(attempts.c.job == jobs.c.number, attempts.c.epoch == jobs.c.epoch)
)

# Made once: building a statement costs more than running it.
_FIND = _JOBS.where(jobs.c.project == bindparam("of_project"), jobs.c.id == bindparam("of_id"))
_CHANGED = _JOBS.where(jobs.c.change > bindparam("since")).order_by(jobs.c.number)
_NEWEST_CHANGE = select(func.coalesce(func.max(jobs.c.change), 0))
# Changes of all jobs are numbered in the order in which the one writer commits them.
_INSERT = insert(jobs).returning(jobs.c.number)
_VERSIONS = select(jobs.c.number, jobs.c.version).where(
    jobs.c.number.in_(bindparam("numbers", expanding=True))
)
_UPDATE = update(jobs).where(jobs.c.number == bindparam("of_number"))
_INSERT_ATTEMPT = insert(attempts).values(job=bindparam("job_of"), epoch=bindparam("epoch_of"))
_UPDATE_ATTEMPT = update(attempts).where(
    attempts.c.job == bindparam("job_of"), attempts.c.epoch == bindparam("epoch_of")
)
_POOL_CHANGE = select(pool.c.change)
_POOL_CHANGES = update(pool).values(change=pool.c.change + 1)


def add(tx: Tx, job: Job) -> Job:
    """Accept a new job and announce it.

    Raises:
        JobExists: the project has used this name.
    """
    row = {
        "project": job.name.project,
        "id": job.name.job,
        "spec": mapping.spec_to_proto(job.spec),
        "create_time": job.create_time,
        "traceparent": job.traceparent,
    }
    change = newest_change(tx) + 1
    try:
        made = tx.execute(_INSERT, row | _changing(job) | {"version": 1, "change": change})
    except IntegrityError:
        raise JobExists(f"{job.name} exists: choose another job_id.", name=str(job.name)) from None
    stored = replace(job, number=made.scalar_one(), version=1, change=change)
    tx.emit_all("job", [_event(stored, "created")])
    return stored


def find(tx: Tx, name: JobName) -> Job | None:
    """A job, or None."""
    row = tx.execute(_FIND, {"of_project": name.project, "of_id": name.job}).one_or_none()
    return _job(row) if row else None


def get(tx: Tx, name: JobName) -> Job:
    """A job.

    Raises:
        JobNotFound: the project has none of this name.
    """
    job = find(tx, name)
    if job is None:
        raise JobNotFound(f"{name} does not exist: see `aios job list`.", name=str(name))
    return job


def save(tx: Tx, before: Job, after: Job) -> Job:
    """Store what a job became, with its attempt, and announce a new state.

    Raises:
        Aborted: the job has changed since `before` was read.
    """
    if after == before:
        return before
    [stored] = save_all(tx, [(before, (after,))])
    if stored is None:
        raise Aborted(f"{before.name} changed meanwhile: read it again.", name=str(before.name))
    return stored


def save_all(tx: Tx, changes: Sequence[tuple[Job, Sequence[Job]]]) -> list[Job | None]:
    """`save` for many jobs, each named once, with what it became step by step: every new state is announced.

    Returns:
        Each as it is stored; None for one that has changed since it was read, of which nothing is stored.
    """
    # Whoever reads in the only writer may act on what is read.
    found = tx.execute(_VERSIONS, {"numbers": [before.number for before, _ in changes]})
    versions = {row.number: row.version for row in found}
    change = newest_change(tx)
    rows: list[dict[str, Any]] = []
    opened: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    events: list[Happened] = []
    stored: list[Job | None] = []
    for before, steps in changes:
        if versions.get(before.number) != before.version:
            stored.append(None)
            continue
        change += 1
        after = before
        for step in steps:
            last, after = after, replace(step, version=after.version + 1, change=change)
            if after.state is not last.state:
                events.append(_event(after, EVENT[after.state]))
        stored.append(after)
        row = {"of_number": before.number, "version": after.version, "change": change}
        rows.append(row | _changing(after))
        if after.attempt is not None and after.attempt != before.attempt:
            is_new = before.attempt is None or before.attempt.epoch != after.attempt.epoch
            row = _attempt_row(before, after.attempt)
            if is_new:
                opened.append(row | _given(after.attempt))
            else:
                known.append(row)
    for statement, parameters in ((_UPDATE, rows), (_INSERT_ATTEMPT, opened), (_UPDATE_ATTEMPT, known)):
        if parameters:
            tx.execute(statement, parameters)
    if events:
        tx.emit_all("job", events)
    return stored


def save_progress(tx: Tx, reports: Mapping[JobName, Progress]) -> None:
    """Store what jobs have said of their progress. It is no change to their watchers, and makes no version."""
    if not reports:
        return
    rows = [
        {"of": name.project, "job": name.job, "said": mapping.progress_to_proto(said)}
        for name, said in reports.items()
    ]
    tx.execute(
        update(jobs)
        .where(jobs.c.project == bindparam("of"), jobs.c.id == bindparam("job"))
        .values(progress=bindparam("said")),
        rows,
    )


def page(tx: Tx, request: ListRequest, project: str, states: Collection[State] = ()) -> tuple[list[Job], str]:
    """One page of a project's jobs, newest first, and the token of the next.

    Args:
        states: Only jobs in one of these; all when empty.
    """
    query = _JOBS.where(jobs.c.project == project)
    if states:
        query = query.where(jobs.c.state.in_(states))
    rows, token = Page.of(request).fetch(tx, query, by=(jobs.c.number,), descending=True)
    return [_job(row) for row in rows], token


def oldest(tx: Tx, request: ListRequest, project: str, since: datetime | None) -> tuple[list[Job], str]:
    """One page of a project's jobs, or of all, in the order of acceptance, and the token of the next."""
    query = _JOBS if project == ANY_PROJECT else _JOBS.where(jobs.c.project == project)
    if since is not None:
        query = query.where(jobs.c.create_time >= since)
    rows, token = Page.of(request).fetch(tx, query, by=(jobs.c.number,))
    return [_job(row) for row in rows], token


def holding(tx: Tx, node: str | None = None) -> list[Job]:
    """Jobs with an attempt that has not ended, on one node or on all."""
    query = _JOBS.where(jobs.c.state.in_(HOLDS_RESOURCES), attempts.c.state.in_(LIVE))
    if node is None:
        return _jobs(tx, query)
    # Gangs are few; those that are elsewhere are left out here.
    found = _jobs(tx, query.where(or_(attempts.c.node == node, attempts.c.replicas.is_not(None))))
    return [job for job in found if job.attempt is not None and node in job.attempt.nodes]


def live(tx: Tx) -> list[Job]:
    """Jobs that have not ended."""
    return _jobs(tx, _JOBS.where(jobs.c.state.not_in(FINAL)))


def changed(tx: Tx, since: int) -> list[Job]:
    """Jobs that were made or changed after this change, as they are now; those that have ended too."""
    return [_job(row) for row in tx.execute(_CHANGED, {"since": since})]


def newest_change(tx: Tx) -> int:
    """The number of the last change of any job."""
    return int(tx.execute(_NEWEST_CHANGE).scalar_one())


def pool_change(tx: Tx) -> int:
    """How often nodes, queues or the policy have changed."""
    return int(tx.execute(_POOL_CHANGE).scalar() or 0)


def count_pool_change(tx: Tx) -> None:
    """Nodes, queues or the policy change in this transaction."""
    if tx.execute(_POOL_CHANGES).rowcount == 0:
        tx.execute(insert(pool).values(id=1, change=1))


def policy(tx: Tx) -> tuple[Policy, datetime | None]:
    """The policy in force, and since when; without a time while nobody has chosen one."""
    row = tx.execute(select(policies)).one_or_none()
    return (mapping.policy_from_proto(row.policy), row.update_time) if row else (Policy(), None)


def put_policy(tx: Tx, chosen: Policy, now: datetime) -> None:
    """Put a policy in force."""
    count_pool_change(tx)
    tx.execute(delete(policies))
    tx.execute(insert(policies).values(id=1, policy=mapping.policy_to_proto(chosen), update_time=now))


def all_queues(tx: Tx) -> dict[str, Queue]:
    """Every queue that was made, by name."""
    return {row.name: _queue(row) for row in tx.execute(select(queues).order_by(queues.c.name))}


def held(tx: Tx) -> dict[str, Resources]:
    """By node: the sum of what its attempts hold."""
    total: dict[str, Resources] = {}
    columns = select(attempts.c.node, attempts.c.granted, attempts.c.replicas)
    for row in tx.execute(columns.where(attempts.c.state.in_(LIVE))):
        granted = mapping.resources_from_proto(row.granted)
        for each in mapping.replicas_from_proto(row.replicas) or (row,):
            total[each.node] = total.get(each.node, Resources()) + granted
    return total


def processes(tx: Tx, name: JobName, epoch: int) -> int:
    """How many processes an attempt has; 0 when there was no such attempt."""
    query = select(attempts.c.replicas).join(jobs, attempts.c.job == jobs.c.number)
    row = tx.execute(
        query.where(jobs.c.project == name.project, jobs.c.id == name.job, attempts.c.epoch == epoch)
    ).one_or_none()
    return 0 if row is None else len(mapping.replicas_from_proto(row.replicas)) or 1


def all_nodes(tx: Tx) -> list[Node]:
    """Every node that ever registered, by name."""
    return [_node(row) for row in tx.execute(select(nodes).order_by(nodes.c.name))]


def node_page(tx: Tx, request: ListRequest) -> tuple[list[Node], str]:
    """One page of nodes by name, and the token of the next."""
    rows, token = Page.of(request).fetch(tx, select(nodes), by=(nodes.c.name,))
    return [_node(row) for row in rows], token


def find_node(tx: Tx, name: str) -> Node | None:
    """A node, or None."""
    row = tx.execute(select(nodes).where(nodes.c.name == name)).one_or_none()
    return _node(row) if row else None


def get_node(tx: Tx, name: str) -> Node:
    """A node.

    Raises:
        NodeNotFound: none of this name ever registered.
    """
    node = find_node(tx, name)
    if node is None:
        raise NodeNotFound(f"nodes/{name} has never registered: see `aios node list`.", node=name)
    return node


def put_node(tx: Tx, node: Node) -> None:
    """Store a node as its agent declares it; what operators said of it stays."""
    count_pool_change(tx)
    own = {f"{TAINT}{name}" for name in node.taints}
    row = {
        "state": node.state,
        "capacity": mapping.resources_to_proto(node.capacity),
        "host": node.host,
        "labels": {name: value for name, value in node.labels.items() if name not in own},
    }
    if find_node(tx, node.name) is None:
        tx.execute(insert(nodes).values(row | {"name": node.name}))
    else:
        tx.execute(update(nodes).where(nodes.c.name == node.name).values(row))


def put_operation(tx: Tx, node: Node) -> None:
    """Store what operators said of a node."""
    count_pool_change(tx)
    row = {"cordoned": node.cordoned, "draining": node.draining, "taints": dict(node.taints)}
    tx.execute(update(nodes).where(nodes.c.name == node.name).values(row))


def _event(job: Job, event: str) -> Happened:
    # Whoever caused the change, it belongs to the job's trace.
    traceparent = job.traceparent or telemetry.current_traceparent()
    return Happened(job.name.project, job.name.job, event, announced(job), traceparent)


def _attempt_row(job: Job, attempt: Attempt) -> dict[str, Any]:
    return {
        "job_of": job.number,
        "epoch_of": attempt.epoch,
        "state": attempt.state,
        "host": attempt.host,
        "ports": dict(attempt.ports),
        "exit_code": attempt.exit_code,
        "end_reason": attempt.end_reason,
        "start_time": attempt.start_time,
        "end_time": attempt.end_time,
        "replicas": mapping.replicas_to_proto(attempt),
    }


def _given(attempt: Attempt) -> dict[str, Any]:
    """What of an attempt never changes."""
    return {
        "node": attempt.node,
        "granted": mapping.resources_to_proto(attempt.granted),
        "assign_time": attempt.assign_time,
    }


def _changing(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "epoch": job.epoch,
        "failures": job.failures,
        "streak": job.streak,
        "retry_time": job.retry_time,
        "queued_time": job.queued_time,
        "update_time": job.update_time,
        "end_time": job.end_time,
        "ran_seconds": job.ran.total_seconds(),
        "waited_seconds": job.waited.total_seconds(),
    }


def _jobs(tx: Tx, query: Select[Any]) -> list[Job]:
    rows: Sequence[Row[Any]] = tx.execute(query.order_by(jobs.c.number)).all()
    return [_job(row) for row in rows]


def attempt_of(row: Row[Any], job: JobName) -> Attempt:
    """The attempt in a row of OF_ATTEMPT."""
    return Attempt(
        job=job,
        epoch=row.attempt_epoch,
        node=row.attempt_node,
        state=AttemptState(row.attempt_state),
        granted=mapping.resources_from_proto(row.attempt_granted),
        host=row.attempt_host,
        ports=row.attempt_ports,
        exit_code=row.attempt_exit_code,
        end_reason=row.attempt_end_reason,
        assign_time=row.attempt_assign_time,
        start_time=row.attempt_start_time,
        end_time=row.attempt_end_time,
        replicas=mapping.replicas_from_proto(row.attempt_replicas),
    )


def _job(row: Row[Any]) -> Job:
    name = JobName(row.project, row.id)
    attempt = attempt_of(row, name) if row.attempt_epoch is not None else None
    return Job(
        name=name,
        spec=mapping.spec_from_proto(row.spec),
        state=State(row.state),
        create_time=row.create_time,
        update_time=row.update_time,
        queued_time=row.queued_time,
        reason=row.reason,
        message=row.message,
        epoch=row.epoch,
        failures=row.failures,
        streak=row.streak,
        retry_time=row.retry_time,
        end_time=row.end_time,
        traceparent=row.traceparent,
        number=row.number,
        version=row.version,
        change=row.change,
        attempt=attempt,
        ran=timedelta(seconds=row.ran_seconds),
        waited=timedelta(seconds=row.waited_seconds),
        progress=mapping.progress_from_proto(row.progress) if row.progress else None,
    )


def _queue(row: Row[Any]) -> Queue:
    return replace(
        queue_from_proto(row.name, row.queue),
        create_time=row.create_time,
        update_time=row.update_time,
        version=row.version,
    )


def _node(row: Row[Any]) -> Node:
    return Node(
        name=row.name,
        state=NodeState(row.state),
        capacity=mapping.resources_from_proto(row.capacity),
        host=row.host,
        labels=row.labels | {f"{TAINT}{name}": value for name, value in (row.taints or {}).items()},
        cordoned=row.cordoned,
        draining=row.draining,
        taints=row.taints or {},
    )

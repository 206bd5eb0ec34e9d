"""Deployments, revisions, replicas and the routing table in SQL. Plain functions of a transaction."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    update,
)

from aios import records
from aios.inference.v1 import deployment_pb2
from aios.names import ANY_PROJECT, DeploymentName, JobName, RevisionName
from aios.records import Json, Page, Proto, Tx, UtcTime
from aios.records.pages import ListRequest
from services.inference import mapping, routes, rows
from services.inference.deployments import EVENT, Deployment, DeploymentExists, DeploymentNotFound
from services.inference.gates import Decision
from services.inference.replicas import Replica, ReplicaNotFound
from services.inference.revisions import Revision, RevisionNotFound
from services.inference.revisions import State as RevisionState
from services.inference.rollout import Facts, Rollout, TrafficChange, advance
from services.inference.rollout import scale as scaled
from services.inference.tables import metadata as metadata

NEVER = 2**62
"""A routing table that is never in force."""

deployments = Table(
    "deployments",
    metadata,
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("spec", Proto(deployment_pb2.DeploymentSpec), nullable=False),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("latest", Integer, nullable=False),
    Column("live", Integer),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("shares", Json),
    Column("reason", Text, nullable=False, server_default=""),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "deployment"),
)
# No foreign key: revisions outlive their deployment, so that what was live when can still be told.
revisions = Table(
    "revisions",
    metadata,
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("spec", Proto(deployment_pb2.DeploymentSpec), nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("weight", Integer),
    Column("mirror", Integer, nullable=False, server_default="0"),
    Column("stage", Integer, nullable=False, server_default="0"),
    Column("stage_time", UtcTime),
    Column("quality", Json),
    Column("wanted", Integer),  # NULL is what the spec says
    Column("asleep", Boolean, nullable=False, server_default=false()),
    Column("routed_in", BigInteger, nullable=False),
    Column("replicas_made", Integer, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("live_time", UtcTime),
    Column("retire_time", UtcTime),
    Column("creator", String(255), nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("recorded", Boolean, nullable=False),
    PrimaryKeyConstraint("project", "deployment", "number"),
)
replicas = Table(
    "replicas",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("project", String(63), nullable=False),
    Column("job", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("host", String(45)),
    Column("http_port", Integer),
    Column("grpc_port", Integer),
    Column("failures", Integer, nullable=False),
    Column("failed_epoch", BigInteger, nullable=False),
    Column("left_in", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("project", "job"),
    Index("replicas_revision", "project", "deployment", "revision"),
)
# One row: the number of the routing table as it is now, and of the one that the gateway has in force.
routing = Table(
    "routing",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("confirmed", BigInteger, nullable=False),
)
# What was live when: never changed but for the time of its effect, and never deleted.
traffic = Table(
    "traffic",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("project", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("shares", Json, nullable=False),  # of each revision's number: percent, and percent of copies
    Column("reason", Text, nullable=False),
    Column("routed_in", BigInteger, nullable=False),
    Column("request_time", UtcTime, nullable=False),
    Column("effect_time", UtcTime),
    Index("traffic_deployment", "project", "deployment", "number"),
)
records.add_to(metadata)


@dataclass(frozen=True)
class Routing:
    """Numbers of routing tables: the newest, and the one in force."""

    number: int
    confirmed: int


def revision(tx: Tx, name: RevisionName) -> Revision:
    """One revision, without its replicas.

    Raises:
        RevisionNotFound: there never was one of this name.
    """
    where = (*_of(revisions, name), revisions.c.number == _number(name))
    row = tx.execute(select(revisions).where(*where)).one_or_none()
    if row is None:
        raise RevisionNotFound(f"{name} does not exist: see `aios deployment history`.", name=str(name))
    return rows.revision(row, {})


def live_before(tx: Tx, name: DeploymentName, number: int) -> Revision | None:
    """The revision that was live last, of those other than `number`."""
    where = (*_of(revisions, name), revisions.c.live_time.is_not(None), revisions.c.number != number)
    row = tx.execute(
        select(revisions).where(*where).order_by(revisions.c.live_time.desc()).limit(1)
    ).one_or_none()
    return rows.revision(row, {}) if row else None


def note_quality(tx: Tx, name: RevisionName, quality: Mapping[str, float]) -> None:
    """Keep the figures that were reported of a revision."""
    where = (*_of(revisions, name), revisions.c.number == _number(name))
    tx.execute(update(revisions).where(*where).values(quality=dict(quality)))


def get(tx: Tx, name: DeploymentName) -> Deployment:
    """One deployment.

    Raises:
        DeploymentNotFound: the project has none of this name.
    """
    row = tx.execute(select(deployments).where(*_of(deployments, name))).one_or_none()
    if row is None:
        raise _missing(name)
    return rows.deployment(row)


def page(tx: Tx, project: str, request: ListRequest) -> tuple[list[Deployment], str]:
    """One page of a project's deployments by name, and the token of the next."""
    query = select(deployments)
    if project != ANY_PROJECT:
        query = query.where(deployments.c.project == project)
    by = (deployments.c.project, deployments.c.deployment)
    found, token = Page.of(request).fetch(tx, query, by=by)
    return [rows.deployment(row) for row in found], token


def revision_page(tx: Tx, name: DeploymentName, request: ListRequest) -> tuple[list[Revision], str]:
    """One page of a deployment's revisions, newest first, also after the deployment is gone.

    Raises:
        DeploymentNotFound: there never was one of this name.
    """
    query = select(revisions).where(*_of(revisions, name))
    found, token = Page.of(request).fetch(tx, query, by=(revisions.c.number,), descending=True)
    if not found and not request.page_token:
        raise _missing(name)
    numbers = [row.number for row in found]
    processes = _replicas(tx, *_of(replicas, name), replicas.c.revision.in_(numbers))
    return [rows.revision(row, processes) for row in found], token


def next_number(tx: Tx, name: DeploymentName) -> int:
    """The number of the next revision under this name, counting those of deployments deleted before."""
    last = tx.execute(select(func.max(revisions.c.number)).where(*_of(revisions, name))).scalar_one()
    return (last or 0) + 1


def rollout(tx: Tx, name: DeploymentName) -> Rollout:
    """A deployment with what `rollout` needs of its revisions.

    Raises:
        DeploymentNotFound: the project has none of this name.
    """
    found = _load(tx, name)
    if not found:
        raise _missing(name)
    return found[0]


def rollouts(tx: Tx) -> list[Rollout]:
    """Every deployment of every project."""
    return _load(tx)


def rollout_of(tx: Tx, job: JobName) -> tuple[Rollout, Revision, Replica]:
    """The replica that a job is, with all that it belongs to.

    Raises:
        ReplicaNotFound: the job is none.
    """
    query = select(replicas).where(replicas.c.project == job.project, replicas.c.job == job.job)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise ReplicaNotFound(f"{job} is no replica of a deployment.", job=str(job))
    found = rollout(tx, DeploymentName(row.project, row.deployment))
    revision = next(each for each in found.revisions if each.number == row.revision)
    return found, revision, next(each for each in revision.replicas if each.job == job)


def add(tx: Tx, made: Rollout) -> Rollout:
    """Accept a new deployment with its first revision, take the first step and announce it.

    Raises:
        DeploymentExists: the name is taken.
    """
    name = made.deployment.name
    if tx.execute(select(deployments.c.state).where(*_of(deployments, name))).one_or_none() is not None:
        raise DeploymentExists(f"{name} exists: choose another deployment_id, or update it.", name=str(name))
    key = {"project": name.project, "deployment": name.deployment}
    tx.execute(insert(deployments).values(key | rows.of_deployment(made.deployment)))
    stored = settle(tx, Rollout(made.deployment, ()), made, event="created")
    assert stored is not None
    return stored


def settle(
    tx: Tx,
    before: Rollout,
    after: Rollout,
    *,
    event: str = "",
    drained: frozenset[int] = frozenset(),
    overdue: frozenset[JobName] = frozenset(),
    idle: frozenset[JobName] = frozenset(),
    decision: Decision | None = None,
) -> Rollout | None:
    """Take the next step from `after` and store what is then different from `before`, and announce it.

    Returns:
        What the deployment became; None when nothing is left of it.
    """
    now = routing_state(tx)
    after = advance(after, Facts(tx.now(), now.confirmed, now.number + 1, drained, overdue, idle, decision))
    _save_revisions(tx, before, after)
    if after.gone:
        tx.execute(delete(deployments).where(*_of(deployments, after.deployment.name)))
        _emit(tx, after.deployment, "deleted")
    elif event or after.deployment != before.deployment:
        tx.execute(
            update(deployments)
            .where(*_of(deployments, after.deployment.name))
            .values(rows.of_deployment(after.deployment))
        )
        moved = after.deployment.state is not before.deployment.state
        told = EVENT.get(after.deployment.state, "updated") if moved else "updated"
        _emit(tx, after.deployment, event or told)
    if event == "created" or routes.route(after) != routes.route(before):
        _change_table(tx, after)
    if after.shares != before.shares:
        _note_traffic(tx, after, now.number + 1)
    return None if after.gone else after


def scale(tx: Tx, name: DeploymentName, wanted: Mapping[int, int], reason: str = "") -> None:
    """Have so many replicas of a deployment's revisions, by number, from now on."""
    before = rollout(tx, name)
    settle(tx, before, scaled(before, wanted, reason))


def change_replica(tx: Tx, job: JobName, change: Callable[[Replica], Replica]) -> bool:
    """Change one replica and take the step that follows from it. True when it changed.

    Raises:
        ReplicaNotFound: the job is no replica.
    """
    before, revision, replica = rollout_of(tx, job)
    changed = change(replica)
    if changed == replica:
        return False
    rest = tuple(changed if each is replica else each for each in revision.replicas)
    settle(tx, before, before.replace(replace(revision, replicas=rest)))
    return True


def mark_recorded(tx: Tx, name: RevisionName) -> None:
    """The lineage has this revision."""
    where = (*_of(revisions, name), revisions.c.number == int(name.revision))
    tx.execute(update(revisions).where(*where).values(recorded=True))


def routing_state(tx: Tx) -> Routing:
    """Which routing table is the newest, and which is in force."""
    row = tx.execute(select(routing.c.number, routing.c.confirmed)).one_or_none()
    return Routing(row.number, row.confirmed) if row else Routing(0, 0)


def confirm(tx: Tx, number: int) -> None:
    """A routing table is in force."""
    tx.execute(update(routing).where(routing.c.confirmed < number).values(confirmed=number))
    waiting = update(traffic).where(traffic.c.effect_time.is_(None), traffic.c.routed_in <= number)
    tx.execute(waiting.values(effect_time=tx.now()))


def traffic_page(tx: Tx, name: DeploymentName, request: ListRequest) -> tuple[list[TrafficChange], str]:
    """One page of the changes of a deployment's shares, newest first, also after the deployment is gone.

    Raises:
        DeploymentNotFound: there never was one of this name.
    """
    if next_number(tx, name) == 1:
        raise _missing(name)
    query = select(traffic).where(*_of(traffic, name))
    found, token = Page.of(request).fetch(tx, query, by=(traffic.c.number,), descending=True)
    return [rows.traffic_change(row) for row in found], token


def _note_traffic(tx: Tx, after: Rollout, table: int) -> None:
    """Add to the history of who got which share. What no table was in force with never took effect."""
    name = after.deployment.name
    superseded = (*_of(traffic, name), traffic.c.effect_time.is_(None))
    tx.execute(update(traffic).where(*superseded).values(routed_in=NEVER))
    change = TrafficChange(name, after.shares, after.deployment.reason, tx.now(), None)
    tx.execute(insert(traffic).values(rows.of_traffic_change(change) | {"routed_in": table}))


def _save_revisions(tx: Tx, before: Rollout, after: Rollout) -> None:
    known = {each.name: each for each in before.revisions}
    for revision in after.revisions:
        former = known.get(revision.name)
        if former == revision:
            continue
        key = _key(revision)
        if former is None:
            tx.execute(insert(revisions).values(key | rows.of_new_revision(revision)))
        else:
            tx.execute(update(revisions).filter_by(**key).values(rows.of_revision(revision)))
        _save_replicas(tx, former.replicas if former else (), revision)


def _save_replicas(tx: Tx, before: Sequence[Replica], revision: Revision) -> None:
    known = {each.job: each for each in before}
    for replica in revision.replicas:
        former = known.pop(replica.job, None)
        key = {"project": replica.job.project, "job": replica.job.job}
        if former is None:
            of = {"deployment": revision.name.deployment, "revision": revision.number}
            tx.execute(insert(replicas).values(key | of | rows.of_replica(replica)))
        elif former != replica:
            tx.execute(update(replicas).filter_by(**key).values(rows.of_replica(replica)))
    for job in known:
        tx.execute(delete(replicas).where(replicas.c.project == job.project, replicas.c.job == job.job))


def _change_table(tx: Tx, after: Rollout) -> None:
    """Number the new routing table, and wake those who wait for it."""
    changed = tx.execute(update(routing).values(number=routing.c.number + 1))
    if changed.rowcount == 0:
        tx.execute(insert(routing).values(id=1, number=1, confirmed=0))
    name = after.deployment.name
    entry = routes.route(after) or routes.DeploymentRoute(name, ())
    tx.emit("route", name.project, name.deployment, "changed", mapping.route_to_proto(entry))


def _emit(tx: Tx, deployment: Deployment, event: str) -> None:
    name = deployment.name
    tx.emit("deployment", name.project, name.deployment, event, mapping.deployment_to_proto(deployment))


def _load(tx: Tx, name: DeploymentName | None = None) -> list[Rollout]:
    """One deployment or all, by name, each with the revisions that matter. Three queries, however many there are."""
    held = exists().where(
        replicas.c.project == revisions.c.project,
        replicas.c.deployment == revisions.c.deployment,
        replicas.c.revision == revisions.c.number,
    )
    matters = or_(
        revisions.c.number == deployments.c.latest,
        revisions.c.state.not_in([RevisionState.RETIRED, RevisionState.FAILED]),
        revisions.c.weight.is_not(None),
        held,
    )
    of = and_(
        revisions.c.project == deployments.c.project, revisions.c.deployment == deployments.c.deployment
    )
    history: dict[DeploymentName, list[Revision]] = defaultdict(list)
    processes = _replicas(tx, *_of(replicas, name))
    query = select(revisions).join(deployments, of).where(matters, *_of(revisions, name))
    for row in tx.execute(query.order_by(revisions.c.number)):
        revision = rows.revision(row, processes)
        history[DeploymentName(row.project, row.deployment)].append(revision)
    found = tx.execute(
        select(deployments)
        .where(*_of(deployments, name))
        .order_by(deployments.c.project, deployments.c.deployment)
    )
    return [Rollout(each, tuple(history[each.name])) for each in map(rows.deployment, found)]


def _replicas(tx: Tx, *where: ColumnElement[bool]) -> Mapping[RevisionName, Sequence[Replica]]:
    found: dict[RevisionName, list[Replica]] = defaultdict(list)
    for row in tx.execute(select(replicas).where(*where).order_by(replicas.c.number)):
        found[RevisionName(row.project, row.deployment, str(row.revision))].append(rows.replica(row))
    return found


def _of(table: Table, name: DeploymentName | RevisionName | None) -> tuple[ColumnElement[bool], ...]:
    """Which rows belong to a deployment; no condition where none is named."""
    if name is None:
        return ()
    return table.c.project == name.project, table.c.deployment == name.deployment


def _missing(name: DeploymentName) -> DeploymentNotFound:
    return DeploymentNotFound(f"{name} does not exist: see `aios deployment list`.", name=str(name))


def _number(name: RevisionName) -> int:
    """Its number; one that no revision has where the name says none."""
    return (
        int(name.revision)
        if name.revision.isascii() and name.revision.isdigit() and len(name.revision) < 10
        else 0
    )


def _key(revision: Revision) -> dict[str, Any]:
    name = revision.name
    return {"project": name.project, "deployment": name.deployment, "number": revision.number}

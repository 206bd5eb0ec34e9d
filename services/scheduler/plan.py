"""Which waiting jobs start now, where, and why the others wait. Pure, so a logged input replays to the same plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from aios.errors import InvalidArgument
from aios.names import JobName
from services.scheduler.engine import model
from services.scheduler.jobs import Job, due
from services.scheduler.nodes import Node, NodeState
from services.scheduler.policies import Policy, compose
from services.scheduler.pool import Pool
from services.scheduler.resources import Resources, grant, shortages


class Unplaceable(InvalidArgument):
    """No node of the pool could hold the job even when empty. Ask for less, or add a node."""

    reason = "UNPLACEABLE"


@dataclass(frozen=True)
class Snapshot:
    """All that a decision rests on."""

    queue: Sequence[Job]
    """Jobs that wait, in any order."""
    nodes: Sequence[Node]
    holding: Sequence[Job] = ()
    """Jobs with an attempt that has not ended."""
    policy: Policy = Policy()  # noqa: RUF009  # frozen


@dataclass(frozen=True)
class Start:
    """Open an attempt of this job on this node."""

    job: JobName
    node: str
    granted: Resources


@dataclass(frozen=True)
class Reason:
    """Why a job waits: a stable code, and the same for people."""

    code: str
    message: str


class Reasons(Mapping[JobName, Reason]):
    """Why each job that does not start waits. Found when it is asked for: few are looked at, and a step has no time."""

    def __init__(
        self, snapshot: Snapshot, starts: Sequence[Start], kept: Sequence[model.Reservation], now: datetime
    ) -> None:
        started = {start.job for start in starts}
        self._waiting = {job.name: job for job in snapshot.queue if job.name not in started}
        self._snapshot = snapshot
        self._starts = starts
        self._next_on = {each.job: each.placement.nodes[0][0] for each in kept}
        self._now = now

    def __getitem__(self, name: JobName) -> Reason:
        job = self._waiting[name]
        if not due(job, self._now):
            return Reason("PAUSED", f"{job.message}: pauses before it starts again")
        return _wait(job, self._rooms, self._snapshot.nodes, self._next_on)

    def __iter__(self) -> Iterator[JobName]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    @cached_property
    def _rooms(self) -> "list[_Room]":
        """Ready nodes with what the plan leaves free on them."""
        held: dict[str, Resources] = {}
        for job in self._snapshot.holding:
            assert job.attempt is not None
            held[job.attempt.node] = held.get(job.attempt.node, Resources()) + job.attempt.granted
        for start in self._starts:
            held[start.node] = held.get(start.node, Resources()) + start.granted
        return [
            _Room(node, node.capacity - held.get(node.name, Resources()))
            for node in self._snapshot.nodes
            if node.state is NodeState.READY
        ]


@dataclass(frozen=True)
class Plan:
    """Starts in the order they were decided; running jobs to stop for others; why each other waiting job waits."""

    starts: Sequence[Start]
    reasons: Mapping[JobName, Reason]
    stops: Sequence[JobName] = ()


def plan(snapshot: Snapshot, now: datetime, *, preempt: bool = False, pool: Pool | None = None) -> Plan:
    """What the engine decides of these jobs and nodes.

    A job that is to start where another is stopped first starts in a later step, when that one is gone.

    Args:
        now: UTC.
        preempt: Whether running jobs may be stopped, where the policy does so.
        pool: One that has followed earlier snapshots, so that only changes are taken over.
    """
    pool = pool or Pool()
    pool.follow([*snapshot.queue, *snapshot.holding], snapshot.nodes, now)
    decided = pool.decide(compose(snapshot.policy), now, preempt=preempt)
    starts = [
        Start(JobName.parse(start.job), start.placement.nodes[0][0], pool.granted(start))
        for start in decided.starts
    ]
    stops = tuple(JobName.parse(name) for name in decided.stops)
    return Plan(starts, Reasons(snapshot, starts, decided.reservations, now), stops)


def check_placeable(request: Resources, nodes: Sequence[Node]) -> None:
    """Refuse what no node known to the pool, ready or not, could hold. An empty pool refuses nothing.

    Raises:
        Unplaceable: with the figures of the node that comes nearest.
    """
    if nodes and not any(grant(node.capacity, request) for node in nodes):
        message = _beyond(request, nodes)
        raise Unplaceable(f"The job {message}.", fields={"job.spec.resources": message})


@dataclass(frozen=True)
class _Room:
    """What a ready node has left."""

    node: Node
    free: Resources

    def missing(self, request: Resources) -> float:
        return sum(shortage.fraction for shortage in shortages(request, self.free, self.node.capacity))


def _wait(job: Job, rooms: Sequence[_Room], known: Sequence[Node], next_on: Mapping[str, str]) -> Reason:
    """What a job waits for, on the node that is kept for it, else on the one that comes nearest."""
    request = job.spec.resources
    able = [room for room in rooms if grant(room.node.capacity, request)]
    if not rooms:
        return Reason("WAITS_FOR_NODE", _no_node(known))
    if not able:
        return Reason("WAITS_FOR_NODE", _beyond(request, [room.node for room in rooms]))
    mine = next_on.get(str(job.name))
    near = min(able, key=lambda room: (room.node.name != mine, room.missing(request), room.node.name))
    name, of = near.node.name, f" (the nearest of {len(able)} nodes)" if len(able) > 1 else ""
    lacking = shortages(request, near.free, near.node.capacity)
    if not lacking:
        older = next(
            (each for each, node in next_on.items() if node == name and each != str(job.name)), "others"
        )
        return Reason(
            "WAITS_BEHIND", f"waits behind {older}, which came earlier and is next on node {name}{of}"
        )
    worst = max(lacking, key=lambda shortage: shortage.fraction)
    wanted, free, total = map(worst.figure, (worst.wanted, max(0, worst.free), worst.total))
    return Reason(
        f"WAITS_FOR_{worst.code}",
        f"waits for {wanted} {worst.unit}: node {name} has {free} free of {total}{of}",
    )


def _no_node(known: Sequence[Node]) -> str:
    if not known:
        return "waits for a node: none has registered yet"
    states = ", ".join(f"{node.name} is {node.state.lower()}" for node in known[:3])
    return f"waits for a node: {states}" + (f" and {len(known) - 3} more" if len(known) > 3 else "")


def _beyond(request: Resources, nodes: Sequence[Node]) -> str:
    """What is asked for beyond the node that comes nearest."""
    node = min(
        nodes,
        key=lambda node: (
            sum(each.fraction for each in shortages(request, node.capacity, node.capacity)),
            node.name,
        ),
    )
    short = max(shortages(request, node.capacity, node.capacity), key=lambda shortage: shortage.fraction)
    wanted, total = short.figure(short.wanted), short.figure(short.total)
    return f"asks for {wanted} {short.unit}, more than any node has: {node.name} comes nearest with {total}"

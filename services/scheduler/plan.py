"""Which waiting jobs start now, and where. Pure, so a logged input replays to the same plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aios.errors import InvalidArgument
from aios.names import JobName
from services.scheduler.jobs import Job, due
from services.scheduler.nodes import Node, NodeState
from services.scheduler.resources import Resources, grant, resolve, shortages


class Unplaceable(InvalidArgument):
    """No node of the pool could hold the job even when empty. Ask for less, or add a node."""

    reason = "UNPLACEABLE"


@dataclass(frozen=True)
class Snapshot:
    """All that a decision rests on."""

    queue: Sequence[Job]
    """Jobs that wait, in any order."""
    nodes: Sequence[Node]
    held: Mapping[str, Resources] = field(default_factory=dict)
    """By node: what attempts that have not ended hold."""


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


@dataclass(frozen=True)
class Plan:
    """Starts in the order they were decided; a reason for every job that goes on waiting."""

    starts: Sequence[Start]
    reasons: Mapping[JobName, Reason]


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """First come, first served, on the node where least is left over.

    A job that fits nowhere claims what is free on the node nearest to holding it. Younger jobs start only on what no
    one older claims: small jobs pass a large one where they cannot delay it, and no job starves. The shortage of the
    node claimed never grows, so the claim may move to a better node without losing ground.

    Age is the order of acceptance, then name: a total order makes ties testable.

    Args:
        now: UTC. Used only to see whose pause is over.
    """
    pool = {node.name: _Room(node, snapshot) for node in snapshot.nodes if node.state is NodeState.READY}
    starts: list[Start] = []
    reasons: dict[JobName, Reason] = {}
    for job in sorted(snapshot.queue, key=lambda job: (job.number, job.name)):
        if not due(job, now):
            reasons[job.name] = Reason("PAUSED", f"{job.message}: pauses before it starts again")
            continue
        room, granted = _best_fit(job.spec.resources, pool.values())
        if room is not None and granted is not None:
            room.free, room.open = room.free - granted, room.open - granted
            starts.append(Start(job.name, room.node.name, granted))
        else:
            reasons[job.name] = _wait(job, pool.values(), snapshot.nodes)
    return Plan(starts, reasons)


def check_placeable(request: Resources, nodes: Sequence[Node]) -> None:
    """Refuse what no node known to the pool, ready or not, could hold. An empty pool refuses nothing.

    Raises:
        Unplaceable: with the figures of the node that comes nearest.
    """
    if nodes and not any(grant(node.capacity, request) for node in nodes):
        message = _beyond(request, nodes)
        raise Unplaceable(f"The job {message}.", fields={"job.spec.resources": message})


class _Room:
    """What a node has left while a plan is being made."""

    def __init__(self, node: Node, snapshot: Snapshot) -> None:
        self.node = node
        self.free = node.capacity - snapshot.held.get(node.name, Resources())
        self.open = self.free
        """Free and claimed by no older job."""
        self.claimed_by: JobName | None = None

    def missing(self, request: Resources) -> float:
        return sum(shortage.fraction for shortage in shortages(request, self.open, self.node.capacity))


def _best_fit(request: Resources, rooms: Iterable[_Room]) -> tuple[_Room | None, Resources | None]:
    """The room with the fewest devices, then the least processor and memory left over."""
    best: tuple[tuple[int, float, str], _Room, Resources] | None = None
    for room in rooms:
        granted = grant(room.open, request)
        if granted is None:
            continue
        left, whole = room.open - granted, room.node.capacity
        spare = left.cpu_millis / max(1, whole.cpu_millis) + left.memory_bytes / max(1, whole.memory_bytes)
        rank = (sum(left.accelerators.values()), spare, room.node.name)
        if best is None or rank < best[0]:
            best = (rank, room, granted)
    return (best[1], best[2]) if best else (None, None)


def _wait(job: Job, rooms: Iterable[_Room], known: Sequence[Node]) -> Reason:
    """Claim room for a job that does not fit, and say what it waits for."""
    request = job.spec.resources
    rooms = list(rooms)
    able = [room for room in rooms if grant(room.node.capacity, request)]
    if not rooms:
        return Reason("WAITS_FOR_NODE", _no_node(known))
    if not able:
        return Reason("WAITS_FOR_NODE", _beyond(request, [room.node for room in rooms]))
    near = min(able, key=lambda room: (room.missing(request), room.node.name))
    name, of = near.node.name, f" (the nearest of {len(able)} nodes)" if len(able) > 1 else ""
    lacking = shortages(request, near.free, near.node.capacity)
    older, near.claimed_by = near.claimed_by, near.claimed_by or job.name
    claim = resolve(near.open, request, near.node.capacity.accelerators)
    near.open = near.open - near.open.overlap(claim)
    if not lacking:
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

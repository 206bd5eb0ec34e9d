"""Which waiting jobs start now, where, and why the others wait. Pure, so a logged input replays to the same plan."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from aios.errors import InvalidArgument
from aios.names import JobName
from aios.scheduling import NOTHING_SAID, Scheduling
from services.scheduler.engine import model
from services.scheduler.engine.snapshot import Shape
from services.scheduler.jobs import Job, due
from services.scheduler.nodes import Node
from services.scheduler.policies import ELASTIC, Policy
from services.scheduler.pool import Changes, Pool, asked
from services.scheduler.queues import Queue, beyond
from services.scheduler.resources import Resources, Shortage, free_of, grant, shortages


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
    queues: Sequence[Queue] = ()


@dataclass(frozen=True)
class Start:
    """Open an attempt of this job.

    Attributes:
        nodes: Of each replica, by rank.
        granted: To one replica.
    """

    job: JobName
    nodes: tuple[str, ...]
    granted: Resources


@dataclass(frozen=True)
class Reason:
    """Why a job waits: a stable code, and the same for people."""

    code: str
    message: str


class Reasons(Mapping[JobName, Reason]):
    """Why each job that does not start waits. Found when it is asked for: few are looked at, and a step has no time.

    A reason is stated against what is ahead of the job: what runs, and what was decided before its turn came. What
    starts after its turn delays it not, so it is no reason.
    """

    def __init__(
        self, snapshot: Snapshot, starts: Sequence[Start], decided: model.Plan, now: datetime
    ) -> None:
        self._snapshot = snapshot
        self._starts = starts
        self._decided = decided
        self._now = now
        self._rooms_after: dict[int, list[_Room]] = {}

    def __getitem__(self, name: JobName) -> Reason:
        job = self._waiting[name]
        if not due(job, self._now):
            return Reason("PAUSED", f"{job.message}: pauses before it starts again")
        if str(name) in self._decided.barred:
            queue, queues = (
                job.spec.queue or name.project,
                {each.name: each for each in self._snapshot.queues},
            )
            return Reason("WAITS_FOR_QUOTA", beyond(job.spec.total.named(), queue, queues, self._used))
        turn, starts = self._turn(job)
        elastic = self._snapshot.policy.algorithm == ELASTIC
        gang = (job.spec.min_replicas if elastic else 0) or job.spec.replicas
        return _wait(job, gang, self._rooms(starts), self._snapshot.nodes, self._next_on(turn, job))

    def lacks(self, name: JobName) -> tuple[str, list[Shortage]]:
        """The node that a job waits for, and what is missing there; no node where none could hold it."""
        job = self._waiting[name]
        turn, starts = self._turn(job)
        near = _nearest(job, self._rooms(starts), self._next_on(turn, job))
        if near is None:
            return "", []
        return near.node.name, shortages(job.spec.resources, near.free, near.node.capacity)

    def __iter__(self) -> Iterator[JobName]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def _turn(self, job: Job) -> tuple[int, int]:
        """How many refusals and how many starts are ahead of a job, as far as is known."""
        own = self._turns.get(str(job.name))
        if own is not None:
            return own, self._decided.refused[own][1]
        # Not tried, since one of its shape had been refused: that one is ahead of it, with all that was ahead of that.
        like = self._first_of.get(Shape.of(asked(job)))
        if like is not None:
            return like + 1, self._decided.refused[like][1]
        return len(self._decided.refused), len(self._starts)

    @cached_property
    def _waiting(self) -> dict[JobName, Job]:
        started = {start.job for start in self._starts}
        return {job.name: job for job in self._snapshot.queue if job.name not in started}

    @cached_property
    def _used(self) -> Mapping[str, Mapping[str, float]]:
        """What the jobs of each queue hold, once the plan is carried out."""
        used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        specs = {job.name: job.spec for job in (*self._snapshot.queue, *self._snapshot.holding)}
        held = [(job.name, job.attempt.total) for job in self._snapshot.holding if job.attempt]
        started = [(start.job, start.granted.times(len(start.nodes))) for start in self._starts]
        for name, granted in [*held, *started]:
            for resource, amount in granted.named().items():
                used[specs[name].queue or name.project][resource] += amount
        return used

    @cached_property
    def _turns(self) -> dict[str, int]:
        return {name: turn for turn, (name, _) in enumerate(self._decided.refused)}

    @cached_property
    def _first_of(self) -> dict[Shape, int]:
        """The first turn at which a job of a shape was refused."""
        found: dict[Shape, int] = {}
        for name, turn in self._turns.items():
            found.setdefault(Shape.of(asked(self._waiting[JobName.parse(name)])), turn)
        return found

    def _next_on(self, turns: int, job: Job) -> dict[str, str]:
        """The node that is kept for each job ahead, and for this one."""
        ahead = {name for name, _ in self._decided.refused[:turns]} | {str(job.name)}
        kept = self._decided.reservations
        return {each.job: each.placement.nodes[0][0] for each in kept if each.job in ahead}

    def _rooms(self, starts: int) -> "list[_Room]":
        """Ready nodes with what is free on them after so many starts."""
        if starts not in self._rooms_after:
            self._rooms_after[starts] = self._free_after(starts)
        return self._rooms_after[starts]

    def _free_after(self, starts: int) -> "list[_Room]":
        held = {node: list(each) for node, each in self._held.items()}
        for start in self._starts[:starts]:
            for node in start.nodes:
                held.setdefault(node, []).append(start.granted)
        return [
            _Room(node, free_of(node.capacity, held.get(node.name, ())))
            for node in self._snapshot.nodes
            if node.takes_jobs
        ]

    @cached_property
    def _held(self) -> dict[str, list[Resources]]:
        """What each process has that runs on a node."""
        held: dict[str, list[Resources]] = {}
        for job in self._snapshot.holding:
            assert job.attempt is not None
            for node in job.attempt.nodes:
                held.setdefault(node, []).append(job.attempt.granted)
        return held


@dataclass(frozen=True)
class Plan:
    """Starts in the order they were decided; running jobs to stop for others; why each other waiting job waits."""

    starts: Sequence[Start]
    reasons: Mapping[JobName, Reason]
    stops: Sequence[JobName] = ()
    resizes: Mapping[JobName, int] = field(default_factory=dict)
    """Of those that are stopped, which go on at once with so many replicas."""


def plan(
    snapshot: Snapshot,
    now: datetime,
    *,
    preempt: bool = False,
    pool: Pool | None = None,
    changes: Changes | None = None,
) -> Plan:
    """What the engine decides of these jobs and nodes.

    A job that is to start where another is stopped first starts in a later step, when that one is gone.

    Args:
        now: UTC.
        preempt: Whether running jobs may be stopped, where the policy does so.
        pool: One that has followed earlier snapshots, so that only changes are taken over.
        changes: How the jobs differ from those of the last of them, where that is known.
    """
    pool = pool or Pool()
    pool.follow([*snapshot.queue, *snapshot.holding], snapshot.nodes, now, snapshot.queues, changes)
    decided = pool.decide(snapshot.policy, now, preempt=preempt)
    starts = [
        Start(JobName.parse(start.job), start.placement.by_rank, pool.granted(start))
        for start in decided.starts
    ]
    stops = tuple(JobName.parse(name) for name in decided.stops)
    resizes = {JobName.parse(name): replicas for name, replicas in decided.resizes.items()}
    return Plan(starts, Reasons(snapshot, starts, decided, now), stops, resizes)


def check_placeable(
    request: Resources, nodes: Sequence[Node], said: Scheduling = NOTHING_SAID, replicas: int = 1
) -> None:
    """Refuse what the nodes known to the pool, ready or not, could not hold. An empty pool refuses nothing.

    Args:
        request: Of one replica.

    Raises:
        Unplaceable: with the figures of the node that comes nearest.
    """
    selected = [node for node in nodes if said.selects(node.labels)]
    if nodes and not selected:
        message = _unlike(said)
        raise Unplaceable(f"The job {message}.", fields={"job.spec.scheduling.node_selector": message})
    open_to = [node for node in selected if not said.repelled(node.labels)]
    if nodes and not open_to:
        message = _repelled(said, selected)
        raise Unplaceable(f"The job {message}.", fields={"job.spec.scheduling.tolerations": message})
    selected = open_to
    if nodes and not any(grant(node.capacity, request) for node in selected):
        message = _beyond(request, selected)
        raise Unplaceable(f"The job {message}.", fields={"job.spec.resources": message})
    most = _replicas(request, [(node, node.capacity) for node in selected], said) if replicas > 1 else 1
    if nodes and most < replicas:
        message = f"has {replicas} replicas, and {_place(said)} {most}"
        raise Unplaceable(f"The job {message}.", fields={"job.spec.replicas": message})


@dataclass(frozen=True)
class _Room:
    """What a ready node has left."""

    node: Node
    free: Resources

    def missing(self, request: Resources) -> float:
        return sum(shortage.fraction for shortage in shortages(request, self.free, self.node.capacity))


def _wait(
    job: Job, gang: int, rooms: Sequence[_Room], known: Sequence[Node], next_on: Mapping[str, str]
) -> Reason:
    """What a job waits for, on the node that is kept for it, else on the one that comes nearest."""
    request = job.spec.resources
    if not rooms:
        return Reason("WAITS_FOR_NODE", _no_node(known))
    said = job.spec.scheduling
    rooms = [room for room in rooms if said.selects(room.node.labels)]
    if not rooms:
        return Reason("WAITS_FOR_NODE", _unlike(said))
    selected, rooms = rooms, [room for room in rooms if not said.repelled(room.node.labels)]
    if not rooms:
        return Reason("WAITS_FOR_NODE", _repelled(said, [room.node for room in selected]))
    able = [room for room in rooms if grant(room.node.capacity, request)]
    if not able:
        return Reason("WAITS_FOR_NODE", _beyond(request, [room.node for room in rooms]))
    near = _nearest(job, able, next_on)
    assert near is not None
    if gang > 1:
        found = _replicas(request, [(room.node, room.free) for room in able], said)
        if 0 < found < gang:
            message = f"waits for {gang} replicas at once: {_place(said)} {found} now"
            return Reason("WAITS_FOR_GANG", message)
    name, of = near.node.name, f" (the nearest of {len(able)} nodes)" if len(able) > 1 else ""
    lacking = shortages(request, near.free, near.node.capacity)
    if not lacking:
        ahead = (each for each, node in next_on.items() if node == name and each != str(job.name))
        first = next((_seen(each, job) for each in ahead), "others")
        return Reason(
            "WAITS_BEHIND", f"waits behind {first}, which comes first and is next on node {name}{of}"
        )
    worst = max(lacking, key=lambda shortage: shortage.fraction)
    wanted, free, total = map(worst.figure, (worst.wanted, max(0, worst.free), worst.total))
    return Reason(
        f"WAITS_FOR_{worst.code}",
        f"waits for {wanted} {worst.unit}: node {name} has {free} free of {total}{of}",
    )


def _place(said: Scheduling) -> str:
    """Where a gang may be at most."""
    near = said.topology
    if near is None or not near.required:
        return "all nodes together hold"
    return "one node holds" if near.key == model.ONE_NODE else f"nodes of one {near.key} hold"


def _replicas(request: Resources, free: Sequence[tuple[Node, Resources]], said: Scheduling) -> int:
    """How many replicas these hold, all of them on one type of accelerator, and as near to each other as they must be."""
    near = said.topology if said.topology and said.topology.required else None
    counts: Counter[tuple[str, str]] = Counter()
    for node, has in free:
        where = node.labels.get(near.key, f"/{node.name}") if near else ""
        for kind in has.accelerators if request.accelerators else ("",):
            only = replace(has, accelerators={kind: has.accelerators[kind]} if kind else {})
            counts[kind, where] += _copies(only, request)
    return max(counts.values(), default=0)


def _copies(free: Resources, request: Resources) -> int:
    """How many of a request fit there."""
    granted = grant(free, request)
    if granted is None:
        return 0
    has = free.named()
    return min(int(has[name] // amount) for name, amount in granted.named().items())


def _nearest(job: Job, rooms: Sequence[_Room], next_on: Mapping[str, str]) -> _Room | None:
    """The node that is kept for a job, else the one that comes nearest to what it asks for."""
    request, mine, said = job.spec.resources, next_on.get(str(job.name)), job.spec.scheduling
    able = [
        room
        for room in rooms
        if said.selects(room.node.labels)
        and not said.repelled(room.node.labels)
        and grant(room.node.capacity, request)
    ]
    return min(
        able,
        key=lambda room: (room.node.name != mine, room.missing(request), room.node.name),
        default=None,
    )


def _seen(other: str, job: Job) -> str:
    """Another job as people of this one's project may know it."""
    return other if JobName.parse(other).project == job.name.project else "a job of another project"


def _no_node(known: Sequence[Node]) -> str:
    if not known:
        return "waits for a node: none has registered yet"
    states = ", ".join(f"{node.name} is {node.status}" for node in known[:3])
    return f"waits for a node: {states}" + (f" and {len(known) - 3} more" if len(known) > 3 else "")


def _unlike(said: Scheduling) -> str:
    """What no node is."""
    labels = " ".join(f"{name}={value}" for name, value in sorted(said.node_selector.items()))
    return f"selects nodes with {labels}, and there is none"


def _repelled(said: Scheduling, nodes: Sequence[Node]) -> str:
    """What keeps it away from the node with the fewest such taints."""
    node = min(nodes, key=lambda node: (len(said.repelled(node.labels)), node.name))
    of = "" if len(nodes) == 1 else f" (the nearest of {len(nodes)} nodes)"
    return f"does not tolerate {' '.join(said.repelled(node.labels))}: a taint of node {node.name}{of}"


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

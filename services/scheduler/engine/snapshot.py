"""What the engine plans from: nodes, jobs and queues as columns of numbers, kept up to date by small changes.

A snapshot is fed, never asked to read: each change of the world is one call, in order, so the same calls give the same
snapshot and the same plans. Columns are NumPy arrays with one row per job (its slot) or per node, so that ordering ten
thousand jobs costs a few vector operations.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aios.scheduling import DEVICE_MILLIS as DEVICE
from aios.scheduling import is_device
from services.scheduler.engine.model import (
    ONE_NODE,
    ROOT,
    RUNNING,
    STOPPING,
    WAITING,
    Amounts,
    Job,
    Node,
    Placement,
    Queue,
)
from services.scheduler.engine.parts import Part, Parts
from services.scheduler.engine.recent import Recent

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SEEN_SECONDS = 300.0
"""Of an attempt, before the speed that it was seen to have counts more than the one that was told."""

_FLOATS = (
    "submitted",  # when it was accepted
    "priority",
    "weight",
    "devices",  # accelerators of the whole gang; of a job without any: its share of a node, below one
    "work",  # steps to the end; 0: not known
    "done",  # steps
    "estimate",  # seconds, from its submitter; 0: none
    "attained",  # device-seconds, as of `touched`
    "ran",  # seconds, as of `touched`
    "touched",  # when the two above were brought up to date
    "started",  # of the present attempt
    "begun",  # steps when the present attempt started
    "restart",  # seconds that a start costs
    "min_runtime",
    "due",  # may not start before
    "waited",  # seconds, of all waits before the present one
    "since",  # when the present wait began
    "met",  # integral of contention when it was accepted
    "contention",  # the highest average that it has met: see `contentions`
    "deadline",  # infinity: none
    "pace",  # steps per second, of a job without accelerators
)
_INTS = ("number", "queue", "shape", "state", "kind", "lane")
_BOOLS = ("preemptible", "saves")

PLAIN_LANE, DEVICE_LANE = 0, 1
"""Jobs without accelerators and with: they wait for different things."""


@dataclass(frozen=True)
class Shape:
    """What jobs that can take each other's place have in common."""

    replica: tuple[tuple[str, float], ...]
    replicas: int
    selector: tuple[tuple[str, str], ...]
    prefers: tuple[tuple[str, str], ...]
    tolerates: tuple[tuple[str, str], ...]
    together: str = ""
    strictly: bool = False
    device_memory: int = 0

    @classmethod
    def of(cls, job: Job) -> "Shape":
        """That of a job."""
        labels = (job.selector, job.prefers, job.tolerates)
        replica = tuple(sorted(job.replica.items()))
        selector, prefers, tolerates = (tuple(sorted(each.items())) for each in labels)
        near = (job.together, job.strictly) if job.replicas > 1 else ("", False)
        return cls(replica, job.replicas, selector, prefers, tolerates, *near, job.device_memory)

    def may_use(self, node: Node | None) -> bool:
        """Whether a node has the labels that are asked for, and no taint that is not tolerated."""
        if node is None or not set(self.selector) <= node.labels.items():
            return False
        tolerates = dict(self.tolerates)
        return all(tolerates.get(name) in ("", value) for name, value in node.taints.items())


@dataclass(frozen=True)
class Variant:
    """A shape on one type of accelerator: what one replica takes of each resource."""

    kind: int
    """Index of the type; -1 without accelerators."""
    need: Ints
    columns: Ints
    """Resources of which the need is not zero."""
    shared: int = -1
    """The column of the type of which it takes a share of one device; -1 where it takes none, or whole ones."""
    device_memory: int = 0
    """Bytes of that device's memory; 0: its share's part."""

    @property
    def share(self) -> int:
        """Thousandths of a device, where it takes a share."""
        return int(self.need[self.shared])


@dataclass
class Holding:
    """What a job holds."""

    placement: Placement
    rows: Ints
    counts: Ints
    need: Ints
    part: Part | None = None
    """Of a shared device."""


@dataclass
class Snapshot:
    """Nodes, jobs and queues now."""

    queues: dict[str, Queue] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    holdings: dict[int, Holding] = field(default_factory=dict)
    """By slot."""
    resources: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """Types of accelerator: `gpu/H100` ..."""
    nodes: list[Node | None] = field(default_factory=list)
    node_rows: dict[str, int] = field(default_factory=dict)
    shapes: list[Shape] = field(default_factory=list)
    queue_names: list[str] = field(default_factory=lambda: [ROOT])

    def __post_init__(self) -> None:
        self._size = 0
        self._free_slots: list[int] = []
        self.names: list[str] = []
        """Of the jobs, by slot."""
        self._shape_ids: dict[Shape, int] = {}
        self._queue_ids = {ROOT: 0}
        self._variants: dict[int, tuple[Variant, ...]] = {}
        self._eligible: dict[int, Bools | None] = {}
        self._preferred: dict[int, Floats | None] = {}
        self._possible: dict[int, frozenset[int]] = {}
        self._domains: dict[str, Ints] = {}
        self._demand = np.zeros(2)
        """Devices that all jobs ask for together, by lane, as are the integrals of contention."""
        self.recent = Recent()
        """What queues used lately."""
        self.parts = Parts()
        """Of devices that are shared."""
        self._integral = np.zeros(2)
        self._passed = 0.0
        self.capacity: Ints = np.zeros((0, 0), np.int64)
        self.free: Ints = np.zeros((0, 0), np.int64)
        self.device_memory: Ints = np.zeros((0, 0), np.int64)
        """Of each device of a node, by node and type; 0 where not known."""
        self.racks: Ints = np.zeros(0, np.int64)
        self.speeds: Floats = np.zeros((0, 0))
        """Steps per second of the whole gang, by slot and type; 0 where not known."""
        self.holds: Ints = np.zeros((0, 0), np.int64)
        """What each job holds in all, by slot and resource."""
        for name in _FLOATS:
            setattr(self, name, np.zeros(0))
        for name in _INTS:
            setattr(self, name, np.zeros(0, np.int64))
        for name in _BOOLS:
            setattr(self, name, np.zeros(0, np.bool_))

    # Columns, declared for type checkers; made above.
    submitted: Floats = field(init=False)
    priority: Floats = field(init=False)
    weight: Floats = field(init=False)
    devices: Floats = field(init=False)
    work: Floats = field(init=False)
    done: Floats = field(init=False)
    estimate: Floats = field(init=False)
    attained: Floats = field(init=False)
    ran: Floats = field(init=False)
    touched: Floats = field(init=False)
    started: Floats = field(init=False)
    begun: Floats = field(init=False)
    restart: Floats = field(init=False)
    min_runtime: Floats = field(init=False)
    due: Floats = field(init=False)
    waited: Floats = field(init=False)
    since: Floats = field(init=False)
    met: Floats = field(init=False)
    contention: Floats = field(init=False)
    deadline: Floats = field(init=False)
    pace: Floats = field(init=False)
    number: Ints = field(init=False)
    queue: Ints = field(init=False)
    shape: Ints = field(init=False)
    state: Ints = field(init=False)
    kind: Ints = field(init=False)
    lane: Ints = field(init=False)
    preemptible: Bools = field(init=False)
    saves: Bools = field(init=False)

    # Nodes.

    def put_node(self, node: Node) -> None:
        """Add a node, or take its new capacity and labels; what runs on it goes on."""
        for name in node.capacity:
            self._resource(name)
        row = self.node_rows.get(node.name)
        if row is None:
            row = len(self.nodes)
            self.nodes.append(None)
            self.node_rows[node.name] = row
            width = len(self.resources)
            self.capacity = np.vstack([self.capacity, np.zeros((1, width), np.int64)])
            self.free = np.vstack([self.free, np.zeros((1, width), np.int64)])
            self.device_memory = np.vstack([self.device_memory, np.zeros((1, width), np.int64)])
            self.racks = np.append(self.racks, 0)
        self.nodes[row] = node
        amounts = self.row(node.capacity)
        self.free[row] += amounts - self.capacity[row]
        self.capacity[row] = amounts
        for name, memory in node.device_memory.items():
            column = self._resource(name)
            self.device_memory[row, column] = memory
        self.racks[row] = hash_of(node.rack)
        self._nodes_changed()

    def remove_node(self, name: str) -> None:
        """Nothing more starts there. What it held is told of job by job."""
        row = self.node_rows[name]
        self.free[row] -= self.capacity[row]
        self.capacity[row] = 0
        self._nodes_changed()

    def _nodes_changed(self) -> None:
        for cache in (self._eligible, self._preferred, self._possible, self._domains):
            cache.clear()

    def put_queue(self, queue: Queue) -> None:
        """Add a queue, or change its shares."""
        self.queues[queue.name] = queue
        for name in (queue.name, queue.parent):
            self._queue(name)

    def remove_queue(self, name: str) -> None:
        """Nothing is said of a queue any more: it is one at the top, with what is left in it."""
        del self.queues[name]

    def remember(self, half_life: float, past: Mapping[str, Mapping[str, float]], now: float) -> None:
        """What queues used lately counts from now on.

        Args:
            half_life: Seconds; 0: it does not.
            past: What is known of it: amounts by queue, as `Recent` keeps them.
        """
        rows = [self._queue(name) for name in past]
        columns = {name: self._resource(name) for amounts in past.values() for name in amounts}
        mean = np.zeros((len(self.queue_names), len(self.resources)))
        for row, amounts in zip(rows, past.values(), strict=True):
            for name, amount in amounts.items():
                mean[row, columns[name]] = amount * per_unit(name)
        self.recent.restore(half_life, mean, now)

    def remembered(self, now: float) -> tuple[float, dict[str, dict[str, float]]]:
        """What `remember` takes to go on from here: the half-life and the past."""
        mean = self.recent.mean(now, len(self.queue_names), len(self.resources)).tolist()
        past = {
            name: {each: amount / per_unit(each) for each, amount in zip(self.resources, row, strict=True)}
            for name, row in zip(self.queue_names, mean, strict=True)
        }
        return self.recent.half_life, past

    # Jobs.

    def add(
        self,
        job: Job,
        *,
        done: float = 0.0,
        due: float = 0.0,
        ran: float = 0.0,
        waited: float = 0.0,
        since: float | None = None,
    ) -> int:
        """A job waits. Returns its slot.

        Args:
            ran: Seconds that earlier attempts ran, where it is no new one.
            waited: Seconds of its earlier waits.
            since: When its present wait began: by default when it was submitted.
        """
        self._pass(job.submitted)
        slot = self._slot()
        self.jobs[job.name] = job
        self.slots[job.name] = slot
        self.names[slot] = job.name
        for name in job.replica:
            if "/" in name or not is_device(name):
                self._resource(name)
        shape = self._shape(job)
        devices = job.replicas * _devices(job.replica)
        lane = DEVICE_LANE if any(map(is_device, job.replica)) else PLAIN_LANE
        values = {
            "submitted": job.submitted,
            "priority": job.priority,
            "weight": job.weight,
            "work": job.work,
            "done": done,
            "begun": done,
            "estimate": job.estimate,
            "attained": ran * devices,
            "ran": ran,
            "touched": job.submitted,
            "started": 0.0,
            "restart": job.restart,
            "min_runtime": job.min_runtime,
            "deadline": job.deadline,
            "due": due,
            "waited": waited,
            "since": job.submitted if since is None else since,
            "met": self._integral[lane],
            "contention": 0.0,
            "pace": job.speeds.get("", 0.0),
            "number": job.number,
            "queue": self._queue(job.queue),
            "shape": shape,
            "state": WAITING,
            "kind": -1,
            "lane": lane,
            "devices": devices,
            "preemptible": job.preemptible,
            "saves": job.saves,
        }
        for name, value in values.items():
            getattr(self, name)[slot] = value
        self.speeds[slot] = 0.0
        for kind, speed in job.speeds.items():
            if kind:
                self.speeds[slot, self._kind(kind)] = speed
        self._demand[lane] += devices
        return slot

    def remove(self, name: str, now: float = 0.0) -> None:
        """A job has ended; `now` where it held something."""
        slot = self.slots.pop(name)
        del self.jobs[name]
        self._release(slot, now)
        self._demand[self.lane[slot]] -= self.devices[slot]
        self.state[slot] = 0
        self._free_slots.append(slot)

    def start(self, name: str, placement: Placement, now: float) -> None:
        """A job runs there from now on; one that runs elsewhere has moved."""
        slot = self.slots[name]
        self.touch(slot, now)
        self._release(slot, now)
        held = self.holdings[slot] = self.holding(name, placement)
        np.subtract.at(self.free, held.rows, held.counts[:, None] * held.need)
        if held.part is not None:
            self.parts.take((int(held.rows[0]), self.resources.index(placement.kind)), held.part)
        self.holds[slot] = held.counts.sum() * held.need
        self.recent.change(int(self.queue[slot]), self.holds[slot], now)
        if self.state[slot] == WAITING:
            self.waited[slot] += now - self.since[slot]
        self.state[slot] = RUNNING
        self.started[slot] = now
        self.begun[slot] = self.done[slot]
        self.kind[slot] = self._kind(placement.kind) if placement.kind else -1

    def stopping(self, name: str) -> None:
        """A job was told to stop; it holds what it has until it waits again."""
        self.state[self.slots[name]] = STOPPING

    def wait(self, name: str, now: float, *, due: float = 0.0) -> None:
        """A job holds nothing any more and waits, not to start before `due`."""
        slot = self.slots[name]
        self.touch(slot, now)
        seen = float(self.seen_speeds(slot))
        if seen > 0:
            whole = self.scale(slot, self.jobs[name].replicas) / self.scale(slot, self.size(slot))
            self._set_speed(slot, int(self.kind[slot]), seen * whole)
        self._release(slot, now)
        self.state[slot] = WAITING
        self.since[slot] = now
        self.due[slot] = due
        self.kind[slot] = -1

    def pause(self, name: str, due: float) -> None:
        """A job that waits may not start before; infinity: not before this is called again."""
        self.due[self.slots[name]] = due

    def progress(self, name: str, done: float) -> None:
        """How far a job has come, in steps."""
        self.done[self.slots[name]] = done

    def measured(self, name: str, kind: str, speed: float) -> None:
        """A job was seen to make so many steps per second on that type; on no type where it has no accelerators."""
        self._set_speed(self.slots[name], self._kind(kind) if kind else -1, speed)

    def reported(
        self, name: str, *, done: float, begun: float, work: float, restart: float, saves: bool
    ) -> None:
        """What a job says of itself, in steps: made, at the start of its attempt, and in all.

        Args:
            work: 0 where it cannot tell.
            restart: Seconds that its starts cost, as last seen.
            saves: Whether it saves its work when it is told to stop.
        """
        slot = self.slots[name]
        self.done[slot], self.begun[slot], self.work[slot] = done, begun, work
        self.restart[slot], self.saves[slot] = restart, saves

    def touch(self, slots: "int | Ints", now: float) -> None:
        """Bring the time that jobs ran, and the devices they used it on, up to now."""
        running = self.state[slots] == RUNNING
        passed = np.where(running, now - self.touched[slots], 0.0)
        self.ran[slots] += passed
        self.attained[slots] += passed * self.devices[slots]
        self.touched[slots] = now

    def copy(self) -> "Snapshot":
        """One that changes by itself."""
        made = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray | dict | list | Recent | Parts):
                setattr(made, name, value.copy())
        return made

    # What the rules read.

    def holding(self, name: str, placement: Placement) -> Holding:
        """What a job holds where it is placed."""
        kind = self._kind(placement.kind) if placement.kind else -1
        shape = int(self.shape[self.slots[name]])
        variant = next(each for each in self.variants(shape) if each.kind == kind)
        rows = np.array([self.node_rows[node] for node, _ in placement.nodes], np.int64)
        counts = np.array([count for _, count in placement.nodes], np.int64)
        part = None
        if variant.shared >= 0:
            part = Part(placement.device, variant.share, self.memory_part(variant, int(rows[0])))
        return Holding(placement, rows, counts, variant.need, part)

    def least(self, slot: int) -> int:
        """Replicas that a job runs with at least."""
        job = self.jobs[self.names[slot]]
        return min(job.least, job.replicas) or job.replicas

    def size(self, slot: int) -> int:
        """Replicas that a job runs with; of what waits, all of them."""
        held = self.holdings.get(slot)
        return int(held.counts.sum()) if held is not None else self.jobs[self.names[slot]].replicas

    def scale(self, slot: int, replicas: int) -> float:
        """What a job makes with so many replicas, where one makes 1."""
        return replicas / (1 + self.jobs[self.names[slot]].agreement * (replicas - 1))

    def seen_speeds(self, slots: "int | Ints") -> Floats:
        """Steps per second in the present attempt; 0 of what does not run, or not for long enough to tell."""
        made = self.done[slots] - self.begun[slots]
        seconds = self.touched[slots] - self.started[slots] - self.restart[slots]
        tells = (self.state[slots] >= RUNNING) & (seconds >= SEEN_SECONDS) & (made > 0)
        seen: Floats = np.where(tells, made / np.maximum(seconds, 1.0), 0.0)
        return seen

    @property
    def totals(self) -> Floats:
        """What there is for the jobs of each lane, in the measure of `devices`: accelerators of all nodes for the one,
        processors for the other."""
        columns = [self.resources.index(kind) for kind in self.kinds]
        cpu = self.capacity[:, self.resources.index("cpu")].sum() if "cpu" in self.resources else 0
        return np.array([max(1, cpu) / CPU_PER_DEVICE, max(1, self.capacity[:, columns].sum() / DEVICE)])

    def contentions(self, slots: Ints, now: float) -> Floats:
        """How many times over the pool was asked for while each job was here: 1 where it never was.

        The highest value that the average over the job's life has had: what a job was made to wait for when the pool
        was full is not taken back when it empties.
        """
        self._pass(now)
        age, lane = now - self.submitted[slots], self.lane[slots]
        present = np.maximum(1.0, self._demand / self.totals)[lane]
        with np.errstate(divide="ignore", invalid="ignore"):
            average = np.where(age > 0, (self._integral[lane] - self.met[slots]) / age, present)
        self.contention[slots] = np.maximum(self.contention[slots], np.maximum(1.0, average))
        highest: Floats = self.contention[slots]
        return highest

    def _pass(self, now: float) -> None:
        if now > self._passed:
            self._integral += (now - self._passed) * np.maximum(1.0, self._demand / self.totals)
            self._passed = now

    def variants(self, shape: int) -> tuple[Variant, ...]:
        """A shape on each type of accelerator that serves it; one without a type where it asks for none."""
        known = self._variants.get(shape)
        if known is None:
            known = self._variants[shape] = tuple(self._variants_of(self.shapes[shape]))
        return known

    def memory_part(self, variant: Variant, row: int) -> int:
        """Thousandths of a device's memory on a node that a share takes; more than there are where it has too little, or
        nobody knows how much."""
        if not variant.device_memory:
            return variant.share
        has = int(self.device_memory[row, variant.shared])
        return -(-variant.device_memory * DEVICE // has) if has else DEVICE + 1

    def amounts(self, name: str, kind: str) -> dict[str, float]:
        """What one replica of a job takes on a type of accelerator."""
        index = self._kind(kind) if kind else -1
        [variant] = (each for each in self.variants(int(self.shape[self.slots[name]])) if each.kind == index)
        return self.named(variant.need)

    def kind_of(self, name: str, amounts: Amounts) -> str:
        """The type of accelerator on which one replica of a job takes exactly this; empty without one."""
        for resource in amounts:
            self._resource(resource)
        row = self.row(amounts)
        variants = self.variants(int(self.shape[self.slots[name]]))
        kind = next(each.kind for each in variants if np.array_equal(wide(each.need, len(row)), row))
        return self.kinds[kind] if kind >= 0 else ""

    def eligible(self, shape: int) -> Bools | None:
        """Nodes that a shape may use by their labels and taints; None for all."""
        if shape not in self._eligible:
            if not self.shapes[shape].selector and not any(node and node.taints for node in self.nodes):
                self._eligible[shape] = None
                return None
            may_use = np.array([self.shapes[shape].may_use(node) for node in self.nodes], np.bool_)
            self._eligible[shape] = None if may_use.all() else may_use
        return self._eligible[shape]

    def together(self, shape: int) -> Ints | None:
        """Of each node, which of those it is near to by the label that a shape names, as a number; below 0 where it has
        none. None where the shape names none."""
        key = self.shapes[shape].together
        if not key:
            return None
        if key not in self._domains:
            rows = range(len(self.nodes))
            values = [node.labels.get(key, "") if node else "" for node in self.nodes]
            known = {value: number for number, value in enumerate(dict.fromkeys(values)) if value}
            found = rows if key == ONE_NODE else [known.get(value, -1) for value in values]
            self._domains[key] = np.array(found, np.int64)
        return self._domains[key]

    def preferred(self, shape: int) -> Floats | None:
        """How many of the labels that a shape prefers each node has; None where that is the same for all."""
        if shape not in self._preferred:
            wanted = set(self.shapes[shape].prefers)
            has = [len(wanted & node.labels.items()) for node in self.nodes if node] if wanted else []
            self._preferred[shape] = np.array(has, np.float64) if len(set(has)) > 1 else None
        return self._preferred[shape]

    def possible(self, shape: int) -> frozenset[int]:
        """Types on which a gang of that shape would fit if nothing else ran."""
        if shape not in self._possible:
            eligible, fits = self.eligible(shape), []
            capacity = self.capacity if eligible is None else self.capacity[eligible]
            for variant in self.variants(shape):
                held = (capacity[:, variant.columns] // variant.need[variant.columns]).min(
                    axis=1, initial=2**31
                )
                if variant.device_memory:
                    has = self.device_memory[:, variant.shared]
                    held = held * ((has if eligible is None else has[eligible]) >= variant.device_memory)
                near = self.together(shape)
                if self.shapes[shape].strictly and near is not None:
                    near = near if eligible is None else near[eligible]
                    sums = [held[near == each].sum() for each in np.unique(near[near >= 0])]
                    most = max([held.max(initial=0), *sums])
                else:
                    most = held.sum()
                if most >= self.shapes[shape].replicas:
                    fits.append(variant.kind)
            self._possible[shape] = frozenset(fits)
        return self._possible[shape]

    def row_names(self, rows: Iterable[int]) -> list[str]:
        """Names of nodes by row."""
        return [node.name for row in rows if (node := self.nodes[row]) is not None]

    def _variants_of(self, shape: Shape) -> Iterable[Variant]:
        asked = dict(shape.replica)
        generic = [name for name in asked if is_device(name) and "/" not in name and name not in self.kinds]
        fixed = [name for name in asked if is_device(name) and name not in generic]
        base = {name: amount for name, amount in asked.items() if name not in generic}
        if generic:
            any_of, amount = generic[0], asked[generic[0]]
            for index, kind in enumerate(self.kinds):
                if kind.startswith(any_of + "/"):
                    yield self._variant(index, base | {kind: base.get(kind, 0) + amount}, shape)
        else:
            yield self._variant(self.kinds.index(fixed[0]) if fixed else -1, base, shape)

    def _variant(self, kind: int, amounts: Amounts, shape: Shape) -> Variant:
        need = self.row(amounts)
        column = self.resources.index(self.kinds[kind]) if kind >= 0 else -1
        if column < 0 or need[column] % DEVICE == 0:
            return Variant(kind, need, np.flatnonzero(need))
        return Variant(kind, need, np.flatnonzero(need), column, shape.device_memory)

    def _set_speed(self, slot: int, kind: int, speed: float) -> None:
        if kind >= 0:
            self.speeds[slot, kind] = speed
        else:
            self.pace[slot] = speed

    def _release(self, slot: int, now: float) -> None:
        held = self.holdings.pop(slot, None)
        if held is not None:
            self.recent.change(int(self.queue[slot]), -self.holds[slot], now)
            np.add.at(self.free, held.rows, held.counts[:, None] * wide(held.need, len(self.resources)))
            if held.part is not None:
                column = self.resources.index(held.placement.kind)
                self.parts.give((int(held.rows[0]), column), held.part)
            self.holds[slot] = 0

    def row(self, amounts: Amounts) -> Ints:
        """Amounts as a row of the matrices, where devices are counted in thousandths."""
        columns = [self._resource(name) for name in amounts]
        row = np.zeros(len(self.resources), np.int64)
        row[columns] = [round(amount * per_unit(name)) for name, amount in amounts.items()]
        return row

    def named(self, row: Ints) -> dict[str, float]:
        """A row of the matrices as amounts, without those of zero."""
        return {
            self.resources[column]: in_units(self.resources[column], int(row[column]))
            for column in np.flatnonzero(row).tolist()
        }

    def _resource(self, name: str) -> int:
        if name in self.resources:
            return self.resources.index(name)
        self.resources.append(name)
        self.capacity = np.pad(self.capacity, ((0, 0), (0, 1)))
        self.free = np.pad(self.free, ((0, 0), (0, 1)))
        self.device_memory = np.pad(self.device_memory, ((0, 0), (0, 1)))
        self.holds = np.pad(self.holds, ((0, 0), (0, 1)))
        if is_device(name):
            self.kinds.append(name)
            self.speeds = np.pad(self.speeds, ((0, 0), (0, 1)))
        self._variants.clear()
        self._possible.clear()
        return len(self.resources) - 1

    def _kind(self, name: str) -> int:
        self._resource(name)
        return self.kinds.index(name)

    def _queue(self, name: str) -> int:
        if name not in self._queue_ids:
            self._queue_ids[name] = len(self.queue_names)
            self.queue_names.append(name)
        return self._queue_ids[name]

    def _shape(self, job: Job) -> int:
        shape = Shape.of(job)
        if shape not in self._shape_ids:
            self._shape_ids[shape] = len(self.shapes)
            self.shapes.append(shape)
        return self._shape_ids[shape]

    def _slot(self) -> int:
        if not self._free_slots:
            grown = max(64, 2 * self._size)
            more = grown - self._size
            for name in (*_FLOATS, *_INTS, *_BOOLS):
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros(more, column.dtype)]))
            self.speeds = np.vstack([self.speeds, np.zeros((more, len(self.kinds)))])
            self.holds = np.vstack([self.holds, np.zeros((more, len(self.resources)), np.int64)])
            self._free_slots = list(range(grown - 1, self._size - 1, -1))
            self.names += [""] * more
            self._size = grown
        return self._free_slots.pop()


CPU_PER_DEVICE = 1e6
"""Millicores that count as one device where jobs without accelerators are compared: little beside any accelerator."""


def per_unit(name: str) -> int:
    """What an amount of a resource is multiplied by in the matrices."""
    return DEVICE if is_device(name) else 1


def in_units(name: str, amount: int) -> float:
    """An amount of the matrices as people count it; a whole number where it is one."""
    whole, rest = divmod(amount, per_unit(name))
    return amount / per_unit(name) if rest else whole


def _devices(replica: Amounts) -> float:
    """Devices of one replica; for one without, a little for its processors, so that shares stay comparable."""
    devices = sum(amount for name, amount in replica.items() if is_device(name))
    return float(devices) or replica.get("cpu", 0) / CPU_PER_DEVICE


def wide(need: Ints, width: int) -> Ints:
    """A row of amounts made when there were fewer resources."""
    return need if len(need) == width else np.pad(need, (0, width - len(need)))


def hash_of(rack: str) -> int:
    """A number that is the same for the same rack in every process."""
    return int.from_bytes(rack.encode()[:7].ljust(7, b"\0"), "big")


def filled(
    nodes: Sequence[Node], queues: Sequence[Queue] = (), jobs: Mapping[str, Job] | None = None
) -> Snapshot:
    """A snapshot of these, with every job waiting."""
    snapshot = Snapshot()
    for node in nodes:
        snapshot.put_node(node)
    for queue in queues:
        snapshot.put_queue(queue)
    for job in (jobs or {}).values():
        snapshot.add(job)
    return snapshot

"""What the engine knows of nodes and jobs, and what it decides. Pure.

Amounts are numbers by resource name: `cpu` in millicores, `memory` in bytes, accelerators such as `gpu/H100` in devices,
0.25 for a quarter of one, and any other name that a node declares. Times are seconds on one clock; work is counted in steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Amounts = Mapping[str, float]
"""Whole numbers, but for accelerators: thousandths of a device count."""

ONE_NODE = "node"
"""Stands for a label that every node has a value of its own of."""
ROOT = ""
"""The queue above all others."""


# Where a job stands with the engine: a column of numbers, so these are plain ones.
WAITING = 1
RUNNING = 2
STOPPING = 3
"""Told to stop; holds its resources until it has."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that jobs may be placed on. Its taints keep those away that do not tolerate each of them.

    Attributes:
        device_memory: Bytes of each of its devices, by type, where known.
    """

    name: str
    capacity: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)
    rack: str = ""
    taints: Mapping[str, str] = field(default_factory=dict)
    device_memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A share of the pool, in a tree.

    Attributes:
        parent: The queue that it is part of.
        weight: Of what is contended among its siblings.
        nominal: What is its own, by resource; what it uses beyond is borrowed. A resource it does not name: nothing.
        limit: The most it may use, borrowed or not. A resource it does not name is not limited.
        lending: How much of its nominal quota others may use while it is idle. A resource it does not name: all of it.
    """

    name: str
    parent: str = ROOT
    weight: float = 1.0
    nominal: Amounts = field(default_factory=dict)
    limit: Amounts = field(default_factory=dict)
    lending: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for. What has become of it so far is told to the snapshot as it changes.

    Attributes:
        number: Order of acceptance: breaks every tie.
        submitted: When it was accepted.
        replica: Resources of one replica; `gpu` without a type means any type of gpu, one type for the whole gang. Less
            than one device is a share of one, and such a job no gang.
        device_memory: Bytes of its device's memory that a share takes; 0: the same part of it as of the device.
        replicas: Size of the gang: all of it runs or none, unless it is elastic.
        least: Of an elastic job, how few replicas it may run with; 0: it is not elastic.
        agreement: Part of a replica's work that each other replica costs it: at n replicas an elastic job makes
            n / (1 + agreement (n - 1)) times what one makes.
        selector: Labels that each of its nodes has.
        prefers: Labels that its nodes had better have.
        tolerates: Taints of its nodes that do not keep it away, by name; an empty value stands for any.
        together: The label that all nodes of a gang have the same value of; `node`: it is on one; empty: on any.
        strictly: Whether it waits for that; else it had better be so.
        work: Steps to its end; 0 when it has none or none is known.
        speeds: Steps per second of the whole gang at `replicas`, by accelerator type, and by "" for a job without any;
            without an entry: not known.
        estimate: Seconds that its submitter expects it to run; 0 when not said.
        min_runtime: Seconds that it runs before it may be preempted.
        deadline: When it should have ended; infinity where it need not by any time.
        restart: Seconds that a start costs it before its first step: loading, and what it repeats.
        saves: Whether it is known to go on from where it is stopped; else a stop throws its work away.
    """

    name: str
    number: int
    submitted: float
    replica: Amounts
    replicas: int = 1
    least: int = 0
    agreement: float = 0.0
    queue: str = ROOT
    selector: Mapping[str, str] = field(default_factory=dict)
    prefers: Mapping[str, str] = field(default_factory=dict)
    tolerates: Mapping[str, str] = field(default_factory=dict)
    together: str = ""
    strictly: bool = False
    priority: int = 0
    weight: float = 1.0
    preemptible: bool = True
    min_runtime: float = 0.0
    work: float = 0.0
    speeds: Mapping[str, float] = field(default_factory=dict)
    estimate: float = 0.0
    deadline: float = math.inf
    restart: float = 0.0
    saves: bool = True
    device_memory: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a gang runs: so many replicas on each node, all on one type of accelerator (empty without one).

    Attributes:
        device: Of a job with a share: the number of the device, among those of its node and type that are shared.
    """

    nodes: tuple[tuple[str, int], ...]
    kind: str = ""
    device: int = 0

    @property
    def replicas(self) -> int:
        """Size of the gang."""
        return sum(count for _, count in self.nodes)

    @property
    def by_rank(self) -> tuple[str, ...]:
        """The node of each replica."""
        return tuple(node for node, count in self.nodes for _ in range(count))


@dataclass(frozen=True, slots=True)
class Start:
    """Run a job there. A job that runs now is moved: by checkpoint and restart."""

    job: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Reservation:
    """Resources that are kept for a job that waits.

    Attributes:
        at: When it is expected to start, where the ends of what runs are known; else a guess.
    """

    job: str
    at: float
    placement: Placement


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        stops: Running jobs to preempt, which go on waiting.
        starts: In the order in which they were decided.
        reservations: By their moment.
        refused: Jobs that did not fit when their turn came, in the order of their turns, each with the number of
            starts decided before. Nobody of the same shape fits after one of them, so the others are not tried.
        barred: Jobs that the limits of queues keep from starting, whatever is free.
        resizes: Of the stops, those that are to go on with another number of replicas.
    """

    starts: tuple[Start, ...] = ()
    stops: tuple[str, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    refused: tuple[tuple[str, int], ...] = ()
    barred: frozenset[str] = frozenset()
    resizes: Mapping[str, int] = field(default_factory=dict)

"""What is broken when: a pure function of a seed, so that any round can be played again."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from tests.faults.platform import DISKS, LEASE_SECONDS, LINKS, PYTHON_SERVICES
from tests.faults.supervisor import SECOND

ROUND = 20
"""Injections between two full checks."""
GAP_SECONDS = 0.35
"""Mean time between injections: most begin while others still last."""


class Fault(StrEnum):
    """A way to break something."""

    KILL = "kill"
    PAUSE = "pause"
    RESET = "reset"
    LATENCY = "latency"
    DROP = "drop"
    ONE_WAY = "one-way"
    REFUSE = "refuse"
    LOCK = "lock"  # of a service's SQLite file, by another process
    FULL = "full"  # a disk
    CLOCK = "clock"  # the wall clock of one process jumps


@dataclass(frozen=True)
class Injection:
    """One fault."""

    moment: float
    """Seconds after the round began."""
    fault: Fault
    target: str
    seconds: float
    """How long it lasts; 0 for what is over at once."""
    size: float = 0.0
    """Latency in seconds, or the clock's jump."""


SERVICES = (*PYTHON_SERVICES, "agent", SECOND, "nats", "s3", "envoy")
JOB_PARTS = ("job", "training", "shim")
SERVING_PARTS = ("triton", "stub", "replica")
NODE = "node-b"
"""The agent of the second node and everything that it runs."""


def schedule(seed: int, capable: Collection[Fault] = tuple(Fault), count: int = ROUND) -> list[Injection]:
    """The injections of one round, by moment.

    Nothing is killed twice in a round: that a supervisor waits longer before each restart is wanted, not a fault.

    Args:
        capable: Faults that this machine lets us make.
    """
    rng = random.Random(seed)
    once = [(Fault.KILL, target) for target in rng.sample((*SERVICES, NODE), 4)]
    # What restarts everything, or waits out a pause that grows with each death, comes in some rounds only.
    if rng.random() < 0.2:
        once.append((Fault.KILL, "supervisor"))
    if rng.random() < 0.5:
        once.append((Fault.KILL, rng.choice(SERVING_PARTS)))
    if rng.random() < 0.25:
        once.append((Fault.KILL, "training"))
    chosen = once[:count]
    while len(chosen) < count:
        chosen.append(_other(rng, capable))
    rng.shuffle(chosen)
    moment, injections = 0.0, []
    for fault, target in chosen:
        moment += rng.expovariate(1 / GAP_SECONDS)
        seconds, size = _extent(rng, fault, target)
        injections.append(Injection(round(moment, 3), fault, target, round(seconds, 3), round(size, 3)))
    return injections


def _other(rng: random.Random, capable: Collection[Fault]) -> tuple[Fault, str]:
    while True:
        fault = rng.choices(
            list(Fault),
            weights=[3, 5, 4, 2, 3, 2, 3, 2, 2, 1],
        )[0]
        if fault not in capable:
            continue
        match fault:
            case Fault.KILL:
                return fault, rng.choice(("job", "shim"))
            case Fault.PAUSE:
                return fault, rng.choice(
                    (*SERVICES, "job", "training", "shim", "triton", "stub", "supervisor")
                )
            case Fault.LOCK:
                return fault, rng.choice(("scheduler", "data", "trainer", "inference", "identity"))
            case Fault.FULL:
                return fault, rng.choice(DISKS)
            case Fault.CLOCK:
                return fault, rng.choice((*PYTHON_SERVICES, "agent", SECOND))
            case _:
                return fault, rng.choice(tuple(LINKS))


def _extent(rng: random.Random, fault: Fault, target: str) -> tuple[float, float]:
    # An agent that is silent for longer than its lease loses its jobs: that is to happen too.
    silent = rng.random() < 0.15 and target.startswith("agent")
    long = LEASE_SECONDS + rng.uniform(0.5, 2.0)
    match fault:
        case Fault.KILL | Fault.RESET:
            return 0.0, 0.0
        case Fault.LATENCY:
            return rng.uniform(0.5, 4.0), rng.uniform(0.02, 0.3)
        case Fault.CLOCK:
            return rng.uniform(1.0, 4.0), rng.choice((-3600.0, 3600.0))
        case Fault.LOCK:
            return rng.choice((rng.uniform(0.2, 2.0), rng.uniform(5.0, 7.0))), 0.0
        case _:
            return (long if silent else rng.uniform(0.2, 3.0)), 0.0

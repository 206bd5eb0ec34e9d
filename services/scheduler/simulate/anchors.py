"""The policies of Gavel and Shockwave's simulators, composed as theirs are, for calibration against their results."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine import allocate, shares
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.rounds import Allocate, Rounds
from services.scheduler.engine.shares import demand
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot

GAVEL_INTERVAL, SHOCKWAVE_INTERVAL = 1920.0, 1000.0
"""Seconds between two allocations at least, in each simulator."""


def las(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Max-min fairness of time."""
    return allocate.max_min_unaware(demand(snapshot, slots))


def max_sum(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Most steps per second in all, whatever a step is."""
    asked = demand(snapshot, slots)
    return allocate.max_sum(asked, asked.speeds)


@dataclass
class Fifo:
    """In order of arrival, each on its fastest type with room, and nobody passes the first that does not fit."""

    def __call__(self, snapshot: Snapshot, slots: Ints, now: float) -> Floats:
        asked = demand(snapshot, slots)
        left = asked.capacity.copy()
        found = np.zeros_like(asked.speeds)
        for row, gang in enumerate(asked.gangs):
            fits = np.flatnonzero(left >= gang)
            if not len(fits):
                break
            kind = int(fits[np.argmax(asked.speeds[row, fits])])
            if asked.speeds[row, kind] > 0:
                left[kind] -= gang
                found[row, kind] = 1.0
        return found


@dataclass
class FifoUnaware:
    """What the anchors' FIFO does that tells no types apart, slips included, for its figures contain them.

    It means to draw a type with room for each job, and to keep the job there. The type that it draws is not the one
    that it uses, which is the last by name that had room for anything; and when that is used up, the one drawn is
    taken off the list. So the last type is given to far more jobs than it has room for, and these take turns on it.
    """

    seed: int = 0
    _types: dict[int, int] = field(default_factory=dict)
    """By number, in order of allocation."""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def __call__(self, snapshot: Snapshot, slots: Ints, now: float) -> Floats:
        asked = demand(snapshot, slots)
        rows = {number: row for row, number in enumerate(snapshot.number[slots].tolist())}
        left = asked.capacity.copy()
        queue = [number for number in rows if number not in self._types]
        for number in sorted(self._types):
            kind = self._types[number]
            if number in rows:
                left[kind] -= asked.gangs[rows[number]]
                continue
            del self._types[number]
            if queue and asked.gangs[rows[queue[0]]] <= left[kind] and asked.speeds[rows[queue[0]], kind] > 0:
                left[kind] -= asked.gangs[rows[queue[0]]]
                self._types[queue.pop(0)] = kind
        listed = [kind for kind in np.argsort(snapshot.kinds).tolist() if left[kind] > 0]
        for number in queue:
            gang = asked.gangs[rows[number]]
            fits = [kind for kind in listed if left[kind] >= gang]
            if not fits:
                break
            drawn, used = fits[self._rng.randrange(len(fits))], listed[-1]
            if asked.speeds[rows[number], used] > 0:
                self._types[number] = used
                left[used] -= gang
                if left[used] == 0:
                    listed.remove(drawn)
        found = np.zeros_like(asked.speeds)
        for number, kind in self._types.items():
            found[rows[number], kind] = 1.0
        return found


def rounds(
    allocation: Allocate, *, interval: float, seconds: float, aware: bool, strict: bool = False
) -> Decide:
    """Rounds of that length by that allocation, as a simulation asks for them."""
    keeper = Rounds(allocation, interval, seconds / 2, strict, aware)
    return lambda snapshot, now, preempt: keeper.plan(snapshot, now, preempt=preempt)


POLICIES: dict[str, tuple[Callable[[int], Allocate], bool, bool]] = {
    "fifo": (FifoUnaware, False, True),
    "fifo_perf": (lambda seed: Fifo(), True, True),
    "max_min_fairness": (lambda seed: las, False, False),
    "max_min_fairness_water_filling_perf": (lambda seed: shares.max_min, True, False),
    "finish_time_fairness_perf": (lambda seed: shares.finish_time_fair, True, False),
    "min_total_duration": (lambda seed: shares.makespan, False, False),
    "min_total_duration_perf": (lambda seed: shares.makespan, True, False),
    "max_sum_throughput_perf": (lambda seed: max_sum, True, False),
}
"""By the anchors' names: the allocation, whether it knows types apart, whether what has no share may not run."""

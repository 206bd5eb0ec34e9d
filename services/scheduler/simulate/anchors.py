"""The policies of Gavel and Shockwave's simulators, composed as theirs are, for calibration against their results."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine import allocate
from services.scheduler.engine.allocate import Demand
from services.scheduler.engine.rounds import Allocate, Rounds
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot
from services.scheduler.simulate.world import Decide

GAVEL_INTERVAL, SHOCKWAVE_INTERVAL = 1920.0, 1000.0
"""Seconds between two allocations at least, in each simulator."""


def demand(snapshot: Snapshot, slots: Ints) -> Demand:
    """What these jobs ask for, as matrices."""
    columns = [snapshot.resources.index(kind) for kind in snapshot.kinds]
    return Demand(
        snapshot.speeds[slots],
        snapshot.devices[slots],
        snapshot.capacity[:, columns].sum(axis=0).astype(np.float64),
        snapshot.weight[slots],
    )


def las(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Max-min fairness of time."""
    return allocate.max_min_unaware(demand(snapshot, slots))


def las_aware(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Max-min fairness of normalised throughput."""
    return allocate.max_min(demand(snapshot, slots))


def makespan(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Least makespan."""
    left = snapshot.work[slots] - snapshot.done[slots]
    return allocate.makespan(demand(snapshot, slots), left)


def ftf_aware(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Least worst finish-time fairness."""
    asked = demand(snapshot, slots)
    equal = np.maximum(allocate.equal_speeds(asked), 1e-9)
    isolated = snapshot.work[slots] / equal
    left = snapshot.work[slots] - snapshot.done[slots]
    return allocate.finish_time_fair(asked, left, now - snapshot.submitted[slots], isolated)


def max_sum(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Most steps per second in all."""
    return allocate.max_sum(demand(snapshot, slots))


@dataclass
class Fifo:
    """In order of arrival, each on one type for itself, and nobody passes the first that does not fit.

    Attributes:
        aware: Whether each takes the fastest type with room, anew each time; else it takes any and keeps it.
        seed: Which "any".
    """

    aware: bool
    seed: int = 0
    _types: dict[int, int] = field(default_factory=dict)
    """By number."""

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def __call__(self, snapshot: Snapshot, slots: Ints, now: float) -> Floats:
        asked = demand(snapshot, slots)
        left = asked.capacity.copy()
        numbers = snapshot.number[slots].tolist()
        self._types = {} if self.aware else {n: kind for n, kind in self._types.items() if n in set(numbers)}
        shares = np.zeros_like(asked.speeds)
        for row, number in enumerate(numbers):
            if number in self._types:
                left[self._types[number]] -= asked.gangs[row]
                shares[row, self._types[number]] = 1.0
        for row, number in enumerate(numbers):
            if number in self._types:
                continue
            fits = np.flatnonzero(left >= asked.gangs[row])
            if not len(fits):
                break
            kind = int(fits[np.argmax(asked.speeds[row, fits])] if self.aware else self._rng.choice(fits))
            if asked.speeds[row, kind] > 0:
                self._types[number] = kind
                left[kind] -= asked.gangs[row]
                shares[row, kind] = 1.0
        return shares


def rounds(allocation: Allocate, *, interval: float, seconds: float, aware: bool, strict: bool = False) -> Decide:
    """Rounds of that length by that allocation, as a simulation asks for them."""
    keeper = Rounds(allocation, interval, seconds / 2, strict, aware)
    return lambda snapshot, now, preempt: keeper.plan(snapshot, now)


POLICIES: dict[str, tuple[Callable[[int], Allocate], bool, bool]] = {
    "fifo": (lambda seed: Fifo(aware=False, seed=seed), False, True),
    "fifo_perf": (lambda seed: Fifo(aware=True), True, True),
    "max_min_fairness": (lambda seed: las, False, False),
    "max_min_fairness_water_filling_perf": (lambda seed: las_aware, True, False),
    "finish_time_fairness_perf": (lambda seed: ftf_aware, True, False),
    "min_total_duration_perf": (lambda seed: makespan, True, False),
    "max_sum_throughput_perf": (lambda seed: max_sum, True, False),
}
"""By the anchors' names: the allocation, whether it knows types apart, whether what has no share may not run."""

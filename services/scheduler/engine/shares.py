"""The allocations by name, from what the snapshot knows: what each job can make where, and what it has left. Pure."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from aios.scheduling import DEVICE_MILLIS as DEVICE
from services.scheduler.engine import allocate
from services.scheduler.engine.allocate import Demand
from services.scheduler.engine.linear import TOLERANCE
from services.scheduler.engine.order import remaining
from services.scheduler.engine.rounds import Allocate
from services.scheduler.engine.snapshot import DEVICE_LANE, PLAIN_LANE, Floats, Ints, Snapshot
from services.scheduler.engine.utility import Curve, Log, utility

PRIORITY_DOUBLES = 10.0
"""Priority that counts as twice the weight."""
LEAST_SECONDS = 60.0
"""That a job has left to the eyes of an allocation: one that is all but done does not outweigh everything."""


def demand(snapshot: Snapshot, slots: Ints) -> Demand:
    """What these jobs, all of one lane, can make on each type that could hold them.

    Where nothing is known of a job there, all of them are alike. Without accelerators processors are the one type.
    """
    if len(slots) and snapshot.lane[slots[0]] == PLAIN_LANE:
        pace = snapshot.pace[slots, None]
        return Demand(
            np.where(pace > 0, pace, 1.0),
            snapshot.devices[slots],
            snapshot.totals[PLAIN_LANE : PLAIN_LANE + 1],
            snapshot.weight[slots],
        )
    columns = [snapshot.resources.index(kind) for kind in snapshot.kinds]
    possible = np.zeros((len(snapshot.shapes), len(snapshot.kinds)))
    for shape in np.unique(snapshot.shape[slots]).tolist():
        possible[shape, list(snapshot.possible(shape))] = 1.0
    serves = possible[snapshot.shape[slots]]
    speeds = snapshot.speeds[slots] * serves
    unknown = ~speeds.any(axis=1)
    speeds[unknown] = serves[unknown]
    return Demand(
        speeds,
        snapshot.devices[slots],
        snapshot.capacity[:, columns].sum(axis=0) / DEVICE,
        snapshot.weight[slots],
    )


def left(snapshot: Snapshot, slots: Ints, asked: Demand) -> Floats:
    """Steps to the end of each; of a job whose work is not known, what its expected rest would be."""
    fastest = asked.speeds.max(axis=1)
    work = snapshot.work[slots]
    steps = np.where(work > 0, work - snapshot.done[slots], remaining(snapshot, slots) * fastest)
    least: Floats = np.maximum(steps, LEAST_SECONDS * fastest)
    return least


def max_min(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """The least favoured job is as well off as can be, and then the next."""
    return allocate.max_min(demand(snapshot, slots))


def makespan(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """The last end is as soon as can be."""
    asked = demand(snapshot, slots)
    return allocate.makespan(asked, left(snapshot, slots, asked))


def finish_time_fair(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """The worst ratio of a job's time to its time with an equal share is as small as can be."""
    asked = demand(snapshot, slots)
    rest = left(snapshot, slots, asked)
    alone = np.maximum(allocate.equal_speeds(asked), TOLERANCE)
    isolated = np.maximum(snapshot.work[slots], rest) / alone
    return allocate.finish_time_fair(asked, rest, now - snapshot.submitted[slots], isolated)


def soonest(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Jobs come to their ends as fast as can be."""
    asked = demand(snapshot, slots)
    return allocate.soonest(asked, left(snapshot, slots, asked))


def proportional(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Devices in proportion to weight and priority; what a job cannot use goes to the others in the same way."""
    return allocate.max_min_unaware(_prioritised(snapshot, slots))


def most_useful(snapshot: Snapshot, slots: Ints, now: float, curve: Curve = Log()) -> Floats:  # noqa: B008  # frozen
    """The sum of what all find their shares worth is as large as can be."""
    asked = _prioritised(snapshot, slots)
    fastest = np.maximum(asked.speeds.max(axis=1, keepdims=True), TOLERANCE)
    return utility(asked.speeds / fastest, asked.gangs, asked.capacity, asked.weights, curve).shares


def able(allocation: Allocate) -> Allocate:
    """The same for those who could run if nothing else did: no allocation waits for what cannot be."""

    def shares(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
        runs = np.array([bool(snapshot.possible(int(shape))) for shape in snapshot.shape[slots]])
        types = len(snapshot.kinds) if snapshot.lane[slots[0]] == DEVICE_LANE else 1
        found = np.zeros((len(slots), types))
        if runs.any():
            found[runs] = allocation(snapshot, slots[runs], now)
        return found

    return shares


def _prioritised(snapshot: Snapshot, slots: Ints) -> Demand:
    asked = demand(snapshot, slots)
    return replace(asked, weights=asked.weights * 2 ** (snapshot.priority[slots] / PRIORITY_DOUBLES))


ALLOCATIONS: Mapping[str, Allocate] = {
    "max-min": max_min,
    "makespan": makespan,
    "finish-time-fair": finish_time_fair,
    "soonest": soonest,
}

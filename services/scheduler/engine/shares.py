"""The allocations by name, from what the snapshot knows: what each job can make where, and what it has left. Pure."""

from collections.abc import Mapping

import numpy as np

from services.scheduler.engine import allocate
from services.scheduler.engine.allocate import Demand
from services.scheduler.engine.linear import TOLERANCE
from services.scheduler.engine.order import remaining
from services.scheduler.engine.rounds import Allocate
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot

LEAST_SECONDS = 60.0
"""That a job has left to the eyes of an allocation: one that is all but done does not outweigh everything."""


def demand(snapshot: Snapshot, slots: Ints) -> Demand:
    """What these jobs can make on each type. Where nothing is known of a job, all types that serve it are alike."""
    columns = [snapshot.resources.index(kind) for kind in snapshot.kinds]
    speeds = snapshot.speeds[slots].copy()
    for row in np.flatnonzero(~speeds.any(axis=1)).tolist():
        for variant in snapshot.variants(int(snapshot.shape[slots[row]])):
            if variant.kind >= 0:
                speeds[row, variant.kind] = 1.0
    return Demand(
        speeds,
        snapshot.devices[slots],
        snapshot.capacity[:, columns].sum(axis=0).astype(np.float64),
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


ALLOCATIONS: Mapping[str, Allocate] = {
    "max-min": max_min,
    "makespan": makespan,
    "finish-time-fair": finish_time_fair,
    "soonest": soonest,
}

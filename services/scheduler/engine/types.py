"""`balanced` over several types of accelerator: shares of time on each type, with the same three aims. Pure.

Where jobs say how fast they are on which type, who comes first is only half of the question: the other half is who
gains most by the fast devices. So a linear program shares out time on each type. It lets all come to their ends as fast
as can be together (`soonest`: short jobs first, each where it is fast unless another gains more there), but nobody below
a floor:

- *Owed:* whose fair finish is near makes at least what it needs to end by it; alone is with an equal part of each type.
  What has waited beyond patience runs all the time.
- *Full to the end:* who alone, on its fastest type, takes about as long as all work needs on all devices makes at least
  what ends it by then. That moment is the optimum of `makespan` (Narayanan et al., Gavel, OSDI 2020).

Where not all floors can be kept, all are lowered alike. What is owed has the same parts of the pool as on one type.
"""

import numpy as np

from services.scheduler.engine import linear
from services.scheduler.engine.balanced import FAIR, LONG, PATIENCE, owed
from services.scheduler.engine.linear import TOLERANCE, Groups
from services.scheduler.engine.model import WAITING
from services.scheduler.engine.shares import demand, left
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot

WITHIN = 1 - 1e-4
"""Of the highest floors that can be kept: so much that rounding keeps them feasible."""


def tells_types_apart(snapshot: Snapshot) -> bool:
    """Whether there are several types of accelerator, and a job whose speed is known on more than one of them."""
    columns = [snapshot.resources.index(kind) for kind in snapshot.kinds]
    present = np.flatnonzero(snapshot.capacity[:, columns].sum(axis=0) > 0)
    if len(present) < 2:
        return False
    known = snapshot.speeds[snapshot.state >= WAITING][:, present] > 0
    return bool((known.sum(axis=1) > 1).any())


def balanced_shares(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Everybody's end as soon as can be, with a floor under who is owed something and who ends last."""
    asked = demand(snapshot, slots)
    rest = left(snapshot, slots, asked)
    value = asked.speeds / np.maximum(rest, TOLERANCE)[:, None]
    fastest = value.max(axis=1)
    groups = Groups.of(value, asked.gangs, asked.capacity)
    level = linear.solve(groups, groups.none, groups.ones).level
    floor = np.where(fastest * LONG <= level, level, 0.0)
    alone = np.maximum(fastest, TOLERANCE)
    usual = np.maximum((asked.speeds * (asked.capacity / asked.capacity.sum())).sum(axis=1), TOLERANCE)
    fair = (
        snapshot.submitted[slots] + snapshot.contentions(slots, now) * (snapshot.done[slots] + rest) / usual
    )
    tier = owed(snapshot, slots, fair - now - 1 / alone, now)[slots]
    floor = np.where(tier == FAIR, np.maximum(floor, 1 / np.maximum(fair - now, 1 / alone)), floor)
    floor = np.where(tier == PATIENCE, fastest, floor)
    floors = groups.none
    np.maximum.at(floors, groups.member, floor)
    if floors.any():
        floors = floors * WITHIN * min(1.0, linear.solve(groups, groups.none, floors).level)
    return groups.spread(linear.solve(groups, floors, groups.none).shares)

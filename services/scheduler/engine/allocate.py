"""Shares of time on each type of accelerator that are fair, or that end soonest: linear programs over jobs × types. Pure.

A share x[i, j] is the part of all time that job i should run on type j. Of any allocation: x >= 0, no job has more than
all of its time, and no type is used beyond its devices. What a job makes of its shares is its sum of x[i, j] times its
speed there. The objectives are Gavel's (Narayanan et al., OSDI 2020). Jobs of equal rows are solved as one, since the
optimum treats them alike: ten thousand jobs of a few types cost what a few cost.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.linear import INTERIOR_MIN, TOLERANCE, Groups, solve
from services.scheduler.engine.snapshot import Bools, Floats

SLACK = 1e-5
"""Part of a level that is given up when it is fixed."""
LEVELS_MAX = 12
"""Of water-filling. Whoever is left is above all of these, and shares what is left so that the sum is largest."""
BISECTIONS = 40


@dataclass(frozen=True)
class Demand:
    """Jobs that share the types.

    Attributes:
        speeds: Steps per second of the whole gang, (jobs, types); 0 where it cannot run.
        gangs: Devices of each gang.
        capacity: Devices of each type.
        weights: Of each job.
    """

    speeds: Floats
    gangs: Floats
    capacity: Floats
    weights: Floats


def max_min(demand: Demand) -> Floats:
    """Max-min fairness: the least favoured job is as well off as can be, and then the next, to the last (water-filling).

    A job is as well off as its steps compared with an equal split of every type, times its gang, by its weight.
    """
    value = _normalised(demand) * (demand.gangs / demand.weights)[:, None]
    return _by_group(demand, value, lambda groups: _water_fill(groups))


def max_min_unaware(demand: Demand) -> Floats:
    """The same for jobs that are taken to be equally fast on every type: only how much time they get counts."""
    level = _fill_one(demand.gangs / demand.weights, demand.gangs, float(demand.capacity.sum()))
    split = np.where(demand.speeds > 0, demand.capacity, 0.0)
    shares = level[:, None] * split / np.maximum(split.sum(axis=1, keepdims=True), TOLERANCE)
    used = (shares * demand.gangs[:, None]).sum(axis=0)
    # Who cannot run on one type asks more of the others, which may then be too much.
    within: Floats = shares * np.minimum(1.0, demand.capacity / np.maximum(used, TOLERANCE))
    return within


def makespan(demand: Demand, steps: Floats) -> Floats:
    """Whoever needs longest to its end needs as little as can be."""
    value = demand.speeds / np.maximum(steps, TOLERANCE)[:, None]
    return _by_group(demand, value, lambda groups: solve(groups, groups.none, groups.ones).shares)


def finish_time_fair(demand: Demand, steps: Floats, elapsed: Floats, isolated: Floats) -> Floats:
    """The largest ratio of a job's time with others to its time with an equal share is as small as can be.

    Args:
        steps: What each job has left.
        elapsed: Seconds since each arrived.
        isolated: Seconds from arrival to end with an equal share.
    """
    if not len(steps):
        return np.zeros_like(demand.speeds)
    low, high = float((elapsed / isolated).max()), 1.0
    best: Floats | None = None

    def within(rho: float) -> Floats | None:
        left = rho * isolated - elapsed
        if (left <= 0).any():
            return None
        value = demand.speeds * (left / np.maximum(steps, TOLERANCE))[:, None]
        groups = Groups.of(value, demand.gangs, demand.capacity)
        found = solve(groups, groups.none, groups.ones)
        return groups.spread(found.shares) if found.level >= 1 - TOLERANCE else None

    while best is None:
        high = max(high, low) * 2
        best = within(high)
    for _ in range(BISECTIONS):
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        found = within(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def max_sum(demand: Demand, value: Floats | None = None) -> Floats:
    """The sum of what all make is as large as can be.

    Args:
        value: What a job makes on each type; by default each measured by its speed on its fastest, times its gang.
    """
    if value is None:
        fastest = np.maximum(demand.speeds.max(axis=1, keepdims=True), TOLERANCE)
        value = demand.speeds / fastest * demand.gangs[:, None]
    return _by_group(demand, value, lambda groups: solve(groups, groups.none, groups.none).shares)


def soonest(demand: Demand, steps: Floats) -> Floats:
    """Jobs come to their ends as fast as can be: the sum of the parts of what each has left that it makes in a second.

    Shortest remaining time first, for types of device: a job that is nearly done counts for more, and each goes where
    it is fast unless another gains more there.
    """
    return max_sum(demand, demand.speeds / np.maximum(steps, TOLERANCE)[:, None])


def equal_speeds(demand: Demand) -> Floats:
    """Steps per second of each job with an equal share of every type."""
    split = demand.capacity / max(1.0, float(demand.capacity.sum()))
    alone: Floats = (demand.speeds * split).sum(axis=1)
    jobs = max(1, len(demand.gangs))
    # An equal share is a jobs-th of the devices; a gang that is smaller than it runs all the time.
    speeds: Floats = alone * np.minimum(1.0, demand.capacity.sum() / jobs / demand.gangs)
    return speeds


def _normalised(demand: Demand) -> Floats:
    split = demand.capacity / demand.capacity.sum()
    usual = (demand.speeds * split).sum(axis=1, keepdims=True)
    normalised: Floats = demand.speeds / np.maximum(usual, TOLERANCE)
    return normalised


def _by_group(demand: Demand, value: Floats, solve: Callable[[Groups], Floats]) -> Floats:
    if not len(demand.gangs):
        return np.zeros_like(demand.speeds)
    groups = Groups.of(value, demand.gangs, demand.capacity)
    return groups.spread(solve(groups))


def _water_fill(groups: Groups) -> Floats:
    """Raise all together; who can rise no further stays there while the others go on."""
    if groups.value.shape[1] == 1:
        alike = _fill_one(groups.value[:, 0], groups.gangs, float(groups.capacity[0]), groups.counts)
        one_type: Floats = (alike * groups.counts)[:, None]
        return one_type
    floor = np.zeros(len(groups.gangs))
    rising: Bools = np.asarray((groups.value > 0).any(axis=1))
    level = 0.0
    for _ in range(LEVELS_MAX):
        found = solve(groups, floor, rising.astype(np.float64))
        level, shares, held = found.level, found.shares, found.binding & rising
        if not held.any():
            # Degenerate duals name nobody: whoever is at the level now stays.
            held = rising & (_reached(groups, shares) <= level * (1 + TOLERANCE))
        # A little less than was reached, so that what is fixed stays feasible.
        floor[held] = level * (1 - SLACK)
        rising = rising & ~held
        if not rising.any() or shares.size >= INTERIOR_MIN:
            # An interior solution spreads what is left over all who can use it: near enough, in one solve.
            return shares
    floor[rising] = level * (1 - SLACK)
    return solve(groups, floor, groups.none).shares


def _reached(groups: Groups, shares: Floats) -> Floats:
    reached: Floats = (groups.value * shares).sum(axis=1) / groups.counts
    return reached


def _fill_one(value: Floats, gangs: Floats, capacity: float, counts: Floats | None = None) -> Floats:
    """Water-filling over one type, in closed form: the level at which the devices are used up.

    Returns the share of a member of each group: `level / value`, at most all of its time.
    """
    counts = np.ones(len(gangs)) if counts is None else counts
    if float((gangs * counts).sum()) <= capacity:
        return np.ones(len(gangs))
    # A group is full at level `value`. Below it, the group uses devices in proportion to the level.
    order = np.argsort(value, kind="stable")
    full = np.cumsum((gangs * counts)[order])
    slope = (gangs * counts / np.maximum(value, TOLERANCE))[order]
    rest = slope.sum() - np.cumsum(slope)
    used = full + rest * value[order]
    at = int(np.searchsorted(used, capacity))
    before = full[at - 1] if at else 0.0
    level = (capacity - before) / (rest[at] + slope[at])
    share: Floats = np.minimum(1.0, level / np.maximum(value, TOLERANCE))
    return share

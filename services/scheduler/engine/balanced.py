"""`balanced`: finish-time fairness, a short queue and a full pool together, and no wait without bound. Pure.

Three tiers, each for one of the three aims:

1. *Fair:* a job whose fair finish is near. Its fair finish is when it would end if the pool's devices were divided
   among all that ask for them: accepted + contention x (what it has run + what is left). Finish-time fairness rho
   (Mahajan et al., Themis, NSDI 2020) is how its true end compares with that. Least slack first.
2. *Full to the end:* a job that alone takes about as long as all work together would take on all devices. Started late
   it is what the pool waits for at the end (longest processing time first: Graham 1969). Longest first.
3. *Short:* everything else by least remaining device time, which makes the mean completion time small.

Before all three comes what has waited beyond patience, longest ago first.

What is owed, by fairness or by patience, is given a part of the pool and never all of it. Where more is asked for than
there is for weeks, every long job comes to be owed something: if they all went first, the short ones, which take little
and are most of the jobs, would wait as long as they. So the rest always goes by size, and both waits have a bound.

It needs to know how far jobs have come, not how long they will take: what is left is judged by progress so far.
"""

import numpy as np

from services.scheduler.engine.model import WAITING
from services.scheduler.engine.order import ranked, remaining_with_costs, waited
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import SEEN_SECONDS, Bools, Floats, Ints, Snapshot

SLACK_SECONDS = 600.0
"""A fair finish this near is in danger: a few steps that preempt, and a restart."""
PATIENCE_SECONDS = 18 * 86_400.0
"""What has waited for longer, all its waits together, comes before everything else."""
OWED_SHARE = 0.7
"""Of the pool, for what is owed in all: beyond it what has waited for long goes by its size, as others do."""
FAIR_SHARE = 0.3
"""Of the pool, the part of that which fair finishes may take."""
UNSEEN = 0.6
"""Of the time that a job which has hardly run is said to take: it may be shorter, and then is owed an earlier finish."""
LONG = 0.9
"""Of the time that all work takes on all devices: before it is as long, since what is left of others shrinks first."""
PATIENCE, FAIR, FULL, SHORT = range(4)


def balanced(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """Owed by patience or fairness, then critical for the last finish, then short."""
    live = np.flatnonzero((snapshot.state > WAITING) | (snapshot.state == WAITING) & (snapshot.due <= now))
    left, slack = np.zeros(len(snapshot.state)), np.zeros(len(snapshot.state))
    left[live] = remaining_with_costs(snapshot, live, now)
    slack[live] = _slack(snapshot, live, left[live], now)
    devices, lane = snapshot.devices[slots], snapshot.lane[slots]
    drain = (np.bincount(lane, left[slots] * devices, minlength=2) / snapshot.totals)[lane]
    tier = np.where(left[slots] >= LONG * drain, FULL, SHORT)
    first = owed(snapshot, live, slack[live], now)[slots]
    tier = np.where(first < FULL, first, tier)
    by_tier = [snapshot.submitted[slots], slack[slots], -left[slots], left[slots] * devices]
    return ranked(slots, tier, np.choose(tier, by_tier))


def _slack(snapshot: Snapshot, slots: Ints, left: Floats, now: float) -> Floats:
    """Seconds that each could still wait and end by its fair finish."""
    alone = snapshot.ran[slots] + left
    alone = np.where(snapshot.ran[slots] < SEEN_SECONDS, UNSEEN * alone, alone)
    found: Floats = snapshot.submitted[slots] + snapshot.contentions(slots, now) * alone - now - left
    return found


def owed(snapshot: Snapshot, live: Ints, slack: Floats, now: float) -> Ints:
    """By slot, the tier of what is owed and within its part of the pool, whether it runs or waits; else `SHORT`.

    Args:
        slack: Seconds that each of these slots could still wait and end by its fair finish.
    """
    tier = np.full(len(snapshot.state), SHORT)
    old = waited(snapshot, live, now) > PATIENCE_SECONDS
    late = ~old & (slack < SLACK_SECONDS)
    first = live[old][np.argsort(snapshot.submitted[live[old]], kind="stable")]
    then = live[late][np.argsort(slack[late], kind="stable")]
    claims = np.concatenate([first, then])
    if not len(claims):
        return tier
    fair = np.arange(len(claims)) >= len(first)
    may = _may_run(snapshot, claims, now)
    claims, fair = claims[may], fair[may]
    for lane, total in enumerate(snapshot.totals.tolist()):
        of = snapshot.lane[claims] == lane
        slots, by_fairness, devices = claims[of], fair[of], snapshot.devices[claims[of]]
        # Of what they take together, without itself: one that is larger than the part is not left out for ever.
        before = np.cumsum(devices) - devices
        of_fair = np.cumsum(devices * by_fairness) - devices
        within = (before < OWED_SHARE * total) & (~by_fairness | (of_fair < FAIR_SHARE * total))
        tier[slots[within]] = np.where(by_fairness[within], FAIR, PATIENCE)
    return tier


def _may_run(snapshot: Snapshot, ordered: Ints, now: float) -> Bools:
    """Without what no node can hold and what queues would bar if nothing else ran: it would keep a part that it
    cannot take."""
    shapes = np.unique(snapshot.shape[ordered]).tolist()
    possible = [shape for shape in shapes if snapshot.possible(shape)]
    may: Bools = (snapshot.state[ordered] != WAITING) | np.isin(snapshot.shape[ordered], possible)
    if not any(queue.limit or queue.lending for queue in snapshot.queues.values()):
        return may
    quota, closed = Quota(snapshot, ordered[:0], now), set[tuple[int, int]]()
    for at in np.flatnonzero(may).tolist():
        shape, queue = int(snapshot.shape[ordered[at]]), int(snapshot.queue[ordered[at]])
        may[at] = (queue, shape) not in closed
        if may[at]:
            needs = (each.need * snapshot.shapes[shape].replicas for each in snapshot.variants(shape))
            need = next((need for need in needs if quota.allows(queue, need)), None)
            may[at] = need is not None
            if need is None:
                closed.add((queue, shape))
            else:
                quota.take(queue, need)
    return may

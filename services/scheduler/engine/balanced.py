"""`balanced`: finish-time fairness, a short queue and a full pool together. Pure.

Three tiers, each for one of the three aims:

1. *Fair:* a job whose fair finish is near. Its fair finish is when it would end if the pool's devices were divided
   among all that ask for them: accepted + contention x (what it has run + what is left). Finish-time fairness rho
   (Mahajan et al., Themis, NSDI 2020) is how its true end compares with that. Least slack first.
2. *Full to the end:* a job that alone takes about as long as all work together would take on all devices. Started late
   it is what the pool waits for at the end (longest processing time first: Graham 1969). Longest first.
3. *Short:* everything else by least remaining device time, which makes the mean completion time small.

Before all three comes what has waited beyond patience, longest ago first: no wait is without bound.

It needs to know how far jobs have come, not how long they will take: what is left is judged by progress so far.
"""

import numpy as np

from services.scheduler.engine.order import ranked, remaining_with_costs, waited
from services.scheduler.engine.snapshot import SEEN_SECONDS, Ints, Snapshot

SLACK_SECONDS = 600.0
"""A fair finish this near is in danger: a few steps that preempt, and a restart."""
PATIENCE_SECONDS = 14 * 86_400.0
"""What has waited for longer, all its waits together, comes before everything else."""
UNSEEN = 0.6
"""Of the time that a job which has hardly run is said to take: it may be shorter, and then is owed an earlier finish."""
LONG = 0.9
"""Of the time that all work takes on all devices: before it is as long, since what is left of others shrinks first."""


def balanced(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """In danger of an unfair finish, then critical for the last finish, then short."""
    left = remaining_with_costs(snapshot, slots, now)
    devices = snapshot.devices[slots]
    alone = snapshot.ran[slots] + left
    alone = np.where(snapshot.ran[slots] < SEEN_SECONDS, UNSEEN * alone, alone)
    fair_finish = snapshot.submitted[slots] + snapshot.contentions(slots, now) * alone
    slack = fair_finish - now - left
    lane = snapshot.lane[slots]
    drain = (np.bincount(lane, left * devices, minlength=2) / snapshot.totals)[lane]
    tier = np.where(slack < SLACK_SECONDS, 1, np.where(left >= LONG * drain, 2, 3))
    tier[waited(snapshot, slots, now) > PATIENCE_SECONDS] = 0
    by_tier = [snapshot.submitted[slots], slack, -left, left * devices]
    return ranked(slots, tier, np.choose(tier, by_tier))

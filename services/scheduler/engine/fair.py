"""`fair`: weighted dominant-resource fairness over the tree of queues. Pure.

Progressive filling: again and again the queue that is furthest behind gets its next job, where behind is measured by
the dominant share of what it borrows beyond its nominal quota, by weight; at each level of the tree among siblings.
Source: Ghodsi et al., Dominant Resource Fairness, NSDI 2011; hierarchical as in Bhattacharya et al., SoCC 2013.
"""

import numpy as np

from services.scheduler.engine.model import ROOT, WAITING
from services.scheduler.engine.order import Sharing, Walk
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Ints, Snapshot


def _walk(snapshot: Snapshot, slots: Ints, quota: Quota) -> Walk:
    waits = snapshot.state[slots] == WAITING
    order = np.lexsort((snapshot.number[slots], waits, -snapshot.priority[slots]))
    tree = _Tree(snapshot, quota, slots[order])
    while (slot := tree.next()) is not None:
        taken = yield slot
        if taken:
            tree.charged(int(snapshot.queue[slot]))
        elif taken is None:
            tree.drop_like(slot)


fair = Sharing(_walk)
"""The queue furthest behind first; within a queue by priority, what runs before what waits, then by acceptance."""


class _Tree:
    """Jobs by queue, each queue's in order, and how far each queue is ahead."""

    def __init__(self, snapshot: Snapshot, quota: Quota, slots: Ints) -> None:
        self._snapshot = snapshot
        self._quota = quota
        rows = range(len(snapshot.queue_names))
        self._children: list[list[int]] = [[] for _ in rows]
        for row in rows:
            if snapshot.queue_names[row] != ROOT:
                self._children[quota.paths[row][1]].append(row)
        self._jobs = [slots[snapshot.queue[slots] == row] for row in rows]
        self._below = [0 for _ in rows]
        """Jobs in a queue and under it."""
        for row in rows:
            self._count(row, len(self._jobs[row]))
        self._shares = [(*share, row) for row, share in enumerate(quota.shares(rows))]

    def next(self) -> int | None:
        """The next job of the queue furthest behind; it is gone from here afterwards."""
        if not self._below[0]:
            return None
        queue = 0
        # A queue's own jobs come when no queue under it has any left.
        while waiting := [self._shares[child] for child in self._children[queue] if self._below[child]]:
            queue = min(waiting)[-1]
        slot = int(self._jobs[queue][0])
        self._jobs[queue] = self._jobs[queue][1:]
        self._count(queue, -1)
        return slot

    def charged(self, queue: int) -> None:
        """A job of the queue was given something."""
        path = self._quota.paths[queue]
        for row, share in zip(path, self._quota.shares(path), strict=True):
            self._shares[row] = (*share, row)

    def drop_like(self, slot: int) -> None:
        """Neither this job nor any of its shape fits any more, in whatever queue."""
        shapes = self._snapshot.shape
        for queue, jobs in enumerate(self._jobs):
            if len(jobs):
                self._jobs[queue] = jobs[shapes[jobs] != shapes[slot]]
                self._count(queue, len(self._jobs[queue]) - len(jobs))

    def _count(self, queue: int, change: int) -> None:
        for row in self._quota.paths[queue]:
            self._below[row] += change

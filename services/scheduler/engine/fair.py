"""`fair`: weighted dominant-resource fairness over the tree of queues. Pure.

Progressive filling: again and again the queue that is furthest behind gets its next job, where behind is measured by
the dominant share of what it borrows beyond its nominal quota, by weight; at each level of the tree among siblings.
Source: Ghodsi et al., Dominant Resource Fairness, NSDI 2011; hierarchical as in Bhattacharya et al., SoCC 2013.
"""

from collections.abc import Iterator

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
        queues = snapshot.queue[slots]
        ends = np.searchsorted(np.sort(queues), rows, side="right")
        parts = np.split(slots[np.argsort(queues, kind="stable")], ends[:-1])
        self._jobs: list[Iterator[int]] = [iter(part.tolist()) for part in parts]
        self._counts: Ints = np.zeros((len(parts), len(snapshot.shapes)), np.int64)
        """Jobs that are left, by queue and shape; none of a shape that fits no more, wherever they still stand."""
        np.add.at(self._counts, (queues, snapshot.shape[slots]), 1)
        self._below = [0 for _ in rows]
        """Jobs in a queue and under it."""
        for row, count in enumerate(self._counts.sum(axis=1).tolist()):
            self._count(row, count)
        self._shares = [(*share, row) for row, share in enumerate(quota.shares(rows))]

    def next(self) -> int | None:
        """The next job of the queue furthest behind; it is gone from here afterwards."""
        if not self._below[0]:
            return None
        queue = 0
        # A queue's own jobs come when no queue under it has any left.
        while waiting := [self._shares[child] for child in self._children[queue] if self._below[child]]:
            queue = min(waiting)[-1]
        shapes = self._snapshot.shape
        slot = next(slot for slot in self._jobs[queue] if self._counts[queue, shapes[slot]])
        self._counts[queue, shapes[slot]] -= 1
        self._count(queue, -1)
        return slot

    def charged(self, queue: int) -> None:
        """A job of the queue was given something."""
        path = self._quota.paths[queue]
        for row, share in zip(path, self._quota.shares(path), strict=True):
            self._shares[row] = (*share, row)

    def drop_like(self, slot: int) -> None:
        """Neither this job nor any of its shape fits any more, in whatever queue."""
        counts = self._counts[:, self._snapshot.shape[slot]]
        for queue in np.flatnonzero(counts).tolist():
            self._count(queue, -int(counts[queue]))
        counts[:] = 0

    def _count(self, queue: int, change: int) -> None:
        for row in self._quota.paths[queue]:
            self._below[row] += change

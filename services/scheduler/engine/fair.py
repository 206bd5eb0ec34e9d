"""`fair`: weighted dominant-resource fairness over the tree of queues. Pure.

Progressive filling: again and again the queue that is furthest behind gets its next job, where behind is measured by
the dominant share of what it borrows beyond its nominal quota, by weight; at each level of the tree among siblings.
Source: Ghodsi et al., Dominant Resource Fairness, NSDI 2011; hierarchical as in Bhattacharya et al., SoCC 2013.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from services.scheduler.engine.model import ROOT, State
from services.scheduler.engine.order import Walk
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Ints, Snapshot


def fair(snapshot: Snapshot, slots: Ints, now: float) -> Walk:
    """The queue furthest behind first; within a queue by priority, what runs before what waits, then by acceptance."""
    others = np.setdiff1d(np.flatnonzero(snapshot.state >= State.RUNNING), slots)
    quota = Quota(snapshot, others)
    waits = snapshot.state[slots] == State.WAITING
    order = np.lexsort((snapshot.number[slots], waits, -snapshot.priority[slots]))
    tree = _Tree(snapshot, quota)
    for slot in slots[order].tolist():
        tree.add(slot)
    while (slot := tree.next()) is not None:
        taken = yield slot
        if taken:
            shape = int(snapshot.shape[slot])
            variant = snapshot.variants(shape)[0]
            quota.take(int(snapshot.queue[slot]), variant.need * snapshot.shapes[shape].replicas)
        elif taken is None:
            tree.drop_like(slot)


class _Tree:
    """Jobs by queue, and within a queue by shape: when one does not fit, none like it does."""

    def __init__(self, snapshot: Snapshot, quota: Quota) -> None:
        self._snapshot = snapshot
        self._quota = quota
        names = snapshot.queue_names
        self._children: dict[int, list[int]] = {row: [] for row in range(len(names))}
        for row, name in enumerate(names):
            if name != ROOT:
                self._children[quota.paths[row][1]].append(row)
        self._jobs: dict[int, deque[int]] = {row: deque() for row in range(len(names))}
        self._below = dict.fromkeys(range(len(names)), 0)
        """Jobs in a queue and under it."""
        self._dropped: set[tuple[int, int]] = set()

    def add(self, slot: int) -> None:
        queue = int(self._snapshot.queue[slot])
        self._jobs[queue].append(slot)
        self._count(queue, 1)

    def next(self) -> int | None:
        """The next job of the queue furthest behind; it is gone from here afterwards."""
        while self._below[0]:
            queue = 0
            while open_children := list(self._open(queue)):
                queue = min(open_children, key=lambda child: (*self._quota.share(child), child))
            slot = self._jobs[queue].popleft()
            self._count(queue, -1)
            if (queue, int(self._snapshot.shape[slot])) not in self._dropped:
                return slot
        return None

    def drop_like(self, slot: int) -> None:
        """A job did not fit: leave out those of its queue that ask for the same."""
        self._dropped.add((int(self._snapshot.queue[slot]), int(self._snapshot.shape[slot])))

    def _open(self, queue: int) -> Iterator[int]:
        """Children that have jobs; the queue's own jobs come when no child has any left."""
        return (child for child in self._children[queue] if self._below[child])

    def _count(self, queue: int, change: int) -> None:
        for row in self._quota.paths[queue]:
            self._below[row] += change

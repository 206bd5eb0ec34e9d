"""What each queue uses, may use and is owed while a plan is being made. Pure."""

import numpy as np

from services.scheduler.engine.model import ROOT, Amounts
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot

UNLIMITED = 2**62


class Quota:
    """Usage along the tree of queues: what a job takes counts for its queue and every queue above it.

    Rows are queues, by the snapshot's numbering; columns its resources.
    """

    def __init__(self, snapshot: Snapshot, slots: Ints) -> None:
        """Start with what these jobs hold."""
        self._snapshot = snapshot
        names = snapshot.queue_names
        self.paths = [self._path(name) for name in names]
        shape = (len(names), len(snapshot.resources))
        self.used: Ints = np.zeros(shape, np.int64)
        self.nominal: Ints = np.zeros(shape, np.int64)
        self.limit: Ints = np.full(shape, UNLIMITED)
        self.weight: Floats = np.ones(len(names))
        for row, name in enumerate(names):
            queue = snapshot.queues.get(name)
            if queue is not None:
                self.weight[row] = queue.weight
                self._fill(self.nominal[row], queue.nominal)
                self._fill(self.limit[row], queue.limit)
        self._total = np.maximum(1, snapshot.capacity.sum(axis=0))
        self.limited = bool((self.limit < UNLIMITED).any())
        own = np.zeros(shape, np.int64)
        np.add.at(own, snapshot.queue[slots], snapshot.holds[slots])
        for row in np.flatnonzero(own.any(axis=1)).tolist():
            self.take(row, own[row])

    def allows(self, queue: int, amounts: Ints) -> bool:
        """Whether a job may take that much: no queue on its path goes beyond its limit."""
        if not self.limited:
            return True
        path = self.paths[queue]
        return bool((self.used[path, : len(amounts)] + amounts <= self.limit[path, : len(amounts)]).all())

    def take(self, queue: int, amounts: Ints) -> None:
        """A job takes that much."""
        self.used[self.paths[queue], : len(amounts)] += amounts

    def share(self, queue: int) -> tuple[float, float]:
        """How far a queue is ahead of what it is owed, comparable among siblings.

        First the dominant share of what it borrows, then of all that it uses, each by its weight: a queue below its
        nominal quota comes before one that borrows. Source: dominant resource fairness, Ghodsi et al., NSDI 2011.
        """
        used = self.used[queue]
        borrowed = np.maximum(0, used - self.nominal[queue])
        weight = self.weight[queue]
        return float((borrowed / self._total).max() / weight), float((used / self._total).max() / weight)

    def _path(self, name: str) -> list[int]:
        rows = [self._snapshot.queue_names.index(name)]
        while name != ROOT:
            queue = self._snapshot.queues.get(name)
            name = queue.parent if queue else ROOT
            rows.append(self._snapshot.queue_names.index(name))
        return rows

    def _fill(self, row: Ints, amounts: Amounts) -> None:
        for name, amount in amounts.items():
            if name in self._snapshot.resources:
                row[self._snapshot.resources.index(name)] = amount

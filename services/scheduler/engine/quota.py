"""What each queue uses, may use and is owed while a plan is being made. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scheduler.engine.model import ROOT, Amounts
from services.scheduler.engine.snapshot import Bools, Floats, Ints, Snapshot, per_unit, wide

UNLIMITED = 2**62


class Quota:
    """Usage along the tree of queues: what a job takes counts for its queue and every queue above it.

    Rows are queues, by the snapshot's numbering; columns its resources, and after them the families that queues name:
    `gpu` is the sum of all `gpu/...`.
    """

    def __init__(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        """Start with what these jobs hold."""
        names = snapshot.queue_names
        self.columns = [*snapshot.resources, *_families(snapshot)]
        self._resources = snapshot.resources
        self._families = self.columns[len(self._resources) :]
        self._fold = _fold(snapshot, self._families)
        self.paths = _paths(snapshot)
        self._children: list[list[int]] = [[] for _ in names]
        for row, path in enumerate(self.paths):
            if row:
                self._children[path[1]].append(row)
        shape = (len(names), len(snapshot.resources) + len(self._families))
        self.nominal: Ints = np.zeros(shape, np.int64)
        self.limit: Ints = np.full(shape, UNLIMITED)
        self.weight: Floats = np.ones(len(names))
        self._own: Ints = np.zeros(shape, np.int64)
        """Of its nominal quota, what a queue lends to nobody."""
        rows = {name: row for row, name in enumerate(names)}
        for name, queue in snapshot.queues.items():
            row = rows[name]
            self.weight[row] = queue.weight
            self._fill(self.nominal[row], queue.nominal)
            self._fill(self.limit[row], queue.limit)
            kept = {each: queue.nominal.get(each, 0) - most for each, most in queue.lending.items()}
            self._fill(self._own[row], kept)
        self.named = (self.nominal > 0).any(axis=0)
        """What quotas are about."""
        self.total = self._columns(np.maximum(snapshot.capacity, 0).sum(axis=0))
        held = np.zeros((len(names), len(snapshot.resources)), np.int64)
        np.add.at(held, snapshot.queue[slots], snapshot.holds[slots])
        self.used: Ints = self._summed(held)
        self.recent: Floats = np.zeros(shape)
        if snapshot.recent.half_life > 0:
            self.recent = self._summed(snapshot.recent.mean(now, *held.shape))
        self._lends = bool((self._own > 0).any())
        self.limited = self._lends or bool((self.limit < UNLIMITED).any())
        self._kept: Ints = np.zeros(shape, np.int64)
        """What stays free for a queue and those under it, since they lend it to nobody."""
        if self._lends:
            for row in sorted(range(len(names)), key=lambda row: -len(self.paths[row])):
                self._keep(row)

    def allows(self, queue: int, amounts: Ints) -> bool:
        """Whether a job may take that much: nothing on its path goes beyond its limit, and what others lend to nobody
        stays free."""
        if not self.limited:
            return True
        path, need = self.paths[queue], self._columns(amounts)
        if not (self.used[path] + need <= self.limit[path]).all():
            return False
        return not self._lends or self._spares(path, need)

    def take(self, queue: int, amounts: Ints) -> None:
        """A job takes that much."""
        path = self.paths[queue]
        self.used[path] += self._columns(amounts)
        if self._lends:
            for row in path:
                self._keep(row)

    def shares(self, rows: Sequence[int]) -> list[tuple[bool, float, float]]:
        """How far queues are ahead of what they are owed, comparable among siblings.

        Who has something left of its own comes first; then who borrows least, by the dominant share of it and by weight;
        then who uses least in the same way. What a queue used lately is added to what it uses now; but nobody waits
        with what is its own for what it used before. Borrowing is counted of what somebody's quota names.
        Source: dominant resource fairness, Ghodsi et al., NSDI 2011.
        """
        used, recent, nominal = self.used[rows], self.recent[rows], self.nominal[rows]
        total, weight = np.maximum(1, self.total), self.weight[rows]
        within = (nominal > 0).any(axis=1) & ((used < nominal) | (nominal == 0)).all(axis=1)
        out: Bools = np.logical_not(within)
        borrowed = np.maximum(0, used - nominal) + np.maximum(0.0, recent - nominal) * out[:, None]
        borrows = (borrowed * self.named / total).max(axis=1, initial=0.0) / weight
        uses = ((used + recent) / total).max(axis=1, initial=0.0) / weight
        return list(zip(out.tolist(), borrows.tolist(), uses.tolist(), strict=True))

    def _spares(self, path: Sequence[int], need: Ints) -> bool:
        """Whether what is kept for others is still free after a job of the queue at the foot of this path took that."""
        below, kept = -1, np.zeros_like(need)
        for row in path:
            others = [child for child in self._children[row] if child != below]
            under = kept + self._kept[others].sum(axis=0)
            kept = np.maximum(np.maximum(0, self._own[row] - self.used[row] - need), under)
            below = row
        wanted = need > 0
        return bool((self.used[0] + need + kept <= self.total)[wanted].all())

    def _keep(self, row: int) -> None:
        under = self._kept[self._children[row]].sum(axis=0)
        self._kept[row] = np.maximum(np.maximum(0, self._own[row] - self.used[row]), under)

    def _summed(self, own: NDArray[Any]) -> NDArray[Any]:
        """By queue and column, of it and all under it, from what is each queue's by resource."""
        found = np.zeros((len(own), len(self._resources) + len(self._families)), own.dtype)
        for row in np.flatnonzero(own.any(axis=1)).tolist():
            found[self.paths[row]] += self._columns(own[row])
        return found

    def _columns(self, amounts: NDArray[Any]) -> NDArray[Any]:
        """All columns of amounts by resource, of which there may have been fewer then."""
        if not self._families and len(amounts) == len(self._resources):
            return amounts
        whole = wide(amounts, len(self._resources))
        return np.concatenate([whole, whole @ self._fold])

    def _fill(self, row: Ints, amounts: Amounts) -> None:
        for name, amount in amounts.items():
            amount = round(amount * per_unit(name))
            if name in self._resources:
                row[self._resources.index(name)] = amount
            elif name in self._families:
                row[len(self._resources) + self._families.index(name)] = amount


def _paths(snapshot: Snapshot) -> list[list[int]]:
    """For each queue its row and those of the queues that it is part of, up to the root."""
    rows = {name: row for row, name in enumerate(snapshot.queue_names)}
    found = []
    for name in snapshot.queue_names:
        path = [rows[name]]
        while name != ROOT:
            queue = snapshot.queues.get(name)
            name = queue.parent if queue else ROOT
            path.append(rows[name])
        found.append(path)
    return found


def _families(snapshot: Snapshot) -> list[str]:
    """What queues name that is no resource but stands for several: `gpu`."""
    named = {
        name
        for queue in snapshot.queues.values()
        for name in (*queue.nominal, *queue.limit, *queue.lending)
        if name not in snapshot.resources
    }
    return sorted(name for name in named if any(kind.startswith(f"{name}/") for kind in snapshot.kinds))


def _fold(snapshot: Snapshot, families: Sequence[str]) -> Ints:
    """Which resource is part of which family: ones and zeros."""
    found = [
        [int(resource.startswith(f"{family}/")) for family in families] for resource in snapshot.resources
    ]
    return np.array(found, np.int64).reshape(len(snapshot.resources), len(families))

"""Where a gang goes: on the nodes where it leaves the least over, so that large gangs find whole nodes later. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine.model import Placement
from services.scheduler.engine.snapshot import Bools, Floats, Ints, Snapshot, Variant, wide

UNLIMITED = 2**31
SPARE_WEIGHT = 1e-3
"""Of processor and memory left over, against accelerators left over, where two nodes compare."""
PREFERRED_WEIGHT = 1e6
"""Of a label that is preferred: more than any node can have left over."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Rows of nodes, how many replicas on each, and the variant that they take."""

    rows: Ints
    counts: Ints
    variant: Variant


class Room:
    """What is free while a plan is being made. Made from the snapshot, which it leaves as it is.

    Best fit: a replica goes where most of the labels are that it prefers, then where fewest accelerators are left over,
    then least processor and memory. A gang goes onto one node if one holds it, else onto the fewest nodes, of one rack
    where that needs no more nodes. Where it says how near its nodes must be to each other, onto the fewest of those.
    """

    def __init__(self, snapshot: Snapshot, free: Ints | None = None) -> None:
        self.snapshot = snapshot
        self.free = (snapshot.free if free is None else free).copy()
        names = snapshot.resources
        self._device_columns = np.array(
            [n for n, name in enumerate(names) if name in snapshot.kinds], np.int64
        )
        self._plain_columns = np.array(
            [n for n, name in enumerate(names) if name not in snapshot.kinds], np.int64
        )
        self._whole = np.maximum(1, snapshot.capacity[:, self._plain_columns])
        self._fits: dict[tuple[int, int], _Fit] = {}

    def find(
        self, shape: int, replicas: int, *, kinds: Sequence[int] = (), within: Ints | None = None
    ) -> Spot | None:
        """Where a gang of that size fits now, or None.

        Args:
            kinds: Types of accelerator in order of preference; without any, the type on which it leaves least over.
            within: What it may take, where that is less than what is free: (nodes, resources).
        """
        free = self.free if within is None else within
        variants = self.snapshot.variants(shape)
        if kinds:
            by_kind = {variant.kind: variant for variant in variants}
            variants = tuple(by_kind[kind] for kind in kinds if kind in by_kind)
        best: tuple[float, Spot] | None = None
        for variant in variants:
            fit = self._fit(shape, variant) if within is None else self._fresh(free, shape, variant)
            rows = fit.best(replicas)
            if rows is None:
                continue
            counts = np.array([replicas]) if len(rows) == 1 else fit.counts(rows, replicas)
            spot = Spot(rows, counts, variant)
            if kinds or len(variants) == 1:
                return spot
            left = float(fit.left[rows].sum())
            if best is None or left < best[0]:
                best = (left, spot)
        return best[1] if best else None

    def take(self, spot: Spot) -> None:
        """A gang goes there."""
        self.free[spot.rows] -= spot.counts[:, None] * spot.variant.need
        self._changed(spot.rows)

    def give(self, rows: Ints, counts: Ints, need: Ints) -> None:
        """What a gang held becomes free."""
        np.add.at(self.free, rows, counts[:, None] * wide(need, self.free.shape[1]))
        self._changed(rows)

    def placement(self, spot: Spot) -> Placement:
        """The same in names."""
        names = self.snapshot.row_names(spot.rows)
        kind = self.snapshot.kinds[spot.variant.kind] if spot.variant.kind >= 0 else ""
        return Placement(tuple(zip(names, (int(count) for count in spot.counts), strict=True)), kind)

    def _changed(self, rows: Ints) -> None:
        for fit in self._fits.values():
            fit.stale.extend(rows.tolist())

    def _fit(self, shape: int, variant: Variant) -> "_Fit":
        """What each node could hold, where only the nodes that have changed are looked at again."""
        fit = self._fits.get((shape, variant.kind))
        if fit is None:
            fit = self._fits[shape, variant.kind] = self._fresh(self.free, shape, variant)
        elif fit.stale:
            rows = np.array(fit.stale)
            fit.stale.clear()
            fit.held[rows] = self._holds(self.free[rows], variant, fit.eligible, rows)
            fit.left[rows] = self._leaves(self.free[rows], rows, shape, variant)
        return fit

    def _fresh(self, free: Ints, shape: int, variant: Variant) -> "_Fit":
        rows = np.arange(len(free))
        eligible = self.snapshot.eligible(shape)
        return _Fit(
            self._holds(free, variant, eligible, rows),
            self._leaves(free, rows, shape, variant),
            self.snapshot.racks,
            eligible,
            self.snapshot.together(shape),
            self.snapshot.shapes[shape].strictly,
        )

    def _holds(self, free: Ints, variant: Variant, eligible: Bools | None, rows: Ints) -> Ints:
        columns = variant.columns
        held: Ints = (free[:, columns] // variant.need[columns]).min(axis=1, initial=UNLIMITED)
        np.maximum(held, 0, out=held)
        if eligible is not None:
            held *= eligible[rows]
        return held

    def _leaves(self, free: Ints, rows: Ints, shape: int, variant: Variant) -> Floats:
        after = free - variant.need
        devices = after[:, self._device_columns].sum(axis=1).astype(np.float64)
        plain = (after[:, self._plain_columns] / self._whole[rows]).sum(axis=1)
        left: Floats = devices + SPARE_WEIGHT * plain
        preferred = self.snapshot.preferred(shape)
        return left if preferred is None else left - PREFERRED_WEIGHT * preferred[rows]


@dataclass
class _Fit:
    """One shape on every node: how many replicas each could hold, and what the first of them leaves over."""

    held: Ints
    left: Floats
    racks: Ints
    eligible: Bools | None
    near: Ints | None = None
    """Which nodes a gang had better be on together, by number; below 0: no such nodes."""
    strictly: bool = False
    stale: list[int] = field(default_factory=list)

    def best(self, replicas: int) -> Ints | None:
        """Rows to use: one that holds them all, else the fewest; None where there is not enough room."""
        whole = self.held >= replicas
        if whole.any():
            return np.array([np.argmin(np.where(whole, self.left, np.inf))])
        if replicas == 1 or self.held.sum() < replicas:
            return None
        if self.near is not None:
            found = self._within(self.near, replicas)
            if found is not None or self.strictly:
                return found
        rows = _fewest(self.held, np.flatnonzero(self.held), replicas)
        for rack in np.unique(self.racks):
            inside = np.flatnonzero((self.racks == rack) & (self.held > 0))
            if self.held[inside].sum() >= replicas:
                found = _fewest(self.held, inside, replicas)
                if len(found) <= len(rows):
                    return found
        return rows

    def _within(self, near: Ints, replicas: int) -> Ints | None:
        """The fewest rows that are near each other."""
        best: Ints | None = None
        for each in np.unique(near[(self.held > 0) & (near >= 0)]):
            inside = np.flatnonzero((near == each) & (self.held > 0))
            if self.held[inside].sum() >= replicas:
                found = _fewest(self.held, inside, replicas)
                if best is None or len(found) < len(best):
                    best = found
        return best

    def counts(self, rows: Ints, replicas: int) -> Ints:
        """Replicas on each of the rows: as many as they hold, the rest on the last."""
        counts = self.held[rows]
        counts[-1] = replicas - counts[:-1].sum()
        return counts


def _fewest(held: Ints, rows: Ints, replicas: int) -> Ints:
    """Rows whose sum is enough, as few as possible, and the smallest that does as the last."""
    ordered = rows[np.argsort(-held[rows], kind="stable")]
    sums = np.cumsum(held[ordered])
    last = int(np.searchsorted(sums, replicas))
    missing = replicas - (int(sums[last - 1]) if last else 0)
    enough = ordered[last:][held[ordered[last:]] >= missing]
    return np.append(ordered[:last], enough[-1])

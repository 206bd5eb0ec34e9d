"""Where a gang goes: on the nodes where it leaves the least over, so that large gangs find whole nodes later. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from aios.scheduling import DEVICE_MILLIS as DEVICE
from services.scheduler.engine.model import Placement
from services.scheduler.engine.parts import Part, Parts
from services.scheduler.engine.snapshot import Bools, Floats, Holding, Ints, Snapshot, Variant, wide

UNLIMITED = 2**31
SPARE_WEIGHT = 1e-3
"""Of processor and memory left over, against accelerators left over, where two nodes compare."""
PREFERRED_WEIGHT = 1e6
"""Of a label that is preferred: more than any node can have left over."""
OPENS_WEIGHT = 10.0
"""Of a device that would be shared anew: any that is shared already and has room comes first."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Rows of nodes, how many replicas on each, and the variant that they take."""

    rows: Ints
    counts: Ints
    variant: Variant
    part: Part | None = None
    """Of a shared device."""

    @property
    def place(self) -> tuple[int, int]:
        """Node and type of that device."""
        return int(self.rows[0]), self.variant.shared


class Room:
    """What is free while a plan is being made. Made from the snapshot, which it leaves as it is.

    Best fit: a replica goes where most of the labels are that it prefers, then where fewest accelerators are left over,
    then least processor and memory. A gang goes onto one node if one holds it, else onto the fewest nodes, of one rack
    where that needs no more nodes. Where it says how near its nodes must be to each other, onto the fewest of those.
    A share goes onto the fullest of the shared devices that have room for it; only where none has is another one shared.
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
        self.parts = snapshot.parts.copy()
        self._lost = self.parts.lost(*self.free.shape) if self.parts else None
        """What is free of shared devices; None while none is shared."""
        self._fits: dict[tuple[int, int], _Fit] = {}

    def find(
        self,
        shape: int,
        replicas: int,
        *,
        kinds: Sequence[int] = (),
        within: Ints | None = None,
        parts: Parts | None = None,
        kept: Collection[int] = (),
    ) -> Spot | None:
        """Where a gang of that size fits now, or None.

        Args:
            kinds: Types of accelerator in order of preference; without any, the type on which it leaves least over.
            within: What it may take, where that is less than what is free: (nodes, resources).
            parts: The shared devices at the moment that is meant, where it is not now.
            kept: Rows of nodes on which it may take no part of a device that is shared already: somebody is to have
                what becomes free of it.
        """
        shared = _Shared(self.parts, self._lost, kept)
        if parts is not None:
            shared = _Shared(parts, parts.lost(*self.free.shape) if parts else None)
        variants = self.snapshot.variants(shape)
        if kinds:
            by_kind = {variant.kind: variant for variant in variants}
            variants = tuple(by_kind[kind] for kind in kinds if kind in by_kind)
        best: tuple[float, Spot] | None = None
        for variant in variants:
            fit = self._fit(shape, variant) if within is None else self._fresh(within, shape, variant, shared)
            rows = fit.best(replicas)
            if rows is None:
                continue
            counts = np.array([replicas]) if len(rows) == 1 else fit.counts(rows, replicas)
            spot = Spot(rows, counts, variant, self._part(variant, int(rows[0]), shared))
            if kinds or len(variants) == 1:
                return spot
            left = float(fit.left[rows].sum())
            if best is None or left < best[0]:
                best = (left, spot)
        return best[1] if best else None

    def copy(self) -> "Room":
        """One that changes by itself."""
        made = Room(self.snapshot, self.free)
        made.parts = self.parts.copy()
        made._lost = None if self._lost is None else self._lost.copy()
        return made

    def take(self, spot: Spot) -> None:
        """A gang goes there."""
        self.free[spot.rows] -= spot.counts[:, None] * spot.variant.need
        if spot.part is not None:
            self.parts.take(spot.place, spot.part)
            self._relost(spot.place)
        self._changed(spot.rows)

    def give(self, held: Holding) -> None:
        """What a gang held becomes free."""
        np.add.at(self.free, held.rows, held.counts[:, None] * wide(held.need, self.free.shape[1]))
        if held.part is not None:
            place = self.place(held)
            self.parts.give(place, held.part)
            self._relost(place)
        self._changed(held.rows)

    def take_back(self, held: Holding) -> bool:
        """A gang that was to give what it held keeps it, if nobody has taken it."""
        need = held.counts[:, None] * wide(held.need, self.free.shape[1])
        if not (self.usable(held.rows, held.part is not None) >= need).all():
            return False
        if held.part is not None:
            place = self.place(held)
            if not may_take(self.parts, place, held.part, int(self.free[place])):
                return False
            self.parts.take(place, held.part)
            self._relost(place)
        np.subtract.at(self.free, held.rows, need)
        self._changed(held.rows)
        return True

    def usable(self, rows: Ints, share: bool = False) -> Ints:
        """What is free on nodes; of shared devices nothing, unless a share is asked for."""
        free: Ints = self.free[rows]
        return free if share or self._lost is None else free - self._lost[rows]

    def placement(self, spot: Spot) -> Placement:
        """The same in names."""
        names = self.snapshot.row_names(spot.rows)
        kind = self.snapshot.kinds[spot.variant.kind] if spot.variant.kind >= 0 else ""
        number = spot.part.number if spot.part is not None else 0
        return Placement(tuple(zip(names, (int(count) for count in spot.counts), strict=True)), kind, number)

    def _part(self, variant: Variant, row: int, shared: "_Shared") -> Part | None:
        """What a share gets on a node that has room for it."""
        if variant.shared < 0:
            return None
        place, memory = (row, variant.shared), self.snapshot.memory_part(variant, row)
        found = None if row in shared.kept else shared.parts.fullest(place, variant.share, memory)
        number = found[0] if found else self.parts.unused_number(place)
        return Part(number, variant.share, memory)

    def place(self, held: Holding) -> tuple[int, int]:
        """Node and type of the device that it has a share of."""
        return int(held.rows[0]), self.snapshot.resources.index(held.placement.kind)

    def _relost(self, place: tuple[int, int]) -> None:
        if self._lost is None:
            self._lost = np.zeros_like(self.free)
        self._lost[place] = self.parts.lost_at(place)

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
            shared = _Shared(self.parts, self._lost)
            fit.held[rows], fit.left[rows] = self._measure(
                self.free[rows], variant, fit.eligible, rows, shape, shared
            )
        return fit

    def _fresh(self, free: Ints, shape: int, variant: Variant, shared: "_Shared | None" = None) -> "_Fit":
        rows = np.arange(len(free))
        eligible = self.snapshot.eligible(shape)
        shared = shared or _Shared(self.parts, self._lost)
        return _Fit(
            *self._measure(free, variant, eligible, rows, shape, shared),
            self.snapshot.racks,
            eligible,
            self.snapshot.together(shape),
            self.snapshot.shapes[shape].strictly,
        )

    def _measure(
        self, free: Ints, variant: Variant, eligible: Bools | None, rows: Ints, shape: int, shared: "_Shared"
    ) -> tuple[Ints, Floats]:
        """How many replicas each node could hold, and what the first of them leaves over."""
        left = self._leaves(free, rows, shape, variant)
        if variant.shared < 0:
            whole = free if shared.lost is None else free - shared.lost[rows]
            return self._holds(whole, variant, eligible, rows), left
        held = self._holds(free, variant, eligible, rows)
        lost = 0 if shared.lost is None else shared.lost[rows, variant.shared]
        opens = (held > 0) & (free[:, variant.shared] - lost >= DEVICE)
        if variant.device_memory:
            opens &= self.snapshot.device_memory[rows, variant.shared] >= variant.device_memory
        left = left + OPENS_WEIGHT
        if shared.parts:
            having = set(shared.parts.at(variant.shared)) - set(shared.kept)
            for at in np.flatnonzero((held > 0) & np.isin(rows, list(having))).tolist():
                place = int(rows[at]), variant.shared
                memory = self.snapshot.memory_part(variant, place[0])
                found = shared.parts.fullest(place, variant.share, memory)
                if found is not None:
                    opens[at] = True
                    # Whatever else its node has: a fuller device is the better one.
                    left[at] = found[1] / DEVICE - self._favour(shape, rows[at : at + 1])[0]
        return opens.astype(np.int64), left

    def _holds(self, free: Ints, variant: Variant, eligible: Bools | None, rows: Ints) -> Ints:
        columns = variant.columns
        held: Ints = (free[:, columns] // variant.need[columns]).min(axis=1, initial=UNLIMITED)
        np.maximum(held, 0, out=held)
        if eligible is not None:
            held *= eligible[rows]
        return held

    def _leaves(self, free: Ints, rows: Ints, shape: int, variant: Variant) -> Floats:
        after = free - variant.need
        devices = after[:, self._device_columns].sum(axis=1) / DEVICE
        plain = (after[:, self._plain_columns] / self._whole[rows]).sum(axis=1)
        left: Floats = devices + SPARE_WEIGHT * plain
        return left if self.snapshot.preferred(shape) is None else left - self._favour(shape, rows)

    def _favour(self, shape: int, rows: Ints) -> Floats:
        """What the labels that it prefers count for."""
        preferred = self.snapshot.preferred(shape)
        return np.zeros(len(rows)) if preferred is None else PREFERRED_WEIGHT * preferred[rows]


class _Shared(NamedTuple):
    """Shared devices at a moment, what is free of them, and the nodes on which none of that may be taken."""

    parts: Parts
    lost: Ints | None
    kept: Collection[int] = ()


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


def may_take(parts: Parts, place: tuple[int, int], part: Part, free: int) -> bool:
    """Whether a part may be taken, of `free` thousandths on that node: of the device of its number where that is shared
    now, else of one that is wholly free."""
    if parts.is_open(place, part.number):
        return parts.has_room(place, part)
    return part.memory <= DEVICE and free - parts.lost_at(place) >= DEVICE


def _fewest(held: Ints, rows: Ints, replicas: int) -> Ints:
    """Rows whose sum is enough, as few as possible, and the smallest that does as the last."""
    ordered = rows[np.argsort(-held[rows], kind="stable")]
    sums = np.cumsum(held[ordered])
    last = int(np.searchsorted(sums, replicas))
    missing = replicas - (int(sums[last - 1]) if last else 0)
    enough = ordered[last:][held[ordered[last:]] >= missing]
    return np.append(ordered[:last], enough[-1])

"""Resources kept for jobs that do not fit yet, and what others may take meanwhile. Pure.

For the first job in order that does not fit, the engine looks ahead over the expected ends of what runs: the moment at
which it fits is its reservation, on the nodes where it then fits. Others may start now if they end before that moment,
or if what they take is not needed then (EASY backfill: Lifka 1995; with more reservations, conservative backfill:
Mu'alem and Feitelson 2001). Where an expected end is unknown the job could end at any moment, so what is free there
already is kept for it at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.model import Reservation, State
from services.scheduler.engine.order import known, remaining
from services.scheduler.engine.place import Room, Spot
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot, wide

MOMENTS_MAX = 64
"""Future moments looked at for one reservation: enough moments of a busy pool lie within the first of them."""


@dataclass
class _Kept:
    slot: int
    at: float
    """What outlives this moment must leave it alone: now, where nobody knows when room is made."""
    expected: float
    spot: Spot
    spare: Ints
    """What is free at that moment and not needed by this reservation nor an earlier one: (nodes, resources)."""


class Reservations:
    """The reservations of one plan, by their moment."""

    def __init__(self, snapshot: Snapshot, room: Room, now: float) -> None:
        self._snapshot = snapshot
        self._room = room
        self._now = now
        self._kept: list[_Kept] = []
        self._releases: list[_Release] | None = None
        """Of running jobs."""
        self._taken: list[tuple[float, Spot]] = []
        """Starts decided in this plan."""

    def __len__(self) -> int:
        return len(self._kept)

    def level(self, end: float) -> int:
        """How many reservations a job that ends then would still be running at."""
        return sum(1 for kept in self._kept if kept.at < end)

    def levels(self, ends: Floats) -> Ints:
        """`level` of many."""
        ats = np.array([kept.at for kept in self._kept])
        return np.searchsorted(ats, ends, side="left")

    def find(self, shape: int, replicas: int, level: int, kinds: Sequence[int]) -> Spot | None:
        """Where a job fits now without delaying the reservations that it would outlive."""
        if level == 0:
            return self._room.find(shape, replicas, kinds=kinds)
        within = self._room.free.copy()
        for kept in self._kept[:level]:
            np.minimum(within, kept.spare, out=within)
        return self._room.find(shape, replicas, kinds=kinds, within=within)

    def take(self, spot: Spot, end: float) -> None:
        """A job starts there now and is expected to end then."""
        self._taken.append((end, spot))
        for kept in self._kept:
            if kept.at < end:
                kept.spare[spot.rows] -= spot.counts[:, None] * spot.variant.need

    def reserve(self, slot: int, shape: int) -> bool:
        """Keep what a job needs at the first moment at which it fits. False when it never does."""
        replicas = self._snapshot.shapes[shape].replicas
        for expected, free, unsure in self._moments():
            spare = free
            for kept in self._kept:
                if kept.at <= expected:
                    spare = np.minimum(spare, kept.spare)
            spot = self._room.find(shape, replicas, within=spare)
            if spot is None:
                continue
            left = spare.copy()
            left[spot.rows] -= spot.counts[:, None] * spot.variant.need
            at = self._now if unsure & set(spot.rows.tolist()) else expected
            self._kept.append(_Kept(slot, at, expected, spot, left))
            self._kept.sort(key=lambda kept: kept.at)
            return True
        return False

    def named(self) -> tuple[Reservation, ...]:
        """The same in names."""
        return tuple(
            Reservation(self._snapshot.names[kept.slot], kept.expected, self._room.placement(kept.spot))
            for kept in self._kept
        )

    def _moments(self) -> Iterator[tuple[float, Ints, set[int]]]:
        """Expected ends, each with what is free from then on, and the nodes of which that is not sure."""
        if self._releases is None:
            self._releases = self._expected()
        given = [
            _Release(end, spot.rows, spot.counts[:, None] * spot.variant.need, bool(np.isfinite(end)))
            for end, spot in self._taken
        ]
        ends = sorted([*self._releases, *given], key=lambda release: release.at)
        free, unsure = self._room.free.copy(), set[int]()
        for n, release in enumerate(ends):
            np.add.at(free, release.rows, release.amounts)
            if not release.sure:
                unsure |= set(release.rows.tolist())
            more_at_once = n + 1 < len(ends) and ends[n + 1].at == release.at
            if not more_at_once and (n < MOMENTS_MAX or n == len(ends) - 1):
                yield release.at, free.copy(), set(unsure)

    def _expected(self) -> "list[_Release]":
        snapshot = self._snapshot
        busy = np.flatnonzero(snapshot.state >= State.RUNNING)
        snapshot.touch(busy, self._now)
        ends = self._now + remaining(snapshot, busy)
        width = self._room.free.shape[1]
        found = []
        for slot, end, sure in zip(busy.tolist(), ends.tolist(), known(snapshot, busy).tolist(), strict=True):
            held = snapshot.holdings[slot]
            need = wide(held.need, width)
            found.append(_Release(end, held.rows, held.counts[:, None] * need, sure))
        return found


@dataclass(frozen=True)
class _Release:
    at: float
    rows: Ints
    amounts: Ints
    sure: bool

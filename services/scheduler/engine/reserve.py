"""Resources kept for jobs that do not fit yet, and what others may take meanwhile. Pure.

For the first job in order that does not fit, the engine looks ahead over the expected ends of what runs: the moment at
which it fits is its reservation, on the nodes where it then fits. Others may start now if they end before that moment,
or if what they take is not needed then (EASY backfill: Lifka 1995; with more reservations, conservative backfill:
Mu'alem and Feitelson 2001). Where an expected end is unknown the job could end at any moment, so what is free there
already is kept for it at once.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from services.scheduler.engine.model import RUNNING, STOPPING, Reservation
from services.scheduler.engine.order import known, remaining
from services.scheduler.engine.parts import Part, Parts
from services.scheduler.engine.place import Room, Spot
from services.scheduler.engine.snapshot import Bools, Floats, Ints, Snapshot, wide

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
        self._busy: tuple[Ints, Floats, Bools] | None = None
        """Running jobs by expected end: slots, ends, whether the end is more than a guess."""
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
        within, rows = self._room.free.copy(), set[int]()
        for kept in self._kept[:level]:
            np.minimum(within, kept.spare, out=within)
            if self._room.parts:
                rows.update(kept.spot.rows.tolist())
        return self._room.find(shape, replicas, kinds=kinds, within=within, kept=rows)

    def take(self, spot: Spot, end: float) -> None:
        """A job starts there now and is expected to end then."""
        self._taken.append((end, spot))
        for kept in self._kept:
            if kept.at < end:
                kept.spare[spot.rows] -= spot.counts[:, None] * spot.variant.need

    def reserve(self, slot: int, shape: int) -> bool:
        """Keep what a job needs at the first moment at which it fits. False when it never does."""
        replicas = self._snapshot.shapes[shape].replicas
        for expected, free, unsure, parts in self._moments():
            spare = free
            for kept in self._kept:
                if kept.at <= expected:
                    spare = np.minimum(spare, kept.spare)
            spot = self._room.find(shape, replicas, within=spare, parts=parts)
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

    def _moments(self) -> Iterator[tuple[float, Ints, set[int], Parts]]:
        """Expected ends, each with what is free from then on, the nodes of which that is not sure, and the devices that
        are shared then."""
        free, unsure, parts = self._room.free.copy(), set[int](), self._room.parts.copy()
        releases = heapq.merge(self._running(), self._given(), key=lambda release: release.at)
        release = next(releases, None)
        n = 0
        while release is not None:
            np.add.at(free, release.rows, release.amounts)
            if release.part is not None:
                parts.give(release.place, release.part)
            if not release.sure:
                unsure |= set(release.rows.tolist())
            last, release = release, next(releases, None)
            n += 1
            if release is None or (n <= MOMENTS_MAX and release.at > last.at):
                yield last.at, free.copy(), set(unsure), parts

    def _running(self) -> "Iterator[_Release]":
        """What running jobs will give back, by expected end."""
        snapshot = self._snapshot
        if self._busy is None:
            busy = np.flatnonzero(snapshot.state >= RUNNING)
            snapshot.touch(busy, self._now)
            # What was told to stop ends now: else whoever ends before it would have, such as another one that was
            # stopped with it, would start again in the room that they make.
            stops = snapshot.state[busy] == STOPPING
            ends = self._now + np.where(stops, 0.0, remaining(snapshot, busy))
            order = np.argsort(ends, kind="stable")
            self._busy = busy[order], ends[order], (stops | known(snapshot, busy))[order]
        width = self._room.free.shape[1]
        for slot, end, sure in zip(*(column.tolist() for column in self._busy), strict=True):
            held = snapshot.holdings[slot]
            place = self._room.place(held) if held.part else (0, 0)
            amounts = held.counts[:, None] * wide(held.need, width)
            yield _Release(end, held.rows, amounts, sure, place, held.part)

    def _given(self) -> "list[_Release]":
        """What the starts of this plan will give back, by expected end."""
        found = [
            _Release(
                end, spot.rows, spot.counts[:, None] * spot.variant.need, isfinite(end), spot.place, spot.part
            )
            for end, spot in self._taken
        ]
        return sorted(found, key=lambda release: release.at)


@dataclass(frozen=True)
class _Release:
    at: float
    rows: Ints
    amounts: Ints
    sure: bool
    place: tuple[int, int] = (0, 0)
    part: Part | None = None
    """Of a device that is shared, at that place."""

"""Who runs in a round where jobs share devices by time: whoever has received least of its share. Pure but for its memory.

An allocation says what part of all time a job should run on each type of accelerator; a round turns parts into whole
devices. On each type jobs go by share over time received since the shares were made, then by what an earlier
allocation still owed them; who is chosen again on the same type stays where it is (Gavel's mechanism, OSDI 2020).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from services.scheduler.engine.model import RUNNING, WAITING, Plan, Start
from services.scheduler.engine.place import Room
from services.scheduler.engine.snapshot import Bools, Floats, Ints, Snapshot

Allocate = Callable[[Snapshot, Ints, float], Floats]
"""(snapshot, slots, now) to shares of time: (slots, types)."""
SAME = 0.05
"""Relative difference of speeds below which shares stay as they are."""


@dataclass
class Rounds:
    """Plans rounds by an allocation, and remembers from one to the next what each job has received.

    Attributes:
        interval: Seconds that shares stay as they are at least, however jobs come and go.
        head_start: Seconds that a job counts as having run already, so that a new one does not outweigh all others.
        strict: Whether what has no share stays off devices that would else be idle.
        aware: Whether jobs take the types in the order that the nodes came in, or each type comes first in turn.
    """

    allocate: Allocate
    interval: float = 0.0
    head_start: float = 180.0
    strict: bool = False
    aware: bool = True
    shares: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """By slot and type, as are the next two."""
    received: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    owed: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        self._owner: Ints = np.zeros(0, np.int64)
        self._known: Ints = np.zeros(0, np.int64)
        self._speeds: Floats = np.zeros((0, 0))
        self._last = self._since = -np.inf
        self._turn = 0

    def plan(self, snapshot: Snapshot, now: float, *, preempt: bool = True) -> Plan:
        """Decide.

        Args:
            preempt: Whether a round begins now; within one, what runs stays, and others get what is free.
        """
        slots = np.flatnonzero(
            (snapshot.state == RUNNING) | (snapshot.state == WAITING) & (snapshot.due <= now)
        )
        slots = slots[np.argsort(snapshot.number[slots], kind="stable")]
        if not len(slots):
            self._since = -np.inf
            return Plan()
        self._account(snapshot, slots, now)
        self._share(snapshot, slots, now)
        chosen = self._choose(snapshot, slots, preempt)
        self._turn += preempt
        return _placed(snapshot, chosen)

    def _account(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        size, kinds = len(snapshot.state), len(snapshot.kinds)
        if self.shares.shape != (size, kinds):
            grown = size - len(self._owner), kinds - self.shares.shape[1]
            for name in ("shares", "received", "owed"):
                setattr(self, name, np.pad(getattr(self, name), ((0, grown[0]), (0, grown[1]))))
            self._owner = np.pad(self._owner, (0, grown[0]))
        new = slots[self._owner[slots] != snapshot.number[slots] + 1]
        self._owner[new] = snapshot.number[new] + 1
        self.shares[new], self.owed[new], self.received[new] = 0.0, 0.0, self.head_start
        ran = slots[(snapshot.state[slots] == RUNNING) & (snapshot.kind[slots] >= 0)]
        self.received[ran, snapshot.kind[ran]] += now - np.maximum(self._last, snapshot.started[ran])
        self._last = now

    def _share(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        numbers, speeds = snapshot.number[slots], snapshot.speeds[slots]
        # Speeds that are learnt differ a little from step to step: that alone is no reason to share anew.
        changed = not (np.array_equal(numbers, self._known) and np.allclose(speeds, self._speeds, rtol=SAME))
        elapsed = now - self._since
        if not changed or elapsed < self.interval:
            return
        if np.isfinite(elapsed):
            self.owed[slots] += self.shares[slots] * elapsed - (self.received[slots] - self.head_start)
        self.received[slots] = self.head_start
        self.shares[slots] = self.allocate(snapshot, slots, now)
        self._known, self._speeds, self._since = numbers, speeds, now

    def _choose(self, snapshot: Snapshot, slots: Ints, preempt: bool) -> dict[int, int]:
        """Slots that run, with the type that each runs on."""
        left = np.maximum(snapshot.capacity, 0).sum(axis=0)
        turns = list(permutations(range(len(snapshot.kinds))))
        chosen: dict[int, int] = {}
        if not preempt:
            left = np.maximum(snapshot.free, 0).sum(axis=0)
            for slot in slots[snapshot.state[slots] == RUNNING].tolist():
                chosen[slot] = int(snapshot.kind[slot])
        for kind in turns[0 if self.aware else self._turn % len(turns)]:
            share = self.shares[slots, kind]
            keys = (-share, -self.owed[slots, kind], -share / self.received[slots, kind])
            for slot in slots[np.lexsort(keys)].tolist():
                if slot in chosen or (self.strict and self.shares[slot, kind] <= 0):
                    continue
                if snapshot.speeds[slot].any() and snapshot.speeds[slot, kind] <= 0:
                    continue
                shape = int(snapshot.shape[slot])
                need = next((v.need for v in snapshot.variants(shape) if v.kind == kind), None)
                if need is None:
                    continue
                need = need * snapshot.shapes[shape].replicas
                if (need <= left).all():
                    left = left - need
                    chosen[slot] = kind
        return chosen


def _placed(snapshot: Snapshot, chosen: dict[int, int]) -> Plan:
    """Whoever runs on its type stays; the others go where there is room once who is not chosen has stopped."""
    running: Bools = snapshot.state == RUNNING
    room = Room(snapshot)
    stops: list[str] = []
    for slot in np.flatnonzero(running).tolist():
        if chosen.get(slot) == snapshot.kind[slot]:
            del chosen[slot]
            continue
        held = snapshot.holdings[slot]
        room.give(held.rows, held.counts, held.need)
        if slot not in chosen:
            stops.append(snapshot.names[slot])
    starts: list[Start] = []
    # The largest first: smaller ones find room in what they leave.
    for slot, kind in sorted(chosen.items(), key=lambda each: -snapshot.devices[each[0]]):
        shape = int(snapshot.shape[slot])
        spot = room.find(shape, snapshot.shapes[shape].replicas, kinds=(kind,))
        if spot is not None:
            room.take(spot)
            starts.append(Start(snapshot.names[slot], room.placement(spot)))
        elif running[slot]:
            stops.append(snapshot.names[slot])
    return Plan(tuple(starts), tuple(stops))

"""Who runs in a round where jobs share devices by time: whoever has received least of its share. Pure but for its memory.

An allocation says what part of all time a job should run on each type of accelerator; a round turns parts into whole
devices. On each type jobs go by share over time received since the shares were made, then by what an earlier
allocation still owed them; who is chosen again on the same type stays where it is (Gavel's mechanism, OSDI 2020).
Jobs without accelerators share processors in the same way, as one more type.

What may not be stopped keeps its place, and what a queue's limits do not let in stays out. Memory that is lost is made
anew from how long each job has been here and how long it has run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from services.scheduler.engine.model import RUNNING, STOPPING, WAITING, Plan, Start
from services.scheduler.engine.place import Room
from services.scheduler.engine.plan import movable, moving
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import DEVICE_LANE, PLAIN_LANE, Bools, Floats, Ints, Snapshot

Allocate = Callable[[Snapshot, Ints, float], Floats]
"""(snapshot, slots of one lane, now) to shares of time: (slots, types), of one type for jobs without accelerators."""
SAME = 0.05
"""Relative difference of speeds below which shares stay as they are."""
PLAIN = -1
"""The type of what runs on no accelerator: in arrays by type their last column."""


@dataclass
class Rounds:
    """Plans rounds by an allocation, and remembers from one to the next what each job has received.

    Attributes:
        interval: Seconds that shares stay as they are at least, however jobs come and go.
        head_start: Seconds that a job counts as having run already, so that a new one does not outweigh all others.
        strict: Whether what has no share stays off devices that would else be idle.
        own_first: Whether who has no share of a type waits until all who have one, on any type, have been served. Else
            types are filled one after the other, in the order that the nodes came in.
        aware: Whether jobs take the types in the order that the nodes came in, or each type comes first in turn.
        credit: Whether it goes by what a job is owed in all, which keeps each within a few rounds of its share for ever,
            and not by share over time received.
        seconds: Between two rounds at least: a step sooner begins none.
        quantum: Seconds for which what has started is not stopped.
        spares: Whether a job that would lose its work is left running.
    """

    allocate: Allocate
    interval: float = 0.0
    head_start: float = 180.0
    strict: bool = False
    aware: bool = True
    own_first: bool = False
    credit: bool = False
    seconds: float = 0.0
    quantum: float = 0.0
    spares: bool = False
    shares: Floats = field(default_factory=lambda: np.zeros((0, 1)))
    """By slot and type, as are the next two."""
    received: Floats = field(default_factory=lambda: np.zeros((0, 1)))
    owed: Floats = field(default_factory=lambda: np.zeros((0, 1)))

    def __post_init__(self) -> None:
        self._owner: Ints = np.zeros(0, np.int64)
        self._known: Ints = np.zeros(0, np.int64)
        self._speeds: Floats = np.zeros((0, 0))
        self._last = self._since = self._began = -np.inf
        self._turn = 0

    def plan(self, snapshot: Snapshot, now: float, *, preempt: bool = True) -> Plan:
        """Decide.

        Args:
            preempt: Whether a round may begin now; within one, what runs stays, and others get what is free.
        """
        slots = np.flatnonzero(
            (snapshot.state == RUNNING) | (snapshot.state == WAITING) & (snapshot.due <= now)
        )
        slots = slots[np.argsort(snapshot.number[slots], kind="stable")]
        if not len(slots):
            self._since = -np.inf
            return Plan()
        begins = preempt and now - self._began >= self.seconds
        self._account(snapshot, slots, now)
        self._share(snapshot, slots, now)
        chosen = self._choose(snapshot, slots, now, begins)
        if begins:
            self._began = now
            self._turn += 1
        return _placed(snapshot, chosen, now)

    def _account(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        size, width = len(snapshot.state), len(snapshot.kinds) + 1
        if self.shares.shape != (size, width):
            for name, start in (("shares", 0.0), ("received", self.head_start), ("owed", 0.0)):
                # A new type comes before the last column.
                before, grown = getattr(self, name), np.full((size, width), start)
                grown[: len(before), : before.shape[1] - 1] = before[:, :-1]
                grown[: len(before), PLAIN] = before[:, PLAIN]
                setattr(self, name, grown)
            self._owner = np.pad(self._owner, (0, size - len(self._owner)))
        new = slots[self._owner[slots] != snapshot.number[slots] + 1]
        self._owner[new] = snapshot.number[new] + 1
        self.shares[new], self.owed[new], self.received[new] = 0.0, 0.0, self.head_start
        ran = slots[snapshot.state[slots] == RUNNING]
        self.received[ran, snapshot.kind[ran]] += now - np.maximum(self._last, snapshot.started[ran])
        self._last = now

    def _share(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        numbers, speeds = snapshot.number[slots], snapshot.speeds[slots]
        # Speeds that are learnt differ a little from step to step: that alone is no reason to share anew.
        changed = not (
            np.array_equal(numbers, self._known)
            and speeds.shape == self._speeds.shape
            and np.allclose(speeds, self._speeds, rtol=SAME)
        )
        elapsed = now - self._since
        if not changed or elapsed < self.interval:
            return
        if np.isfinite(elapsed):
            self.owed[slots] += self.shares[slots] * elapsed - (self.received[slots] - self.head_start)
        self.received[slots] = self.head_start
        self.shares[slots] = 0.0
        for lane, columns in ((DEVICE_LANE, slice(0, PLAIN)), (PLAIN_LANE, slice(PLAIN, None))):
            part = slots[snapshot.lane[slots] == lane]
            if len(part):
                self.shares[part, columns] = self.allocate(snapshot, part, now)
        if np.isinf(elapsed):
            self._recall(snapshot, slots, now)
        self._known, self._speeds, self._since = numbers, speeds, now

    def _recall(self, snapshot: Snapshot, slots: Ints, now: float) -> None:
        """What jobs are owed that ran before there was this memory: as if shares had been these all along."""
        snapshot.touch(slots, now)
        old = slots[snapshot.ran[slots] > 0]
        share, age = self.shares[old], (now - snapshot.submitted[old])[:, None]
        split = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
        self.owed[old] = share * age - split * snapshot.ran[old, None]

    def _choose(self, snapshot: Snapshot, slots: Ints, now: float, begins: bool) -> dict[int, int]:
        """Slots that run, with the type that each runs on."""
        busy = np.flatnonzero(snapshot.state >= RUNNING)
        yields: Bools = snapshot.preemptible & (snapshot.saves | (not self.spares))
        moves = movable(snapshot, busy, now, self.quantum, yields) if begins else busy[:0]
        # What stops is as good as free: else what comes of it first would go to the very jobs that were stopped.
        gives = np.concatenate([moves, busy[snapshot.state[busy] == STOPPING]])
        fixed = np.setdiff1d(busy, gives, assume_unique=True)
        takes = _Takes(snapshot, fixed, gives, yields, now)
        chosen = {slot: int(snapshot.kind[slot]) for slot in fixed.tolist()}
        types = list(self._types(snapshot))
        passes = [(kind, "all") for kind in types]
        if self.strict or self.own_first:
            passes = [(kind, "own") for kind in types]
        if self.own_first:
            passes += [(kind, "others") for kind in types]
        for kind, whose in passes:
            share, owed = self.shares[slots, kind], self.owed[slots, kind]
            received = self.received[slots, kind]
            keys: tuple[Floats, ...] = (-share, -owed, -share / received)
            if self.credit:
                keys = (-share, -(owed + share * (now - self._since) - (received - self.head_start)))
            takes.turn_to(kind)
            for slot in slots[np.lexsort(keys)].tolist():
                if slot in chosen or (whose != "all" and (self.shares[slot, kind] > 0) != (whose == "own")):
                    continue
                if takes.take(slot):
                    chosen[slot] = kind
        return chosen

    def _types(self, snapshot: Snapshot) -> Iterator[int]:
        turns = list(permutations(range(len(snapshot.kinds))))
        yield from turns[0 if self.aware else self._turn % len(turns)]
        yield PLAIN


class _Takes:
    """What is left while a round is made, of all nodes together and of each queue's limits."""

    def __init__(self, snapshot: Snapshot, fixed: Ints, gives: Ints, yields: Bools, now: float) -> None:
        self._snapshot = snapshot
        self._yields = yields
        self._quota = Quota(snapshot, fixed, now)
        self._left: Ints = np.maximum(snapshot.free, 0).sum(axis=0)
        self._left = self._left + snapshot.holds[gives, : len(self._left)].sum(axis=0)

    def turn_to(self, kind: int) -> None:
        """From now on that type is given."""
        self._kind = kind
        self._small: set[int] = set()
        """Shapes that no longer fit."""
        self._passed = False
        """A job that waits did not fit: what could never be stopped for it does not go past it."""

    def take(self, slot: int) -> bool:
        """Give a job what it needs on the type, if that is left and it may have it."""
        snapshot, kind, shape = self._snapshot, self._kind, int(self._snapshot.shape[slot])
        if shape in self._small or kind not in snapshot.possible(shape):
            return False
        if kind != PLAIN and snapshot.speeds[slot, kind] <= 0 and self._knows_better(slot, shape):
            return False
        waits = snapshot.state[slot] == WAITING
        if self._passed and waits and not self._yields[slot]:
            return False
        need = next(each.need for each in snapshot.variants(shape) if each.kind == kind)
        need = need * snapshot.shapes[shape].replicas
        if not (need <= self._left).all():
            self._small.add(shape)
            self._passed |= bool(waits)
            return False
        queue = int(snapshot.queue[slot])
        if not self._quota.allows(queue, need):
            return False
        self._left = self._left - need
        self._quota.take(queue, need)
        return True

    def _knows_better(self, slot: int, shape: int) -> bool:
        """Whether there is a type that could hold the job and on which its speed is known."""
        speeds = self._snapshot.speeds[slot]
        return bool(speeds.any()) and any(speeds[kind] > 0 for kind in self._snapshot.possible(shape))


def _placed(snapshot: Snapshot, chosen: dict[int, int], now: float) -> Plan:
    """Whoever runs on its type stays; the others go where there is room once who is not chosen has stopped."""
    running: Bools = snapshot.state == RUNNING
    room = Room(snapshot)
    for slot in np.flatnonzero(snapshot.state == STOPPING).tolist():
        room.give(snapshot.holdings[slot])
    stops: list[int] = []
    for slot in np.flatnonzero(running).tolist():
        if chosen.get(slot) == snapshot.kind[slot]:
            del chosen[slot]
            continue
        held = snapshot.holdings[slot]
        room.give(held)
        if slot not in chosen:
            stops.append(slot)
    starts: list[Start] = []
    # The largest first: smaller ones find room in what they leave.
    for slot, kind in sorted(chosen.items(), key=lambda each: -snapshot.devices[each[0]]):
        shape = int(snapshot.shape[slot])
        spot = room.find(shape, snapshot.shapes[shape].replicas, kinds=(kind,))
        if spot is not None:
            room.take(spot)
            starts.append(Start(snapshot.names[slot], room.placement(spot)))
        elif running[slot]:
            stops.append(slot)
    return moving(snapshot, starts, stops, now)

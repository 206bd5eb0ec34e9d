"""`dynamic`: elastic jobs grow and shrink by what one more replica gains, at run time. Pure.

First every job gets its least size, the shortest remaining device time first. What is left goes replica by replica to
whoever ends the most sooner by it, per device (Peng et al., Optimus, EuroSys 2018); how much sooner is judged by the
job's goodput at each size: S(n) = n / (1 + c (n - 1)) of one replica's, where c is what each pair costs in agreement.
A resize is a checkpoint and a restart, and counts as that: a running job keeps its size unless the gain is larger.
Jobs of one size are treated as by `srtf`.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine.model import RUNNING, WAITING, Plan, Start
from services.scheduler.engine.order import remaining, sjf
from services.scheduler.engine.place import Room
from services.scheduler.engine.plan import movable
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Bools, Ints, Snapshot


def dynamic(
    snapshot: Snapshot, now: float, *, preempt: bool = True, quantum: float = 0.0, spares: bool = False
) -> Plan:
    """Decide.

    Args:
        preempt: Whether what runs may be stopped and resized; else only what waits is given what is free.
    """
    waiting = np.flatnonzero((snapshot.state == WAITING) & (snapshot.due <= now))
    busy = np.flatnonzero(snapshot.state >= RUNNING)
    yields: Bools = snapshot.preemptible & (snapshot.saves | (not spares))
    moves = movable(snapshot, busy, now, quantum, yields) if preempt else busy[:0]
    slots = np.concatenate([moves, waiting])
    slots = slots[np.argsort(snapshot.number[slots], kind="stable")]
    sizes = _Sizes(snapshot, np.setdiff1d(busy, moves, assume_unique=True), moves, now)
    for slot in sjf(snapshot, slots, now).tolist():
        sizes.admit(slot)
    sizes.grow()
    return _placed(snapshot, sizes.chosen, moves)


@dataclass
class _Size:
    kind: int
    need: Ints
    """Of one replica."""
    replicas: int


@dataclass
class _Sizes:
    """How many replicas each job gets, of what all nodes have together."""

    snapshot: Snapshot
    fixed: Ints
    moves: Ints
    now: float
    chosen: dict[int, _Size] = field(default_factory=dict)

    def __post_init__(self) -> None:
        snapshot = self.snapshot
        self._quota = Quota(snapshot, self.fixed, self.now)
        self._left: Ints = np.maximum(snapshot.free, 0).sum(axis=0)
        self._left = self._left + snapshot.holds[self.moves, : len(self._left)].sum(axis=0)

    def admit(self, slot: int) -> None:
        """Give a job its least size, on the type it runs on or else on the first that has enough."""
        snapshot, shape = self.snapshot, int(self.snapshot.shape[slot])
        variants = {each.kind: each.need for each in snapshot.variants(shape)}
        kinds = [int(snapshot.kind[slot])] if snapshot.state[slot] == RUNNING else self._kinds(slot, shape)
        least = snapshot.least(slot)
        for kind in kinds:
            if self._take(slot, variants[kind] * least):
                self.chosen[slot] = _Size(kind, variants[kind], least)
                return

    def grow(self) -> None:
        """Give what is left, replica by replica, to whoever gains most."""
        gains = [(-self._gain(slot), slot) for slot in self.chosen if self._can_grow(slot)]
        heapq.heapify(gains)
        while gains:
            gain, slot = heapq.heappop(gains)
            size = self.chosen[slot]
            if gain >= 0 or not self._take(slot, size.need):
                continue
            size.replicas += 1
            if self._can_grow(slot):
                heapq.heappush(gains, (-self._gain(slot), slot))

    def _can_grow(self, slot: int) -> bool:
        most = self.snapshot.shapes[int(self.snapshot.shape[slot])].replicas
        return self.chosen[slot].replicas < most

    def _gain(self, slot: int) -> float:
        """Seconds that one more replica makes the job end sooner, per device of it."""
        snapshot, size = self.snapshot, self.chosen[slot].replicas
        now_at = snapshot.size(slot)
        whole = float(remaining(snapshot, np.array([slot]))[0]) * snapshot.scale(slot, now_at)
        sooner = whole / snapshot.scale(slot, size) - whole / snapshot.scale(slot, size + 1)
        if snapshot.state[slot] == RUNNING:
            # Below its present size a step spares it a part of a restart, beyond it the first costs a whole one.
            restart = float(snapshot.restart[slot])
            if size < now_at:
                sooner += restart / (now_at - snapshot.least(slot))
            elif size == now_at:
                sooner -= restart
        shape = snapshot.shapes[int(snapshot.shape[slot])]
        return sooner / (float(snapshot.devices[slot]) / shape.replicas)

    def _kinds(self, slot: int, shape: int) -> list[int]:
        speeds = self.snapshot.speeds[slot]
        possible = self.snapshot.possible(shape)
        known = [kind for kind in np.argsort(-speeds, kind="stable").tolist() if speeds[kind] > 0]
        return [kind for kind in known if kind in possible] or sorted(possible)

    def _take(self, slot: int, need: Ints) -> bool:
        queue = int(self.snapshot.queue[slot])
        if not (need <= self._left).all() or not self._quota.allows(queue, need):
            return False
        self._left = self._left - need
        self._quota.take(queue, need)
        return True


def _placed(snapshot: Snapshot, chosen: dict[int, _Size], moves: Ints) -> Plan:
    """Who keeps its size stays; the others go where there is room once those have stopped."""
    room, stops, starts = Room(snapshot), [], []
    for slot in moves.tolist():
        size = chosen.get(slot)
        if size is not None and size.replicas == snapshot.size(slot):
            del chosen[slot]
            continue
        held = snapshot.holdings[slot]
        room.give(held)
        if size is None:
            stops.append(snapshot.names[slot])
    for slot, size in sorted(chosen.items(), key=lambda each: -each[1].replicas * snapshot.devices[each[0]]):
        for replicas in range(size.replicas, snapshot.least(slot) - 1, -1):
            spot = room.find(int(snapshot.shape[slot]), replicas, kinds=(size.kind,))
            if spot is not None:
                room.take(spot)
                starts.append(Start(snapshot.names[slot], room.placement(spot)))
                break
        else:
            if snapshot.state[slot] == RUNNING:
                stops.append(snapshot.names[slot])
    return Plan(tuple(starts), tuple(stops))

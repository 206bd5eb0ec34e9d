"""`dynamic`: elastic jobs grow and shrink by what one more replica gains, at run time. Pure.

First every job gets its least size, the shortest remaining device time first. What is left goes replica by replica to
whoever ends the most sooner by it, per device (Peng et al., Optimus, EuroSys 2018); how much sooner is judged by the
job's goodput at each size: S(n) = n / (1 + c (n - 1)) of one replica's, where c is what each pair costs in agreement.
A resize is a checkpoint and a restart, and counts as that: a running job keeps its size unless the gain is larger.
Jobs of one size are treated as by `srtf`.

So whatever grew shrinks again for a gang that waits. What is free is kept for the first that waits and could start if
those shrank or stopped that may not be stopped just yet, and where only its place is lacking, others move for it.
"""

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine.model import RUNNING, STOPPING, WAITING, Plan, Start
from services.scheduler.engine.order import remaining, sjf
from services.scheduler.engine.place import Room, Spot
from services.scheduler.engine.plan import movable, moving
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Bools, Ints, Snapshot, Variant

TRIES = 8
"""Times that sizes are chosen in one step, each without those for which there was no place the last time."""
KEEP_TRIES = 4
"""Jobs that wait for which a step looks closely whether others will make room."""


def dynamic(
    snapshot: Snapshot, now: float, *, preempt: bool = True, quantum: float = 0.0, spares: bool = False
) -> Plan:
    """Decide.

    Args:
        preempt: Whether what runs may be stopped and resized; else only what waits is given what is free.
    """
    waiting = np.flatnonzero((snapshot.state == WAITING) & (snapshot.due <= now))
    running = np.flatnonzero(snapshot.state == RUNNING)
    yields: Bools = snapshot.preemptible & (snapshot.saves | (not spares))
    moves = movable(snapshot, running, now, quantum, yields) if preempt else running[:0]
    fixed = np.setdiff1d(running, moves, assume_unique=True)
    soon = movable(snapshot, fixed, now + quantum, quantum, yields)
    slots = np.concatenate([moves, waiting])
    order = sjf(snapshot, slots[np.argsort(snapshot.number[slots], kind="stable")], now).tolist()
    decided, left_out = Plan(), set[int]()
    for _ in range(TRIES):
        sizes = _Sizes(snapshot, fixed, moves, soon, now)
        for slot in order:
            if slot not in left_out:
                sizes.admit(slot)
        sizes.grow()
        decided, unplaced = _placed(snapshot, sizes.chosen, moves, now)
        if not unplaced:
            break
        left_out |= unplaced
    return decided


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
    soon: Ints
    """Of the fixed, those that the next step which preempts may stop or resize."""
    now: float
    chosen: dict[int, _Size] = field(default_factory=dict)

    def __post_init__(self) -> None:
        snapshot = self.snapshot
        self._quota = Quota(snapshot, self.fixed, self.now)
        self._left: Ints = np.maximum(snapshot.free, 0).sum(axis=0)
        # What stops is as good as free: else what comes of it first would go to the very jobs that were stopped.
        gives = np.concatenate([self.moves, np.flatnonzero(snapshot.state == STOPPING)])
        self._left = self._left + snapshot.holds[gives, : len(self._left)].sum(axis=0)
        self._soon_most: Ints = snapshot.holds[self.soon, : len(self._left)].sum(axis=0)
        self._tried = 0
        self._kept = False

    def admit(self, slot: int) -> None:
        """Give a job its least size, on the type it runs on or else on the first that has enough.

        For the first that waits and could have it once others have shrunk or made way, what is free is kept.
        """
        snapshot, shape = self.snapshot, int(self.snapshot.shape[slot])
        variants = {each.kind: each for each in snapshot.variants(shape)}
        waits = snapshot.state[slot] == WAITING
        kinds = self._kinds(slot, shape) if waits else [int(snapshot.kind[slot])]
        least = snapshot.least(slot)
        for kind in kinds:
            if self._take(slot, variants[kind].need * least):
                self.chosen[slot] = _Size(kind, variants[kind].need, least)
                return
        if waits and not self._kept and self._tried < KEEP_TRIES:
            self._kept = any(self._keep(slot, variants[kind], least) for kind in kinds)

    def _keep(self, slot: int, variant: Variant, least: int) -> bool:
        """Leave to a job what is free, if it and what others will give make enough of it, and a place for it beside those
        that come before it."""
        snapshot, need = self.snapshot, variant.need * least
        if not (need <= self._left + self._soon_most).all():
            return False
        if not self._quota.allows(int(snapshot.queue[slot]), need):
            return False
        self._tried += 1
        order = sjf(snapshot, np.append(self.soon, slot), self.now).tolist()
        # Who comes before it keeps its least size, who comes after it nothing.
        stays = {each: self._shrunk(each) for each in order[: order.index(slot)]}
        coming = np.zeros_like(self._left)
        for each in self.soon.tolist():
            held = snapshot.holdings[each]
            left = stays[each].replicas if each in stays else 0
            coming[: len(held.need)] += held.need * (snapshot.size(each) - left)
        if not (need <= self._left + coming).all():
            return False
        then = self.chosen | stays | {slot: _Size(variant.kind, variant.need, least)}
        _, _, unplaced = _spots(snapshot, then, np.concatenate([self.moves, self.soon]))
        if slot in unplaced:
            return False
        self._left = np.maximum(self._left - need, 0)
        return True

    def _shrunk(self, slot: int) -> _Size:
        """A job that runs, at its least size."""
        snapshot = self.snapshot
        replicas = min(snapshot.least(slot), snapshot.size(slot))
        return _Size(int(snapshot.kind[slot]), snapshot.holdings[slot].need, replicas)

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


def _placed(snapshot: Snapshot, chosen: dict[int, _Size], moves: Ints, now: float) -> tuple[Plan, set[int]]:
    """The plan, and jobs that wait and for which there is no place in any way."""
    starts, stops, unplaced = _spots(snapshot, chosen, moves)
    return moving(snapshot, starts, stops, now), unplaced


def _spots(
    snapshot: Snapshot, chosen: dict[int, _Size], moves: Ints
) -> tuple[list[Start], list[int], set[int]]:
    """Who keeps its size stays; the others go where there is room once those have stopped.

    Where a job finds no place so, those that keep their size go elsewhere too, if that makes one.

    Returns:
        What starts, what stops, and what waits and finds no place in any way.
    """
    room, stops, starts, unplaced = Room(snapshot), list[int](), list[Start](), set[int]()
    for slot in np.flatnonzero(snapshot.state == STOPPING).tolist():
        room.give(snapshot.holdings[slot])
    keep = {
        slot for slot in moves.tolist() if slot in chosen and chosen[slot].replicas == snapshot.size(slot)
    }
    for slot in moves.tolist():
        if slot not in keep:
            room.give(snapshot.holdings[slot])
        if slot not in chosen:
            stops.append(slot)
    for slot in _largest_first(snapshot, chosen, chosen.keys() - keep):
        spot = _spot(snapshot, room, slot, chosen[slot])
        spots = {slot: spot} if spot is not None else _with_others_moved(snapshot, room, chosen, keep, slot)
        for each in spots.keys() & keep:
            room.give(snapshot.holdings[each])
        keep -= spots.keys()
        for each, found in spots.items():
            room.take(found)
            starts.append(Start(snapshot.names[each], room.placement(found)))
        if not spots and snapshot.state[slot] == RUNNING:
            stops.append(slot)
        elif not spots:
            unplaced.add(slot)
    return starts, stops, unplaced


def _with_others_moved(
    snapshot: Snapshot, room: Room, chosen: dict[int, _Size], keep: Collection[int], slot: int
) -> dict[int, Spot]:
    """A place for a job, and other places for those that make way for it there; none where one of them has none."""
    trial = room.copy()
    for each in keep:
        trial.give(snapshot.holdings[each])
    spot = _spot(snapshot, trial, slot, chosen[slot])
    if spot is None:
        return {}
    trial, gone = room.copy(), []
    for each in reversed(_largest_first(snapshot, chosen, keep)):
        trial.give(snapshot.holdings[each])
        gone.append(each)
        spot = _spot(snapshot, trial, slot, chosen[slot])
        if spot is not None:
            break
    assert spot is not None
    trial.take(spot)
    found = {slot: spot}
    for each in [each for each in reversed(gone) if not trial.take_back(snapshot.holdings[each])]:
        spot = _spot(snapshot, trial, each, chosen[each])
        if spot is None:
            return {}
        trial.take(spot)
        found[each] = spot
    return found


def _spot(snapshot: Snapshot, room: Room, slot: int, size: _Size) -> Spot | None:
    """Where a job fits with as many replicas as it is to have, or with as many as it can."""
    shape, kinds = int(snapshot.shape[slot]), (size.kind,)
    sizes = range(size.replicas, snapshot.least(slot) - 1, -1)
    found = (room.find(shape, replicas, kinds=kinds) for replicas in sizes)
    return next((spot for spot in found if spot is not None), None)


def _largest_first(snapshot: Snapshot, chosen: dict[int, _Size], slots: Iterable[int]) -> list[int]:
    return sorted(
        slots, key=lambda slot: (-chosen[slot].replicas * snapshot.devices[slot], snapshot.number[slot])
    )

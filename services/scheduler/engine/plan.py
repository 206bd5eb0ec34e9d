"""The one decision: what starts, what stops, what is kept for whom. Pure: a function of snapshot, policy and time."""

from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine.model import Plan, Start, State
from services.scheduler.engine.order import Order, Walk, fcfs, known, remaining
from services.scheduler.engine.place import Room, Spot
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.reserve import Reservations
from services.scheduler.engine.snapshot import Bools, Ints, Snapshot, Variant

STARTS_MAX = 256
"""Starts decided in one step: what is left is decided in the next, so that a step stays short at any depth."""


@dataclass(frozen=True)
class Policy:
    """How to decide, composed of an order and of what may be done for its sake.

    Attributes:
        order: Who comes first.
        preempt: Whether what runs is stopped for what comes before it.
        quantum: Seconds between two steps that preempt; between them resources that become free are filled.
        reservations: For how many jobs that do not fit resources are kept: 1 is EASY backfill, more is conservative.
    """

    name: str
    order: Order = fcfs
    preempt: bool = False
    quantum: float = 0.0
    reservations: int = 1


def plan(snapshot: Snapshot, policy: Policy, now: float, *, preempt: bool = True) -> Plan:
    """Decide.

    Args:
        preempt: Whether this is a step that may preempt, where the policy preempts at all.
    """
    if policy.preempt and preempt:
        return _Selection(snapshot, policy, now).plan()
    return _fill(snapshot, policy, now)


def _fill(snapshot: Snapshot, policy: Policy, now: float) -> Plan:
    """Start what fits, in order; keep resources for the first that do not; let others pass where they delay none."""
    waiting = _waiting(snapshot, now)
    if not len(waiting):
        return Plan()
    room = Room(snapshot)
    kept = Reservations(snapshot, room, now)
    quota = Quota(snapshot, np.flatnonzero(snapshot.state >= State.RUNNING))
    ends = np.full(len(snapshot.state), np.inf)
    sure = waiting[known(snapshot, waiting)]
    ends[sure] = now + remaining(snapshot, sure) + snapshot.restart[sure]
    starts: list[Start] = []
    hopeless: set[tuple[int, int]] = set()
    shapes = set(snapshot.shape[waiting].tolist())
    walk = policy.order(snapshot, waiting, now)
    taken: bool | None
    slot = next(walk, None)
    while slot is not None and len(starts) < STARTS_MAX:
        shape = int(snapshot.shape[slot])
        level = kept.level(float(ends[slot]))
        queue = int(snapshot.queue[slot])
        kinds = _allowed(snapshot, quota, slot) if quota.limited else _kinds(snapshot, slot)
        if (shape, level) in hopeless or kinds is None:
            taken = None if (shape, 0) in hopeless else False
        else:
            spot = kept.find(shape, snapshot.shapes[shape].replicas, level, kinds)
            taken = spot is not None
            if spot is not None:
                room.take(spot)
                kept.take(spot, float(ends[slot]))
                quota.take(queue, spot.variant.need * spot.counts.sum())
                starts.append(Start(snapshot.names[slot], room.placement(spot)))
            else:
                if len(kept) < policy.reservations and kept.reserve(slot, shape):
                    hopeless.clear()
                hopeless.add((shape, level))
                if level == 0:
                    # What does not even fit into all that is free fits into no part of it.
                    hopeless.update((shape, other) for other in range(1, len(kept) + 1))
                if len(kept) >= policy.reservations and all((each, 0) in hopeless for each in shapes):
                    break
        slot = _next(walk, taken)
    return Plan(tuple(starts), (), kept.named())


@dataclass
class _Selection:
    """A step that preempts: first who runs, by what all nodes have together, then where."""

    snapshot: Snapshot
    policy: Policy
    now: float
    chosen: list[int] = field(default_factory=list)

    def plan(self) -> Plan:
        snapshot, now = self.snapshot, self.now
        running = np.flatnonzero(snapshot.state == State.RUNNING)
        fixed = running[~self._may_stop(running)]
        movable = np.setdiff1d(running, fixed, assume_unique=True)
        self._quota = Quota(snapshot, np.setdiff1d(np.flatnonzero(snapshot.state >= State.RUNNING), movable))
        free = snapshot.free.copy()
        for slot in movable.tolist():
            held = snapshot.holdings[slot]
            np.add.at(
                free, held.rows, held.counts[:, None] * np.pad(held.need, (0, free.shape[1] - len(held.need)))
            )
        self._choose(np.concatenate([movable, _waiting(snapshot, now)]), np.maximum(free, 0).sum(axis=0))
        chosen = set(self.chosen)
        stops = [slot for slot in movable.tolist() if slot not in chosen]
        return self._placed(stops)

    def _may_stop(self, running: Ints) -> Bools:
        snapshot = self.snapshot
        old = self.now - snapshot.started[running] >= snapshot.min_runtime[running]
        allowed: Bools = snapshot.preemptible[running] & old
        return allowed

    def _choose(self, slots: Ints, total: Ints) -> None:
        """Walk in order and take everyone that the pool as a whole has enough for."""
        snapshot = self.snapshot
        slots = slots[np.argsort(snapshot.number[slots], kind="stable")]
        walk = self.policy.order(snapshot, slots, self.now)
        slot = next(walk, None)
        small: set[int] = set()
        while slot is not None:
            shape = int(snapshot.shape[slot])
            taken: bool | None = None
            if shape not in small:
                taken = False
                for variant in self._variants(slot):
                    need = variant.need * snapshot.shapes[shape].replicas
                    if not self._quota.allows(int(snapshot.queue[slot]), need):
                        break
                    if (need <= total).all():
                        total = total - need
                        self._quota.take(int(snapshot.queue[slot]), need)
                        self.chosen.append(slot)
                        taken = True
                        break
                else:
                    small.add(shape)
            slot = _next(walk, taken)

    def _variants(self, slot: int) -> list[Variant]:
        variants = self.snapshot.variants(int(self.snapshot.shape[slot]))
        if self.snapshot.state[slot] == State.RUNNING:
            return [each for each in variants if each.kind == self.snapshot.kind[slot]]
        return list(variants)

    def _placed(self, stops: list[int]) -> Plan:
        """Put the chosen where there is room once the others have stopped."""
        snapshot = self.snapshot
        room = Room(snapshot)
        for slot in stops:
            held = snapshot.holdings[slot]
            room.give(held.rows, held.counts, held.need)
        starts: list[Start] = []
        for slot in self.chosen:
            if snapshot.state[slot] == State.RUNNING:
                continue
            shape = int(snapshot.shape[slot])
            spot: Spot | None = room.find(
                shape, snapshot.shapes[shape].replicas, kinds=_kinds(snapshot, slot)
            )
            if spot is not None:
                room.take(spot)
                starts.append(Start(snapshot.names[slot], room.placement(spot)))
        return Plan(tuple(starts), tuple(snapshot.names[slot] for slot in stops), ())


def _waiting(snapshot: Snapshot, now: float) -> Ints:
    slots = np.flatnonzero((snapshot.state == State.WAITING) & (snapshot.due <= now))
    return slots[np.argsort(snapshot.number[slots], kind="stable")]


def _allowed(snapshot: Snapshot, quota: Quota, slot: int) -> tuple[int, ...] | None:
    """Types on which the limits of its queues let a job start, in its order of preference; None when on none."""
    shape, queue = int(snapshot.shape[slot]), int(snapshot.queue[slot])
    replicas = snapshot.shapes[shape].replicas
    kinds = [each.kind for each in snapshot.variants(shape) if quota.allows(queue, each.need * replicas)]
    if not kinds:
        return None
    return tuple(kind for kind in _kinds(snapshot, slot) if kind in kinds) or tuple(kinds)


def _kinds(snapshot: Snapshot, slot: int) -> tuple[int, ...]:
    """Types on which the job's speed is known, the fastest first; none when none is."""
    speeds = snapshot.speeds[slot]
    if not speeds.any():
        return ()
    return tuple(int(kind) for kind in np.argsort(-speeds, kind="stable") if speeds[kind] > 0)


def _next(walk: Walk, taken: bool | None) -> int | None:
    try:
        return walk.send(taken)
    except StopIteration:
        return None

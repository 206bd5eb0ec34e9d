"""The one decision: what starts, what stops, what is kept for whom. Pure: a function of snapshot, policy and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.model import RUNNING, STOPPING, WAITING, Plan, Start
from services.scheduler.engine.order import Order, Sharing, Walk, fcfs, known, remaining
from services.scheduler.engine.place import Room
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.reserve import Reservations
from services.scheduler.engine.snapshot import Bools, Ints, Snapshot, Variant, wide

STARTS_MAX = 256
"""Starts decided in one step: what is left is decided in the next, so that a step stays short at any depth."""

Decide = Callable[[Snapshot, float, bool], Plan]
"""(snapshot, now, whether this is a step that may preempt) to what to do."""


@dataclass(frozen=True)
class Policy:
    """How to decide, composed of an order and of what may be done for its sake.

    Attributes:
        order: Who comes first.
        preempt: Whether what runs is stopped for what comes before it.
        quantum: Seconds between two steps that preempt; between them resources that become free are filled. What has
            run for less is not stopped.
        reservations: For how many jobs that do not fit resources are kept: 1 is EASY backfill, more is conservative.
        spares: Whether a job that would lose its work by it is left running.
    """

    name: str
    order: Order = fcfs
    preempt: bool = False
    quantum: float = 0.0
    reservations: int = 1
    spares: bool = False


def plan(snapshot: Snapshot, policy: Policy, now: float, *, preempt: bool = True) -> Plan:
    """Decide.

    Args:
        preempt: Whether this is a step that may preempt, where the policy preempts at all.
    """
    if policy.preempt and preempt:
        selection = _Selection(snapshot, policy, now)
        selected = selection.plan()
        if selected.stops or not selection.skipped:
            return selected
    return _Filling(snapshot, policy, now).plan()


class _Filling:
    """Start what fits, in order; keep resources for the first that do not; let others pass where they delay none."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: float) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._now = now
        self._waiting = _waiting(snapshot, now)
        self._room = Room(snapshot)
        self._kept = Reservations(snapshot, self._room, now)
        self._quota = Quota(snapshot, np.flatnonzero(snapshot.state == RUNNING), now)
        """What stops gives its part of limits back to whoever it stops for: a start of that waits for its end."""
        self._ends = np.full(len(snapshot.state), np.inf)
        """When each is expected to end if it starts now; infinity where nobody can tell."""
        sure = self._waiting[known(snapshot, self._waiting)]
        self._ends[sure] = now + remaining(snapshot, sure) + snapshot.restart[sure]
        self._hopeless: Bools = np.zeros((len(snapshot.shapes), policy.reservations + 1), np.bool_)
        """By shape and by the number of reservations that a job would outlive: no job like it fits any more."""
        self._starts: list[Start] = []
        self._refused: list[tuple[str, int]] = []
        self._gate = _Gate(snapshot, self._quota)

    def plan(self) -> Plan:
        if len(self._waiting):
            walk = _walk(
                self._policy.order, self._snapshot, self._waiting, self._now, self._quota, self._dead
            )
            slot = next(walk, None)
            while slot is not None and len(self._starts) < STARTS_MAX:
                slot = _next(walk, self._try(slot))
        return Plan(
            possible_now(self._snapshot, self._starts, (), self._now),
            (),
            self._kept.named(),
            tuple(self._refused),
            self._gate.barred,
        )

    def _try(self, slot: int) -> bool | None:
        """Start a job if it fits. None: no job like it does."""
        snapshot, end = self._snapshot, float(self._ends[slot])
        shape, level = int(snapshot.shape[slot]), self._kept.level(end)
        if self._hopeless[shape, level]:
            return None if self._hopeless[shape, 0] else False
        kinds = self._gate.kinds(slot) if self._quota.limited else _kinds(snapshot, slot)
        if kinds is None:
            return False
        spot = self._kept.find(shape, snapshot.shapes[shape].replicas, level, kinds)
        if spot is None:
            self._refused.append((snapshot.names[slot], len(self._starts)))
            if len(self._kept) < self._policy.reservations and self._kept.reserve(slot, shape):
                self._hopeless[:, 1:] = self._hopeless[:, :1]
            if self._quota.limited and len(kinds) < len(snapshot.variants(shape)):
                # Others of its shape may still start on a type that its own queues close to it.
                return False
            # What does not even fit into all that is free fits into no part of it.
            self._hopeless[shape, level if level else slice(None)] = True
            return None
        self._room.take(spot)
        self._kept.take(spot, end)
        self._quota.take(int(snapshot.queue[slot]), spot.variant.need * spot.counts.sum())
        self._starts.append(Start(snapshot.names[slot], self._room.placement(spot)))
        return True

    def _dead(self, slots: Ints) -> Bools:
        dead: Bools = self._hopeless[self._snapshot.shape[slots], self._kept.levels(self._ends[slots])]
        return dead


class _Selection:
    """A step that preempts: first who runs, by what all nodes have together, then where."""

    def __init__(self, snapshot: Snapshot, policy: Policy, now: float) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._now = now
        busy = np.flatnonzero(snapshot.state >= RUNNING)
        self._yields: Bools = snapshot.preemptible & (snapshot.saves | (not policy.spares))
        """By slot: whether it may be stopped once it has run for long enough."""
        self._movable = movable(snapshot, busy, now, policy.quantum, self._yields)
        self._leaving: Ints = busy[snapshot.state[busy] == STOPPING]
        """What they hold is as good as free: else it would be given away, as it comes, to what they were stopped for it."""
        fixed = np.setdiff1d(busy, [*self._movable, *self._leaving], assume_unique=True)
        self._quota = Quota(snapshot, fixed, now)
        total = np.maximum(snapshot.free, 0).sum(axis=0)
        gives = np.concatenate([self._movable, self._leaving])
        self._total: Ints = total + snapshot.holds[gives, : len(total)].sum(axis=0)
        """What those that are chosen may take, on all nodes together."""
        self._small: Bools = np.zeros(len(snapshot.shapes), np.bool_)
        """By shape: no job like it fits any more."""
        self._passed = False
        """A job that waits did not fit."""
        self.skipped = False
        """A job behind it might have, and could not be stopped for it later: a step that keeps room may start it."""
        self._chosen: dict[int, int] = {}
        """Slots with the type that each was counted on."""
        self._barred: list[str] = []

    def plan(self) -> Plan:
        snapshot = self._snapshot
        slots = np.concatenate([self._movable, _waiting(snapshot, self._now)])
        slots = slots[np.argsort(snapshot.number[slots], kind="stable")]
        walk = _walk(self._policy.order, snapshot, slots, self._now, self._quota, self._dead)
        slot = next(walk, None)
        while slot is not None:
            slot = _next(walk, self._choose(slot))
        stops = np.setdiff1d(self._movable, list(self._chosen), assume_unique=True).tolist()
        room = Room(snapshot)
        for slot in (*stops, *self._leaving.tolist()):
            room.give(snapshot.holdings[slot])
        starts = self._starts(room)
        stops = [slot for slot in stops if not self._stays(slot, room)]
        starts = possible_now(snapshot, starts, stops, self._now)
        return Plan(starts, tuple(snapshot.names[slot] for slot in stops), barred=frozenset(self._barred))

    def _choose(self, slot: int) -> bool | None:
        """Let a job run if the pool as a whole has enough for it. None: for no job like it."""
        snapshot = self._snapshot
        shape, queue = int(snapshot.shape[slot]), int(snapshot.queue[slot])
        if self._small[shape]:
            return None
        if self._passed and snapshot.state[slot] == WAITING and not self._yields[slot]:
            self.skipped = True
            return False
        fits, possible = False, snapshot.possible(shape)
        if snapshot.state[slot] == WAITING and not possible:
            return False
        for variant in self._variants(slot):
            need = variant.need * snapshot.shapes[shape].replicas
            if (need <= self._total).all() and (variant.kind in possible or snapshot.state[slot] == RUNNING):
                fits = True
                if self._quota.allows(queue, need):
                    self._total = self._total - need
                    self._quota.take(queue, need)
                    self._chosen[slot] = variant.kind
                    return True
        if fits and snapshot.state[slot] == WAITING:
            self._barred.append(snapshot.names[slot])
        # What runs counts on its own type alone: others of its shape may still fit on another.
        if not fits and snapshot.state[slot] == WAITING:
            self._small[shape] = self._passed = True
            return None
        return False

    def _dead(self, slots: Ints) -> Bools:
        dead: Bools = self._small[self._snapshot.shape[slots]] & (self._snapshot.state[slots] == WAITING)
        return dead

    def _variants(self, slot: int) -> tuple[Variant, ...]:
        variants = self._snapshot.variants(int(self._snapshot.shape[slot]))
        if self._snapshot.state[slot] == RUNNING:
            return tuple(each for each in variants if each.kind == self._snapshot.kind[slot])
        return variants

    def _starts(self, room: Room) -> tuple[Start, ...]:
        """Put the chosen where there is room once the others have stopped."""
        snapshot, starts = self._snapshot, []
        for slot, kind in self._chosen.items():
            if snapshot.state[slot] == WAITING:
                shape = int(snapshot.shape[slot])
                # Under a limit a job is on the type that its queue was charged for.
                kinds = (kind,) if self._quota.limited else _kinds(snapshot, slot)
                spot = room.find(shape, snapshot.shapes[shape].replicas, kinds=kinds)
                if spot is not None:
                    room.take(spot)
                    starts.append(Start(snapshot.names[slot], room.placement(spot)))
        return tuple(starts)

    def _stays(self, slot: int, room: Room) -> bool:
        """Whether nobody that was chosen has found a place where this job runs: then it is stopped for nothing."""
        held, queue = self._snapshot.holdings[slot], int(self._snapshot.queue[slot])
        need = held.counts.sum() * wide(held.need, room.free.shape[1])
        if not self._quota.allows(queue, need) or not room.take_back(held):
            return False
        self._quota.take(queue, need)
        return True


def possible_now(
    snapshot: Snapshot, starts: Sequence[Start], stops: Sequence[int], now: float
) -> tuple[Start, ...]:
    """Those that need nothing of what earlier plans stop, and what has not stopped yet; the others come up again.

    Args:
        stops: Slots that this plan stops: what they hold is counted as free.
    """
    if not (snapshot.state == STOPPING).any():
        return tuple(starts)
    return startable(snapshot, starts, now, stops)


def startable(
    snapshot: Snapshot, starts: Sequence[Start], now: float, stops: Sequence[int] = ()
) -> tuple[Start, ...]:
    """Those that can be carried out before anything that is to stop has stopped; the others come up again.

    Args:
        stops: Slots that have stopped all the same.
    """
    others = np.setdiff1d(np.flatnonzero(snapshot.state >= RUNNING), np.array(stops, np.int64))
    quota, room, found = Quota(snapshot, others, now), Room(snapshot), []
    for slot in stops:
        room.give(snapshot.holdings[slot])
    for start in starts:
        holding = snapshot.holding(start.job, start.placement)
        queue = int(snapshot.queue[snapshot.slots[start.job]])
        total = holding.need * start.placement.replicas
        if quota.allows(queue, total) and room.take_back(holding):
            quota.take(queue, total)
            found.append(start)
    return tuple(found)


def moving(snapshot: Snapshot, starts: Sequence[Start], stops: Sequence[int], now: float) -> Plan:
    """A plan in which jobs that run may start elsewhere: one whose place something stops on that was to stop before
    is stopped now, and starts there later."""
    moved = [slot for start in starts if snapshot.state[slot := snapshot.slots[start.job]] == RUNNING]
    found = possible_now(snapshot, starts, [*stops, *moved], now)
    started = {start.job for start in found}
    late = [slot for slot in moved if snapshot.names[slot] not in started]
    return Plan(found, tuple(snapshot.names[slot] for slot in (*stops, *late)))


def movable(snapshot: Snapshot, busy: Ints, now: float, quantum: float, yields: Bools) -> Ints:
    """Which of the jobs that hold something may be stopped now: none that has just started."""
    running = busy[snapshot.state[busy] == RUNNING]
    stays = now - snapshot.started[running] < np.maximum(snapshot.min_runtime[running], quantum)
    found: Ints = running[yields[running] & ~stays]
    return found


def _walk(
    order: Order, snapshot: Snapshot, slots: Ints, now: float, quota: Quota, dead: Callable[[Ints], Bools]
) -> Walk:
    """Either kind of order as a walk."""
    if isinstance(order, Sharing):
        return order.walk(snapshot, slots, quota)
    return _over(order(snapshot, slots, now), dead)


def _over(ranking: Ints, dead: Callable[[Ints], Bools]) -> Walk:
    """A ranking, without those that have become hopeless on the way: ten thousand are left out at once."""
    while len(ranking):
        taken = yield int(ranking[0])
        ranking = ranking[1:]
        if taken is None:
            ranking = ranking[~dead(ranking)]


def _waiting(snapshot: Snapshot, now: float) -> Ints:
    slots = np.flatnonzero((snapshot.state == WAITING) & (snapshot.due <= now))
    return slots[np.argsort(snapshot.number[slots], kind="stable")]


class _Gate:
    """What the limits of queues let through while a plan is made."""

    def __init__(self, snapshot: Snapshot, quota: Quota) -> None:
        self._snapshot = snapshot
        self._quota = quota
        self._closed: set[tuple[int, int]] = set()
        """Queues and shapes: what is not let through once is not later, since a plan only gives."""
        self._barred: list[int] = []

    @property
    def barred(self) -> frozenset[str]:
        """Jobs that were not let through."""
        return frozenset(self._snapshot.names[slot] for slot in self._barred)

    def kinds(self, slot: int) -> tuple[int, ...] | None:
        """Types on which its queues let a job start, in its order of preference; None when on none."""
        snapshot = self._snapshot
        shape, queue = int(snapshot.shape[slot]), int(snapshot.queue[slot])
        if (queue, shape) not in self._closed:
            replicas = snapshot.shapes[shape].replicas
            kinds = [
                each.kind
                for each in snapshot.variants(shape)
                if self._quota.allows(queue, each.need * replicas)
            ]
            if kinds:
                return tuple(kind for kind in _kinds(snapshot, slot) if kind in kinds) or tuple(kinds)
            self._closed.add((queue, shape))
        self._barred.append(slot)
        return None


def _kinds(snapshot: Snapshot, slot: int) -> tuple[int, ...]:
    """Types on which the job's speed is known and that could hold it, the fastest first; none when there is none."""
    speeds = snapshot.speeds[slot]
    if len(speeds) < 2 or not speeds.any():
        return ()
    possible = snapshot.possible(int(snapshot.shape[slot]))
    ordered = np.argsort(-speeds, kind="stable").tolist()
    return tuple(kind for kind in ordered if speeds[kind] > 0 and kind in possible)


def _next(walk: Walk, taken: bool | None) -> int | None:
    try:
        return walk.send(taken)
    except StopIteration:
        return None

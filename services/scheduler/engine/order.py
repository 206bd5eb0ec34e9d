"""Who comes first: the classical orders, each a few vector operations over the snapshot's columns. Pure.

An order is a ranking of slots, or where it depends on what has just been given away (fair shares) a walk: a generator
that yields slots and is sent back whether the job was given resources (None: neither it nor any of its shape can be).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.model import WAITING
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Bools, Floats, Ints, Snapshot

Walk = Generator[int, bool | None, None]
Ranking = Callable[[Snapshot, Ints, float], Ints]
"""(snapshot, slots in order of acceptance, now) to the order in which they are served."""


@dataclass(frozen=True)
class Sharing:
    """An order that depends on what queues have been given."""

    walk: Callable[[Snapshot, Ints, Quota], Walk]
    """The quota is the plan's own: what a job is given is charged to it before the walk goes on."""


Order = Ranking | Sharing

LEVEL_DEVICE_SECONDS = (3_600.0, 36_000.0)
"""Attained service at which `las` moves a job a level down, in device-seconds (Tiresias, NSDI'19, two thresholds)."""
AGEING_PER_HOUR = 1.0
"""Priority that an hour of waiting is worth."""


def ranked(slots: Ints, *keys: Floats | Ints) -> Ints:
    """Sorted by these keys, the first deciding; ties by acceptance, which is how the slots come."""
    # lexsort is stable and sorts by its last key first.
    return slots[np.lexsort(keys[::-1])] if len(slots) else slots


def fcfs(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """First come, first served."""
    return ranked(slots, snapshot.number[slots])


def sjf(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """Shortest remaining device time: remaining seconds times devices.

    What waits also has its start's cost to pay, so two jobs of nearly the same length never take turns.
    """
    return ranked(slots, remaining_with_costs(snapshot, slots, now) * snapshot.devices[slots])


def priority(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """Highest priority first, and every hour that a job has waited counts as one more: nothing waits for ever."""
    return ranked(slots, -(snapshot.priority[slots] + AGEING_PER_HOUR * waited(snapshot, slots, now) / 3600))


def edf(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """Earliest deadline first, and what has none after that, first come first served.

    Source: Liu and Layland, 1973: on one machine it keeps every deadline that any order keeps.
    """
    return ranked(slots, snapshot.deadline[slots], snapshot.number[slots])


def las(snapshot: Snapshot, slots: Ints, now: float) -> Ints:
    """Least attained service, discretised: levels by device-seconds used so far, first come first within a level.

    Source: Gu et al., Tiresias, NSDI 2019 (2D-LAS). Needs no estimate of anything.
    """
    snapshot.touch(slots, now)
    level = np.searchsorted(
        LEVEL_DEVICE_SECONDS, snapshot.attained[slots] / snapshot.weight[slots], side="right"
    )
    return ranked(slots, level, snapshot.number[slots])


def remaining(snapshot: Snapshot, slots: Ints) -> Floats:
    """Expected seconds of running to the end, from what is known best.

    Steps left over steps per second on the type it runs on, else on its fastest; else what its submitter expects less
    what it has run; else as long again as it has run, which is the expectation under a heavy tail.
    """
    speed = speeds(snapshot, slots)
    work, estimate, ran = snapshot.work[slots], snapshot.estimate[slots], snapshot.ran[slots]
    with np.errstate(divide="ignore", invalid="ignore"):
        by_progress = np.maximum(0.0, work - snapshot.done[slots]) / speed
    # An estimate that was overrun is wrong by at least so much: expect a tenth of what it has run by now.
    by_estimate = np.maximum(estimate - ran, 0.1 * ran)
    return np.where(
        (work > 0) & (speed > 0), by_progress, np.where(estimate > 0, by_estimate, np.maximum(ran, 60.0))
    )


def speeds(snapshot: Snapshot, slots: Ints) -> Floats:
    """Steps per second of each: as seen in its present attempt, else as told for its type, else for its fastest type."""
    told = snapshot.speeds[slots] if snapshot.kinds else np.zeros((len(slots), 1))
    pace = snapshot.pace[slots]
    kind = snapshot.kind[slots]
    own = np.where(kind >= 0, told[np.arange(len(slots)), np.maximum(kind, 0)], 0.0)
    fastest = told.max(axis=1, initial=0.0)
    expected = np.where(own > 0, own, np.where(fastest > 0, fastest, pace))
    seen = snapshot.seen_speeds(slots)
    return np.where(seen > 0, seen, expected)


def known(snapshot: Snapshot, slots: Ints) -> Bools:
    """Whether `remaining` rests on more than how long a job has run."""
    told = np.maximum(snapshot.speeds[slots].max(axis=1, initial=0.0), snapshot.pace[slots])
    moves = (snapshot.work[slots] > 0) & (told > 0)
    found: Bools = moves | (snapshot.estimate[slots] > 0)
    return found


def remaining_with_costs(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """`remaining`, and a start's cost for what would have to be started."""
    snapshot.touch(slots, now)
    starts = snapshot.state[slots] == WAITING
    return remaining(snapshot, slots) + np.where(starts, snapshot.restart[slots], 0.0)


def waited(snapshot: Snapshot, slots: Ints, now: float) -> Floats:
    """Seconds that each has waited, all its waits together."""
    waits = snapshot.state[slots] == WAITING
    return snapshot.waited[slots] + np.where(waits, now - snapshot.since[slots], 0.0)

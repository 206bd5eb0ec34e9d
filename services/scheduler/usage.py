"""What queues have of the pool now, for people: read off the engine's snapshot. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from services.scheduler.engine.model import RUNNING, WAITING
from services.scheduler.engine.quota import Quota
from services.scheduler.engine.snapshot import Snapshot, in_units
from services.scheduler.queues import NOTHING, Amounts


@dataclass(frozen=True)
class Usage:
    """A queue with all that is under it.

    Attributes:
        borrowed: Of what is used, what lies beyond the nominal quota, where that says anything.
        pending: What waiting jobs ask for.
        share: Largest part of any resource of the pool that it uses; `recent_share`: that it used lately.
    """

    used: Amounts = field(default_factory=lambda: NOTHING)
    borrowed: Amounts = field(default_factory=lambda: NOTHING)
    pending: Amounts = field(default_factory=lambda: NOTHING)
    running_jobs: int = 0
    pending_jobs: int = 0
    share: float = 0.0
    recent_share: float = 0.0


def usages(snapshot: Snapshot, now: float) -> Mapping[str, Usage]:
    """By queue; the whole pool under the empty name."""
    busy = np.flatnonzero(snapshot.state >= RUNNING)
    quota = Quota(snapshot, busy, now)
    running, waiting, pending = _counts(snapshot, quota)
    width, total = len(snapshot.resources), np.maximum(1, quota.total)
    found = {}
    for row, name in enumerate(snapshot.queue_names):
        over = np.where(quota.nominal[row] > 0, quota.used[row] - quota.nominal[row], 0)
        found[name] = Usage(
            used=_amounts(quota.columns[:width], quota.used[row]),
            borrowed=_amounts(quota.columns, over),
            pending=pending[row],
            running_jobs=running[row],
            pending_jobs=waiting[row],
            share=float((quota.used[row] / total).max(initial=0.0)),
            recent_share=float((quota.recent[row] / total).max(initial=0.0)),
        )
    return found


def _counts(snapshot: Snapshot, quota: Quota) -> tuple[Counter[int], Counter[int], list[dict[str, float]]]:
    """By row: jobs that hold something, jobs that wait, and what these ask for."""
    running: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    pending: list[dict[str, float]] = [{} for _ in quota.paths]
    for name, slot in snapshot.slots.items():
        path = quota.paths[int(snapshot.queue[slot])]
        if snapshot.state[slot] != WAITING:
            running.update(path)
            continue
        job = snapshot.jobs[name]
        waiting.update(path)
        asked = {resource: amount * job.replicas for resource, amount in job.replica.items()}
        for row in path:
            pending[row] |= {name: pending[row].get(name, 0) + amount for name, amount in asked.items()}
    return running, waiting, pending


def _amounts(names: list[str], row: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> Amounts:
    return {name: in_units(name, int(amount)) for name, amount in zip(names, row, strict=False) if amount > 0}

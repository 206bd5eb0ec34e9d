"""More deployments than fit: which idle one goes to sleep so that another can start. Pure.

Only what may sleep makes room: a live revision whose deployment may have no replica (`min_replicas` 0), with nothing under
way. Whose last request is the longest ago goes first. A deployment with `min_replicas` 1 is pinned: it stays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aios.names import JobName, RevisionName
from aios.scheduling import DEVICE_MILLIS
from services.inference import replicas
from services.inference.deployments import Resources
from services.inference.replicas import Replica
from services.inference.revisions import Revision, State
from services.inference.rollout import Rollout

IDLE_SECONDS = 1.0
"""Without a request, at the least: who is asked right now does not make room."""


@dataclass(frozen=True)
class Choice:
    """One deployment that goes to sleep."""

    asleep: Rollout
    revision: Revision
    makes_room_for: JobName
    reason: str


def waiting(found: Iterable[Rollout]) -> list[tuple[Revision, Replica]]:
    """Replicas that wait for resources, of revisions that nobody answers for. Others have somebody who answers."""
    return [
        (revision, replica)
        for each in found
        for revision in each.revisions
        if revision.state in (State.STARTING, State.TRIAL, State.LIVE) and not revision.ready
        for replica in revision.replicas
        if replica.state is replicas.State.WAITING
    ]


def make(
    found: Sequence[Rollout],
    cramped: Iterable[JobName],
    idle: Callable[[RevisionName], float],
    made: Mapping[JobName, Sequence[Resources]],
) -> Choice | None:
    """Whom to put to sleep next; None where nobody may, or where what was freed before has yet to arrive.

    Args:
        cramped: Jobs of `waiting` that have waited long enough to conclude that there is no room.
        idle: Seconds since a revision's last request.
        made: What was freed for a job so far. Nobody sleeps for one that got what it asks for and waits all the same.
    """
    on_the_way = any(_falls_asleep(one) for each in found for one in each.revisions)
    for revision, replica in waiting(found):
        freed = made.get(replica.job, ())
        if replica.job not in cramped or (freed and on_the_way) or _covered(revision.spec.resources, freed):
            continue
        kinds = _kinds(revision.spec.resources)
        able = [
            each
            for each in found
            if (live := _sleepy(each)) is not None
            and live.name != revision.name
            and kinds <= _kinds(live.spec.resources)
            and idle(live.name) >= IDLE_SECONDS
        ]
        chosen = max(able, key=lambda each: (idle(_live(each).name), str(each.deployment.name)), default=None)
        if chosen is not None:
            live = _live(chosen)
            reason = (
                f"sleeps since {revision.name.deployment} needed room: "
                f"nobody had asked it for {idle(live.name):.0f} s"
            )
            return Choice(chosen, live, replica.job, reason)
    return None


def _kinds(asked: Resources) -> set[str]:
    return {*asked.accelerators, *asked.accelerator_millis}


def _millis(asked: Resources, kind: str) -> int:
    return DEVICE_MILLIS * asked.accelerators.get(kind, 0) + asked.accelerator_millis.get(kind, 0)


def _falls_asleep(revision: Revision) -> bool:
    leaves = (replicas.State.LEAVING, replicas.State.STOPPING)
    return not revision.wanted and any(each.state in leaves for each in revision.replicas)


def _sleepy(rollout: Rollout) -> Revision | None:
    """Its live revision, where it is awake and may sleep."""
    rule, live = rollout.deployment.spec.scaling, rollout.live
    may = bool(rule.maximum) and not rule.minimum and not rollout.deleting and rollout.latest is live
    return live if may and live is not None and live.wanted and live.ready else None


def _live(rollout: Rollout) -> Revision:
    assert rollout.live is not None
    return rollout.live


def _covered(asked: Resources, freed: Sequence[Resources]) -> bool:
    if not freed:
        return False
    return (
        sum(each.cpu_millis for each in freed) >= asked.cpu_millis
        and sum(each.memory_bytes for each in freed) >= asked.memory_bytes
        and all(sum(_millis(each, kind) for each in freed) >= _millis(asked, kind) for kind in _kinds(asked))
    )

"""What plans rest on, held in memory and kept in step with the records by what has changed since it last looked.

A queue of ten thousand jobs is read once, not at every step; and what this process has stored itself it need not read.
Nothing is remembered that the records do not say: after a restart the first look reads everything.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aios.names import JobName
from aios.records import Database, Tx
from services.scheduler import store
from services.scheduler.attempts import LIVE
from services.scheduler.jobs import FINAL, HOLDS_RESOURCES, Job, State
from services.scheduler.nodes import Node
from services.scheduler.plan import Snapshot
from services.scheduler.policies import Policy
from services.scheduler.pool import Changes
from services.scheduler.queues import Queue


@dataclass(frozen=True)
class Surroundings:
    """What jobs run in."""

    change: int
    """Of the records, as `store.pool_change` counts."""
    nodes: Sequence[Node]
    policy: Policy
    queues: dict[str, Queue]


class Mirror:
    """The live jobs and what they run in.

    Args:
        current: A stored job with what is known of it beyond the records.
    """

    def __init__(self, db: Database, current: Callable[[Job], Job]) -> None:
        self._db = db
        self._current = current
        self._around: Surroundings | None = None
        self._change = -1
        self._told: dict[int, Job] = {}
        """Changes that this process has stored, by number, which the next look need not read."""
        self._live: dict[JobName, Job] = {}
        self._queue: dict[int, Job] = {}
        """By number, as those that hold something."""
        self._holding: dict[int, Job] = {}
        self._changed: dict[JobName, Job] = {}
        self._gone: dict[JobName, None] = {}
        self._looking = asyncio.Lock()

    def get(self, name: JobName) -> Job | None:
        """A live job as it was last seen; None where there is none, or none is known yet."""
        return self._live.get(name)

    def told(self, stored: Iterable[Job]) -> None:
        """These were stored just now, and are committed."""
        for job in stored:
            self._told[job.change] = job
            self._put(job)

    def says(self, name: JobName) -> None:
        """More is known of a job than before."""
        if (job := self._live.get(name)) is not None:
            self._put(job)

    async def look(self) -> Snapshot:
        """The records as they are now."""
        async with self._looking:  # people look too, beside the step
            newest, read, around = await self._db.read(self._read)
            self._around = around
            # What was told meanwhile is newer than what was read.
            self._told = {number: job for number, job in self._told.items() if number > newest}
            newer = {job.name for job in self._told.values()}
            for job in read:
                if job.name not in newer:
                    self._put(job)
            self._change = newest
        return Snapshot(
            list(self._queue.values()),
            around.nodes,
            list(self._holding.values()),
            around.policy,
            list(around.queues.values()),
        )

    def take(self) -> Changes:
        """What has changed since this was last asked."""
        changes = Changes(tuple(self._changed.values()), tuple(self._gone))
        self._changed, self._gone = {}, {}
        return changes

    def surroundings(self, tx: Tx) -> Surroundings:
        """Nodes, policy and queues in a transaction: read only where they have changed since the last look."""
        change, known = store.pool_change(tx), self._around
        if known is not None and known.change == change:
            return known
        return Surroundings(change, store.all_nodes(tx), store.policy(tx)[0], store.all_queues(tx))

    def _read(self, tx: Tx) -> tuple[int, list[Job], Surroundings]:
        """The newest change, the jobs that have changed unless all of it was told, and what they run in."""
        # The number first: what is committed after it is seen again by the next look, which changes nothing.
        newest, read = store.newest_change(tx), list[Job]()
        if self._change < 0:
            read = store.live(tx)
        elif not all(number in self._told for number in range(self._change + 1, newest + 1)):
            read = store.changed(tx, self._change)
        return newest, read, self.surroundings(tx)

    def _put(self, job: Job) -> None:
        job = self._current(job)
        self._queue.pop(job.number, None)
        self._holding.pop(job.number, None)
        if job.state in FINAL:
            self._live.pop(job.name, None)
            self._changed.pop(job.name, None)
            self._gone[job.name] = None
            return
        self._live[job.name] = self._changed[job.name] = job
        if job.state is State.QUEUED:
            self._queue[job.number] = job
        elif job.state in HOLDS_RESOURCES and job.attempt and job.attempt.state in LIVE:
            self._holding[job.number] = job

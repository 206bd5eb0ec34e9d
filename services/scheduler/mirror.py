"""What plans rest on, held in memory and kept in step with the records by what has changed since it last looked.

A queue of ten thousand jobs is read once, not at every step. Nothing is remembered that the records do not say: after a
restart the first look reads everything.
"""

import asyncio

from aios.names import JobName
from aios.records import Database, Tx
from services.scheduler import store
from services.scheduler.jobs import FINAL, HOLDS_RESOURCES, LIVE, Job, State
from services.scheduler.plan import Snapshot


class Mirror:
    """The live jobs, by what changed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._jobs: dict[JobName, Job] | None = None
        self._change = 0
        self._looking = asyncio.Lock()

    async def look(self) -> Snapshot:
        """The records as they are now."""
        async with self._looking:  # people look too, beside the step
            return await self._db.read(self._look)

    def _look(self, tx: Tx) -> Snapshot:
        # The number first: what is committed after it is seen again by the next look, which changes nothing.
        change = store.newest_change(tx)
        if self._jobs is None:
            self._jobs = {job.name: job for job in store.live(tx)}
        elif change > self._change:
            for job in store.changed(tx, self._change):
                if job.state in FINAL:
                    self._jobs.pop(job.name, None)
                else:
                    self._jobs[job.name] = job
        self._change = change
        jobs = list(self._jobs.values())
        return Snapshot(
            [job for job in jobs if job.state is State.QUEUED],
            store.all_nodes(tx),
            [
                job
                for job in jobs
                if job.state in HOLDS_RESOURCES and job.attempt and job.attempt.state in LIVE
            ],
            store.policy(tx)[0],
            list(store.all_queues(tx).values()),
        )

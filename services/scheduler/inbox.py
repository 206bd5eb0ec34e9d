"""What nodes say of attempts, stored together: all that comes while the last of it is being stored is one change."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from aios.errors import StaleEpoch
from aios.names import JobName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.scheduler import jobs, store
from services.scheduler.attempts import Attempt
from services.scheduler.jobs import Job
from services.scheduler.mirror import Mirror

TOGETHER_MAX = 256
"""Reports that are stored as one change: more would only keep the first of them waiting."""

_log = logging.getLogger(__name__)
Said = tuple[Sequence[Attempt], "asyncio.Future[list[bool]]"]


class Inbox:
    """Takes reports and answers when they are on disk."""

    def __init__(self, db: Database, mirror: Mirror, clock: Clock) -> None:
        self._db = db
        self._mirror = mirror
        self._clock = clock
        self._waiting: list[Said] = []
        self._storing: asyncio.Task[None] | None = None

    async def put(self, said: Sequence[Attempt]) -> list[bool]:
        """Store what a node says, in the order in which it says it. False for each attempt that no longer counts."""
        if not said:
            return []
        stored: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((said, stored))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store())
        return await stored

    async def _store(self) -> None:
        try:
            while self._waiting:
                await self._store_together(self._next())
        finally:
            self._storing = None

    def _next(self) -> list[Said]:
        size, taken = 0, 0
        for said, _ in self._waiting:
            size, taken = size + len(said), taken + 1
            if size >= TOGETHER_MAX:
                break
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _store_together(self, batch: Sequence[Said]) -> None:
        said = [each for reports, _ in batch for each in reports]
        seen = {each.job: job for each in said if (job := self._mirror.get(each.job)) is not None}
        try:
            counts, stored = await self._db.write(lambda tx: take(tx, said, seen, self._clock.now()))
        except Exception as error:  # noqa: BLE001  # raised again in those who said it
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        self._mirror.told(stored)
        answers = iter(counts)
        for reports, answer in batch:
            own = [next(answers) for _ in reports]
            if not answer.done():
                answer.set_result(own)


def take(
    tx: Tx, said: Sequence[Attempt], seen: Mapping[JobName, Job], now: datetime
) -> tuple[list[bool], list[Job]]:
    """Store what nodes say, in the order in which they say it.

    Args:
        seen: Jobs as they were seen last. Those that have changed since, and those that are not among them, are read.

    Returns:
        For each report whether its attempt still counts, and the jobs that changed, as they are stored.
    """
    counts, steps, doubtful = _follow(said, seen, now)
    found = store.save_all(tx, list(steps.values())) if steps else []
    doubtful |= {name for name, job in zip(steps, found, strict=True) if job is None}
    stored = [job for job in found if job is not None]
    if doubtful:
        again = [n for n, each in enumerate(said) if each.job in doubtful]
        read = {name: job for name in doubtful if (job := store.find(tx, name)) is not None}
        fresh, steps, _ = _follow([said[n] for n in again], read, now, sure=True)
        stored += [job for job in store.save_all(tx, list(steps.values())) if job is not None]
        for n, count in zip(again, fresh, strict=True):
            counts[n] = count
    return counts, stored


def _follow(
    said: Sequence[Attempt], seen: Mapping[JobName, Job], now: datetime, *, sure: bool = False
) -> tuple[list[bool], dict[JobName, tuple[Job, list[Job]]], set[JobName]]:
    """What jobs become step by step, and of which that hangs on whether they were seen as they are.

    A change is guarded by the version that it starts from; a report that changes nothing, or counts no more, is not.
    """
    counts: list[bool] = []
    steps: dict[JobName, tuple[Job, list[Job]]] = {}
    doubtful: set[JobName] = set()
    for each in said:
        job = seen.get(each.job)
        before = steps[each.job][1][-1] if each.job in steps else job
        try:
            after = None if before is None else jobs.report(before, each, now)
        except StaleEpoch as error:
            after = None
            if sure:
                _log.info("%s", error.message)
        counts.append(after is not None)
        if job is None or after is None or after == before:
            doubtful.add(each.job)
        elif sure or each.job not in doubtful:
            steps.setdefault(each.job, (job, []))[1].append(after)
    if sure:
        return counts, steps, set()
    return counts, {name: each for name, each in steps.items() if name not in doubtful}, doubtful

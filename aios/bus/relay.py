"""From the outbox to the bus: what one service committed, all others hear."""

import asyncio
import logging

from aios.bus.bus import Bus, BusUnavailable
from aios.records import feed
from aios.records.database import Database

log = logging.getLogger(__name__)

BATCH_EVENTS = 64  # in flight at once: hides the fsync of each behind the others
MARK_SECONDS = 1.0  # a crash sends at most this much again, which JetStream and the inboxes drop
BACKOFF_SECONDS = 0.5


class Relay:
    """Publishes a service's events in the order of their revisions, also those that a crash left behind."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._sent = 0
        self._marked = 0

    async def run(self) -> None:
        """Publish until cancelled. While the bus is away, events wait in the records."""
        self._sent = self._marked = await self._db.read(feed.published)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish())
            tasks.create_task(self._mark())

    async def _publish(self) -> None:
        failing = False
        while True:
            await self._db.wait(self._sent)
            try:
                await self._publish_batch()
                failing = False
            except BusUnavailable as error:
                if not failing:
                    log.warning(
                        "events of %s wait after revision %d: %s", self._db.service, self._sent, error
                    )
                failing = True
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _publish_batch(self) -> None:
        batch = await self._db.read(
            lambda tx: feed.read(tx, self._db.service, None, None, self._sent, BATCH_EVENTS)
        )
        results = await asyncio.gather(*map(self._bus.publish, batch.events), return_exceptions=True)
        for event, result in zip(batch.events, results, strict=True):
            if result is not None:
                raise result  # those behind it that did arrive are sent again and dropped by their id
            self._sent = event.revision
        self._sent = batch.revision

    async def _mark(self) -> None:
        while True:
            await asyncio.sleep(MARK_SECONDS)
            sent = self._sent
            if sent > self._marked:
                await self._db.write(lambda tx, sent=sent: feed.mark_published(tx, sent))  # type: ignore[misc]
                self._marked = sent

"""From the outbox to the bus: what one service committed, all others hear."""

import asyncio
import logging
from contextlib import suppress
from functools import partial

from aios.bus.bus import Bus, BusUnavailable
from aios.cancellation import leave_if_cancelled
from aios.records import feed
from aios.records.database import Database

log = logging.getLogger(__name__)

BATCH_EVENTS = 64  # in flight at once: hides the fsync of each behind the others
MARK_SECONDS = 1.0  # a crash sends at most this much again, which JetStream and the inboxes drop
BACKOFF_SECONDS = 0.5
# Somebody may delete the stream under a connection that lasts: how soon what was in it goes out again.
SAME_STREAM_SECONDS = 30.0


class Relay:
    """Publishes a service's events in the order of their revisions, also those that a crash left behind."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._stream = ""
        self._sent = 0
        self._marked = 0

    async def run(self) -> None:
        """Publish until cancelled. While the bus is away, events wait in the records; one that was wiped gets them all
        again, as far back as the log goes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish())
            tasks.create_task(self._mark())

    async def _publish(self) -> None:
        failing = False
        while True:
            try:
                async with self._bus.one_connection():
                    await self._find_place()
                    failing = False
                    await self._publish_on()
            except BusUnavailable as error:
                if not failing:
                    log.warning(
                        "events of %s wait after revision %d: %s", self._db.service, self._sent, error
                    )
                failing = True
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _find_place(self) -> None:
        stream, before = await self._bus.ensure_streams(), self._stream
        if stream == before:
            return
        at = await self._db.write(lambda tx: feed.start_stream(tx, stream))
        if before:
            log.warning(
                "the bus was wiped: events of %s go out again after revision %d", self._db.service, at
            )
        self._stream, self._sent, self._marked = stream, at, at

    async def _publish_on(self) -> None:
        """Publish for as long as it is certain to be the same stream."""
        until = asyncio.get_running_loop().time() + SAME_STREAM_SECONDS
        with suppress(TimeoutError):
            while asyncio.get_running_loop().time() < until:
                leave_if_cancelled()
                async with asyncio.timeout_at(until):
                    await self._db.wait(self._sent)
                await self._publish_batch()

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
            sent, stream = self._sent, self._stream
            if sent > self._marked:
                await self._db.write(partial(feed.mark_published, revision=sent, stream=stream))
                self._marked = sent

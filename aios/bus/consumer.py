"""From the bus into a service's records: each event takes effect once."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from opentelemetry.trace import SpanKind
from sqlalchemy import insert, select

from aios.bus import cloudevents
from aios.bus.bus import BATCH_MESSAGES, Bus, BusUnavailable, fetch
from aios.bus.dead import DeadEvents
from aios.errors import AiosError, Code
from aios.records.database import Database, WritesOverloaded
from aios.records.dialect import RecordsFull, RecordsUnavailable
from aios.records.events import Event
from aios.records.tables import inbox
from aios.records.tx import Tx
from aios.runtime import telemetry

log = logging.getLogger(__name__)

Handler = Callable[[Tx, Event], None]
"""Applies one event. Runs in the transaction that remembers the event, so both happen or neither."""

ACK_SECONDS = 30.0  # a consumer that died with a message gives it back after this
DELIVERIES_MAX = 5
# Pauses before each further delivery: longer than a restart in the end, shorter than anyone's patience.
BACKOFF_SECONDS = (0.5, 2.0, 5.0, 15.0)
RECONNECT_SECONDS = 0.5
# What may pass by itself. Every other error of the catalogue is the message's own fault.
TRANSIENT = frozenset(
    {
        Code.ABORTED,
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.RESOURCE_EXHAUSTED,
        Code.UNAVAILABLE,
        Code.UNKNOWN,
    }
)


class Consumer:
    """Applies the events of one subject to a service's records, surviving crashes of either side.

    Order is that of the bus for what goes well; after a failure later events overtake. A handler that cares compares
    `event.revision` with what it has.

    Args:
        durable: Name of this consumer, the same after a restart: `trainer-jobs`. Letters, digits and hyphens.
        subject: What it hears: `cloudevents.subject("scheduler", "job")`.
        handler: Raises an error of the catalogue that no retry can help (INVALID_ARGUMENT, NOT_FOUND, ...) to put the
            event aside at once; whatever else it raises is tried `DELIVERIES_MAX` times, then put aside.
    """

    def __init__(self, bus: Bus, db: Database, durable: str, subject: str, handler: Handler) -> None:
        self._bus = bus
        self._db = db
        self._dead = DeadEvents(bus)
        self._durable = durable
        self._handler = handler
        self._config = ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_SECONDS,
            max_deliver=DELIVERIES_MAX,
            max_ack_pending=4 * BATCH_MESSAGES,
        )

    async def run(self) -> None:
        """Consume until cancelled. Waits for a bus that is away, and starts over on one that was wiped."""
        while True:
            try:
                async with self._bus.one_connection():
                    await self._consume(await self._bus.pull(self._config))
            except (BusUnavailable, nats.errors.Error) as error:
                log.debug("consumer %s starts over: %s", self._durable, error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _consume(self, source: JetStreamContext.PullSubscription) -> None:
        try:
            while True:
                await asyncio.gather(*map(self._handle, await fetch(source)))
        finally:
            with suppress(nats.errors.Error):  # the connection may be gone, and the subscription with it
                await source.unsubscribe()

    async def _handle(self, message: Msg) -> None:
        try:
            event = cloudevents.decode(message.headers, message.data)
        except cloudevents.NotAnEvent as error:
            await self._put_aside(message, error)
            return
        attributes = {"messaging.destination.name": message.subject, "messaging.message.id": event.id}
        try:
            with telemetry.span(
                f"consume {event.noun}.{event.type}",
                traceparent=event.traceparent or None,
                attributes=attributes,
                kind=SpanKind.CONSUMER,
            ):
                await self._write(message, lambda tx: self._apply(tx, event))
        except Exception as error:  # a handler's failure must not stop the others
            transient = not isinstance(error, AiosError) or error.code in TRANSIENT
            delivery = message.metadata.num_delivered
            if not transient or delivery >= DELIVERIES_MAX:
                await self._put_aside(message, error)
                return
            log.warning(
                "%s failed on event %s, delivery %d", self._durable, event.id, delivery, exc_info=error
            )
            await message.nak(delay=BACKOFF_SECONDS[delivery - 1])
        else:
            # Lost acks cost a redelivery that the inbox drops.
            await message.ack()

    def _apply(self, tx: Tx, event: Event) -> None:
        key = {"consumer": self._durable, "event_id": event.id}
        if tx.execute(select(inbox.c.event_id).filter_by(**key)).first() is not None:
            return
        tx.execute(insert(inbox).values(**key, time=tx.now()))
        self._handler(tx, event)

    async def _put_aside(self, message: Msg, error: Exception) -> None:
        """Keep a message that no retry can help where a person finds it, and let the others pass."""
        log.error("%s puts %s aside: %r", self._durable, message.subject, error)
        # Where that fails, it comes again; the last time the server gives it up and `DeadEvents.collect` keeps it.
        await self._dead.keep(self._durable, message, repr(error))
        await message.term()

    async def _write(self, message: Msg, fn: Callable[[Tx], None]) -> None:
        """Write, for as long as it is the records and not the message that fail: that must not use up deliveries."""
        while True:
            try:
                return await self._db.write(fn)
            except (RecordsUnavailable, RecordsFull, WritesOverloaded) as error:
                log.warning("%s waits for its records: %s", self._durable, error)
                await message.in_progress()
                await asyncio.sleep(BACKOFF_SECONDS[0])

"""Messages that consumers gave up: kept in a stream of their own until a person has looked at them."""

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RawStreamMsg
from nats.js.errors import NotFoundError

from aios.bus.bus import Bus, BusUnavailable, fetch
from aios.bus.cloudevents import Message
from aios.bus.streams import ADVISORIES_NAME, DEAD_NAME, EVENTS_NAME, MAX_DELIVERIES
from aios.errors import NotFound

log = logging.getLogger(__name__)

ERROR_CHARS_MAX = 2_000
RECONNECT_SECONDS = 0.5
# What the server reads in a header is an order to it: a message that was given up gives none.
_ORDERS = "nats-"
_CONSUMER, _SUBJECT, _DELIVERIES, _ERROR = (
    "Aios-Dead-Consumer",
    "Aios-Dead-Subject",
    "Aios-Dead-Deliveries",
    "Aios-Dead-Error",
)
_OURS = (_CONSUMER, _SUBJECT, _DELIVERIES, _ERROR)


class DeadEventNotFound(NotFound):
    """No such message is kept: it was delivered again, deleted, or it is older than 30 days."""

    reason = "DEAD_EVENT_NOT_FOUND"


@dataclass(frozen=True)
class DeadEvent:
    """One message, and why who gave it up."""

    sequence: int
    """Names it: a later one is greater."""
    time: datetime
    """When it was given up. UTC."""
    consumer: str
    subject: str
    deliveries: int
    error: str
    headers: Mapping[str, str]
    """As it came: those of CloudEvents where it was an event."""
    data: bytes


class DeadEvents:
    """Keeps them, shows them, sends them again."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def keep(self, consumer: str, message: Msg, error: str) -> None:
        """Return once the message is kept. The same one twice is kept once."""
        at = message.metadata
        letter = _letter(
            consumer,
            message.subject,
            message.headers,
            message.data,
            at.num_delivered,
            error,
            at.sequence.stream,
        )
        await self._bus.send(letter)

    async def list(self, after: int, limit: int) -> list[DeadEvent]:
        """The next ones after a sequence, oldest first."""
        found: list[DeadEvent] = []
        with suppress(NotFoundError):
            async with self._bus.asking() as js:
                while len(found) < limit:
                    kept = await js.get_msg(DEAD_NAME, seq=after + 1, subject="dead.>", next=True)
                    found.append(_event(kept))
                    after = found[-1].sequence
        return found

    async def redeliver(self, sequence: int) -> DeadEvent:
        """Publish it again, to every consumer of its subject, and keep it no longer. Whoever had its effect drops it.

        Raises:
            DeadEventNotFound: No such message is kept.
        """
        event = await self.get(sequence)
        headers = {**event.headers, "Nats-Msg-Id": str(uuid.uuid4())}
        await self._bus.send(Message(event.subject, headers, event.data))
        await self.drop(sequence)
        return event

    async def get(self, sequence: int) -> DeadEvent:
        """One of them.

        Raises:
            DeadEventNotFound: No such message is kept.
        """
        try:
            async with self._bus.asking() as js:
                return _event(await js.get_msg(DEAD_NAME, sequence))
        except NotFoundError:
            raise DeadEventNotFound(f"no dead event {sequence} is kept", sequence=str(sequence)) from None

    async def drop(self, sequence: int) -> None:
        """Keep it no longer. One that is not kept is no error."""
        with suppress(NotFoundError):
            async with self._bus.asking() as js:
                await js.delete_msg(DEAD_NAME, sequence)

    async def collect(self) -> None:
        """Keep what the server gave up itself, until cancelled: a consumer that dies with a message cannot."""
        config = ConsumerConfig(
            durable_name="dead-events",
            filter_subject=MAX_DELIVERIES,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
        )
        while True:
            try:
                async with self._bus.one_connection():
                    source = await self._bus.pull(config, ADVISORIES_NAME)
                    while True:
                        for advisory in await fetch(source):
                            await self._keep_what_is_gone(advisory)
                            await advisory.ack()
            except (BusUnavailable, nats.errors.Error) as error:
                log.debug("dead events are collected anew: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _keep_what_is_gone(self, advisory: Msg) -> None:
        told = json.loads(advisory.data)
        if told["stream"] != EVENTS_NAME:
            return
        consumer, sequence, deliveries = told["consumer"], int(told["stream_seq"]), int(told["deliveries"])
        try:
            async with self._bus.asking() as js:
                lost = await js.get_msg(EVENTS_NAME, sequence)
        except NotFoundError:
            log.error("%s gave up message %d, which is gone", consumer, sequence)
            return
        assert lost.subject is not None
        why = f"delivered {deliveries} times and never settled: its consumer died or hung each time"
        log.error("%s: %s %s", consumer, lost.subject, why)
        data = lost.data or b""
        await self._bus.send(_letter(consumer, lost.subject, lost.headers, data, deliveries, why, sequence))


def _letter(
    consumer: str,
    subject: str,
    headers: Mapping[str, str] | None,
    data: bytes,
    deliveries: int,
    error: str,
    sequence: int,
) -> Message:
    kept = {name: value for name, value in (headers or {}).items() if not name.lower().startswith(_ORDERS)}
    ours = {
        _CONSUMER: consumer,
        _SUBJECT: subject,
        _DELIVERIES: str(deliveries),
        _ERROR: " ".join(error.split())[:ERROR_CHARS_MAX],
        # Kept once, though it may be given up twice before the server hears of it.
        "Nats-Msg-Id": f"{consumer}.{sequence}",
    }
    return Message(f"dead.{consumer}", kept | ours, data)


def _event(kept: RawStreamMsg) -> DeadEvent:
    assert kept.seq is not None
    headers = dict(kept.headers or {})
    return DeadEvent(
        sequence=kept.seq,
        time=kept.time.astimezone(UTC) if kept.time else datetime.min.replace(tzinfo=UTC),
        consumer=headers.get(_CONSUMER, ""),
        subject=headers.get(_SUBJECT, ""),
        deliveries=int(headers.get(_DELIVERIES, "0")),
        error=headers.get(_ERROR, ""),
        headers={k: v for k, v in headers.items() if k not in _OURS and not k.lower().startswith(_ORDERS)},
        data=kept.data or b"",
    )

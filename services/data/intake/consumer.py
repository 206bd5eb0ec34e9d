"""From the stream into rows: what a device sent takes effect once, whatever dies on the way."""

import asyncio
import logging

import nats.errors

from aios.bus import Bus, BusUnavailable, Devices, Gap, Published
from aios.records import Database
from aios.records.database import WritesOverloaded
from aios.records.dialect import RecordsFull, RecordsUnavailable
from services.data.intake import store
from services.data.intake.door import Door
from services.data.intake.sources import device_of
from services.data.intake.store import Message

PREFIX = "ingest"
AGAIN_SECONDS = 0.5
FORGET_MESSAGES = 512  # taken in before the stream is told to drop them

_log = logging.getLogger(__name__)


class Overtaken(Exception):
    """Another process of this service has read further. Go on from there."""


class Intake:
    """Reads the stream, and lets devices in while it is there."""

    def __init__(self, bus: Bus, db: Database, door: Door) -> None:
        self._bus = bus
        self._db = db
        self._door = door
        self._devices = Devices(bus)

    async def run(self) -> None:
        """Take messages in until cancelled. Waits for a bus that is away, and starts over on one that was wiped."""
        while True:
            try:
                async with self._bus.one_connection():
                    stream = await self._devices.ensure()
                    async with self._devices.letting_in(PREFIX, self._door.answer):
                        await self._read(stream)
            except (BusUnavailable, nats.errors.Error, Gap, Overtaken) as error:
                _log.debug("messages of devices are read again: %r", error)
            except (RecordsUnavailable, RecordsFull, WritesOverloaded) as error:
                _log.warning("messages of devices wait for the records: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _read(self, stream: str) -> None:
        place = await self._db.read(lambda tx: store.position(tx, stream))
        forgotten = 0
        async for batch in self._devices.read(PREFIX, place):
            if batch:
                await self._take_in(stream, place, batch)
                place = batch[-1].sequence
            if place > forgotten and (not batch or place - forgotten >= FORGET_MESSAGES):
                await self._devices.forget(place)
                forgotten = place

    async def _take_in(self, stream: str, place: int, batch: list[Published]) -> None:
        messages = [message for each in batch if (message := _message(stream, each)) is not None]
        last = batch[-1].sequence
        if not await self._db.write(lambda tx: store.take_in(tx, stream, place, messages, last)):
            raise Overtaken


def _message(stream: str, published: Published) -> Message | None:
    device = device_of(published.subject.removeprefix(f"{PREFIX}.").replace(".", "/"))
    if device is None:
        return None
    return Message(stream, published.sequence, device, published.data, published.time)

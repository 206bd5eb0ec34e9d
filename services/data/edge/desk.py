"""Answers devices over the bus: what they should run, and that their figures are added up."""

import asyncio
import base64
import json
import logging
from typing import Any

import nats.errors

from aios.blobs import Blobs
from aios.bus import Asked, Bus, BusUnavailable
from aios.errors import AiosError
from aios.names import EdgeDeviceName
from aios.records import Database, Tx
from services.data import layout
from services.data.edge import store
from services.data.edge.devices import read_ask, read_report, subject_of

ASKED = "edge.*.*.ask"
METRICS = "edge.*.*.metrics"
LOOK_SECONDS = 2.0
AGAIN_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Desk:
    """Whoever asks was let in as the device that its subject names: the bus sees to that."""

    def __init__(self, bus: Bus, db: Database, blobs: Blobs) -> None:
        self._bus = bus
        self._db = db
        self._blobs = blobs
        self._told: dict[EdgeDeviceName, tuple[str, str]] = {}

    async def run(self) -> None:
        """Answer, and tell devices when they should run something else. Runs until cancelled."""
        while True:
            try:
                async with (
                    self._bus.one_connection(),
                    self._bus.answering(ASKED, self._ask, inbox),
                    self._bus.answering(METRICS, self._metrics, inbox),
                ):
                    while True:
                        await self._tell()
                        await asyncio.sleep(LOOK_SECONDS)
            except (BusUnavailable, nats.errors.Error) as error:
                _log.debug("edge devices are answered again: %r", error)
            except AiosError as error:
                _log.warning("edge devices wait: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _tell(self) -> None:
        """A hint to ask again: who misses it asks by itself, every 30 s."""
        now = await self._db.read(store.everybodys)
        for name, what in now.items():
            if self._told.get(name) != what:
                await self._bus.say(f"{subject_of(name)}.told", b"{}")
        self._told = now

    async def _ask(self, asked: Asked) -> bytes:
        name, said = _device(asked.subject), read_ask(asked.data)

        def write(tx: Tx) -> store.Bundle | None:
            found = store.wanted(tx, name)
            store.seen(tx, name, said)
            return found

        bundle = await self._db.write(write)
        if bundle is None:
            return b"{}"
        await self._blobs.ready(name.project)
        url = self._blobs.presigned_get(layout.blob(name.project, bundle.file_sha256)).url
        answer: dict[str, Any] = {
            "model_version": str(bundle.version),
            "manifest": base64.b64encode(bundle.manifest).decode(),
            "signature": bundle.signature.hex(),
            "url": url,
            "sha256": bundle.file_sha256,
            "size_bytes": bundle.size_bytes,
        }
        return json.dumps(answer).encode()

    async def _metrics(self, asked: Asked) -> bytes:
        name, report = _device(asked.subject), read_report(asked.data)
        through = await self._db.write(lambda tx: store.take_in(tx, name, report))
        return json.dumps({"stream": report.stream, "through": through}).encode()


def inbox(subject: str) -> str:
    """Below which a device may hear answers."""
    return f"{subject_of(_device(subject))}.inbox."


def _device(subject: str) -> EdgeDeviceName:
    _, project, device, _ = subject.split(".")
    return EdgeDeviceName(project, device)

"""What a device has answered: counted in memory, kept on the leaf node's disk, and told to the platform once."""

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from aios.cancellation import leave_if_cancelled
from aios.names import new_id

STREAM, SUBJECT = "FIGURES", "figures"
KEEP_SECONDS = 10.0  # what a kill -9 may lose
RECORDS_AT_ONCE = 256
REQUEST_SECONDS = 5.0
KEPT = StreamConfig(
    name=STREAM,
    subjects=[SUBJECT],
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,  # a device that is never back online forgets the oldest, after months
    max_bytes=64 * 1024 * 1024,
)


@dataclass
class Count:
    """Of one version, since it was last kept."""

    requests: int = 0
    errors: int = 0
    predictions: int = 0
    micros: int = 0


class Counter:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}

    def add(self, version: str, predictions: int, seconds: float, failed: bool = False) -> None:
        """One request."""
        with self._lock:
            count = self._counts.setdefault(version, Count())
            count.requests += 1
            count.errors += failed
            count.predictions += predictions
            count.micros += int(seconds * 1e6)

    def take(self) -> dict[str, Count]:
        """What was counted since it was last taken."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return taken


class Figures:
    """Records in a stream on this device; those that the platform has added up are dropped.

    The platform knows how far it has read this stream, so a record that is told again adds nothing.
    """

    def __init__(self, client: Client, counter: Counter, subject: str) -> None:
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=REQUEST_SECONDS)
        self._counter = counter
        self._subject = subject
        self._unkept: list[tuple[str, bytes]] = []

    async def keep(self) -> None:
        """Write what was counted to disk. What fails is kept next time, under the same id: once."""
        for version, count in self._counter.take().items():
            self._unkept.append((new_id("f"), json.dumps({"version": version, **vars(count)}).encode()))
        while self._unkept:
            name, record = self._unkept[0]
            await self._js.publish(SUBJECT, record, headers={"Nats-Msg-Id": name})
            self._unkept.pop(0)

    async def tell(self) -> int:
        """Tell the platform what it does not have yet, in order. Returns how many records it has taken.

        Raises:
            nats.errors.Error: it cannot be reached, or does not answer.
        """
        try:
            info = await self._js.stream_info(STREAM)
        except NotFoundError:
            info = await self._js.add_stream(KEPT)
        if not info.state.messages:
            return 0
        first = info.state.first_seq
        last = min(info.state.last_seq, first + RECORDS_AT_ONCE - 1)
        records = [await self._record(number) for number in range(first, last + 1)]
        assert info.created is not None
        said = {"stream": info.created.isoformat(), "records": [each for each in records if each]}
        answer = await self._client.request(
            f"{self._subject}.metrics", json.dumps(said).encode(), timeout=REQUEST_SECONDS
        )
        told = json.loads(answer.data)
        if told.get("stream") != said["stream"] or int(told["through"]) < last:
            return 0
        await self._js.purge_stream(STREAM, seq=last + 1)
        return len(records)

    async def run(self) -> None:
        """Keep and tell until cancelled."""
        while True:
            leave_if_cancelled()
            try:
                while await self._kept_and_told() == RECORDS_AT_ONCE:
                    pass
            except (nats.errors.Error, TimeoutError, ValueError, KeyError):
                pass  # the platform is away: the figures wait on disk
            await asyncio.sleep(KEEP_SECONDS)

    async def _kept_and_told(self) -> int:
        try:
            await self.keep()
        except nats.errors.Error:  # no stream yet: `tell` makes it
            await self.tell()
            await self.keep()
        return await self.tell()

    async def _record(self, number: int) -> dict[str, Any] | None:
        try:
            found = await self._js.get_msg(STREAM, seq=number)
        except NotFoundError:  # dropped meanwhile, for newer ones
            return None
        return {**json.loads(found.data or b"{}"), "sequence": number}

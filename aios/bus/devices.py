"""What devices publish over MQTT, read in order from a place that the reader keeps; and who is connected."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from aios.bus.bus import Bus, BusUnavailable, ensure, fetch
from aios.bus.cloudevents import Message
from aios.bus.streams import DEVICES, DEVICES_NAME, DEVICES_SUBJECTS
from aios.config import Settings
from aios.errors import FailedPrecondition
from aios.runtime.peers import Peer

log = logging.getLogger(__name__)

Answer = Callable[[bytes], Awaitable[bytes]]
"""Says to the server, in its own way, whether a caller may come in."""
WHO = "$SYS.REQ.USER.AUTH"
QOS = "Nmqtt-Pub"
READER_SECONDS = 60.0  # after which the server forgets a reader that went away
REQUEST_SECONDS = 2.0
CONNECTIONS_AT_ONCE = 256  # of one answer: some 200 KiB


@dataclass(frozen=True)
class Published:
    """One message, where it lies in the stream."""

    sequence: int
    subject: str
    """The topic, with dots."""
    data: bytes
    time: datetime
    """When the server took it."""


class Gap(Exception):
    """A message was lost on its way here: read again from the place that is kept."""


class Devices:
    """The stream of everything that devices publish."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ensure(self) -> str:
        """Make the stream. Until then devices must not be let in: the server would make another one, that keeps less.

        Returns:
            Which stream this is: another one, whose sequences begin anew, once somebody wiped the server.

        Raises:
            BusUnavailable
        """
        async with self._bus.asking() as js:
            created = (await ensure(js, DEVICES)).created
        assert created is not None
        return created.isoformat()

    @asynccontextmanager
    async def letting_in(self, prefix: str, answer: Answer) -> AsyncIterator[None]:
        """While a block runs, ask `answer` who may come in, and keep what is published below a subject with QoS 0 too.

        The server keeps the rest by itself. Use it within `Bus.one_connection`, once the stream is there.
        """

        async def reply(message: Msg) -> None:
            await message.respond(await answer(message.data))

        async def keep(message: Msg) -> None:
            if (message.headers or {}).get(QOS) != "0":
                return
            try:
                await self._bus.send(Message(f"{DEVICES_SUBJECTS}{message.subject}", {}, message.data))
            except BusUnavailable as error:  # nobody was promised that it would be kept
                log.warning("a message of %s with QoS 0 is lost: %s", message.subject, error)

        async with self._bus.listening(WHO, reply), self._bus.listening(f"{prefix}.>", keep):
            yield

    async def read(self, prefix: str, after: int) -> AsyncIterator[list[Published]]:
        """Messages below a subject, in batches, in order, each once. Use it within `Bus.one_connection`.

        Nothing is acknowledged: whoever reads keeps the place with the effect, and comes back to it after a crash.

        Args:
            after: The last sequence that had its effect.

        Raises:
            Gap, BusUnavailable
        """
        config = ConsumerConfig(
            filter_subject=f"{DEVICES_SUBJECTS}{prefix}.>",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=READER_SECONDS,
            mem_storage=True,
        )
        expected = 1
        try:
            async with self._bus.asking() as js:
                made = await js.add_consumer(DEVICES_NAME, config)
                source = await js.pull_subscribe_bind(consumer=made.name, stream=DEVICES_NAME)
        except NotFoundError as error:
            raise BusUnavailable(f"stream {DEVICES_NAME} went away") from error
        try:
            while True:
                found = []
                for message in await fetch(source):
                    at = message.metadata
                    if at.sequence.consumer != expected:
                        raise Gap
                    expected += 1
                    subject = message.subject.removeprefix(DEVICES_SUBJECTS)
                    found.append(Published(at.sequence.stream, subject, message.data, at.timestamp))
                yield found
        finally:
            with suppress(nats.errors.Error):  # the connection may be gone, and the subscription with it
                await source.unsubscribe()

    async def forget(self, through: int) -> None:
        """Drop what was taken in, up to a sequence.

        Raises:
            BusUnavailable
        """
        with suppress(NotFoundError):
            async with self._bus.asking() as js:
                await js.purge_stream(DEVICES_NAME, seq=through + 1)


@dataclass(frozen=True)
class Connected:
    """One device that is connected."""

    server: str
    id: int
    user: str
    since: datetime


class Connections:
    """Which devices are connected to the server now, asked with the account that may close connections."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect.

        Raises:
            BusUnavailable, FailedPrecondition
        """
        path, peer = settings.secret("nats-system.json"), Peer.of(settings)
        try:
            known = json.loads(await asyncio.to_thread(path.read_text))
            client = await nats.connect(
                settings.nats_url,
                name="aios-doorkeeper",
                user=str(known["user"]),
                password=str(known["password"]),
                allow_reconnect=False,
                tls=peer.client_context() if peer else None,
            )
        except (nats.errors.Error, TimeoutError, ConnectionError) as error:
            raise BusUnavailable(f"NATS cannot be reached: {error!r}") from error
        except (OSError, ValueError, KeyError) as error:
            raise FailedPrecondition(f"{path} must be JSON with user and password: {error!r}") from error
        return cls(client)

    async def close(self) -> None:
        await self._client.close()

    async def all(self) -> list[Connected]:
        """Every device that is connected.

        Raises:
            BusUnavailable
        """
        found: list[Connected] = []
        offset = 0
        while True:
            asked = {"auth": True, "offset": offset, "limit": CONNECTIONS_AT_ONCE}
            told = await self._ask("$SYS.REQ.SERVER.PING.CONNZ", asked)
            page = told["data"].get("connections") or []
            found += [
                Connected(
                    str(told["server"]["id"]),
                    int(each["cid"]),
                    str(each.get("authorized_user", "")),
                    datetime.fromisoformat(str(each["start"])),
                )
                for each in page
                if each.get("mqtt_client") or each.get("kind") == "Leafnode"
            ]
            offset += len(page)
            if not page or offset >= int(told["data"].get("total", 0)):
                return found

    async def end(self, connected: Connected) -> None:
        """Close a connection. One that is gone already is no error.

        Raises:
            BusUnavailable
        """
        await self._ask(f"$SYS.REQ.SERVER.{connected.server}.KICK", {"cid": connected.id})

    async def _ask(self, subject: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._client.request(subject, json.dumps(asked).encode(), timeout=REQUEST_SECONDS)
        except (nats.errors.Error, TimeoutError) as error:
            raise BusUnavailable(f"NATS did not answer: {error!r}") from error
        told: dict[str, Any] = json.loads(answer.data)
        return told

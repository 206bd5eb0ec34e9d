"""One process's connection to NATS JetStream."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig, StreamInfo
from nats.js.errors import BadRequestError, NotFoundError

from aios.bus import cloudevents
from aios.bus.cloudevents import Message
from aios.bus.streams import ADVISORIES, DEAD, EVENTS, EVENTS_NAME
from aios.cancellation import leave_if_cancelled
from aios.config import Settings
from aios.errors import AiosError, FailedPrecondition, Unavailable
from aios.records.events import Event
from aios.runtime import meters
from aios.runtime.peers import Peer

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0  # how long start-up waits: the bus may come later than the service
RECONNECT_SECONDS = 0.5
REQUEST_SECONDS = 5.0
BATCH_MESSAGES = 64
ANSWERS_AT_ONCE = 16
PACE_SECONDS = 0.05
WAITING_MAX, WAITING_BYTES_MAX = 4096, 16 << 20  # heard and not looked at yet: what comes then is dropped
FETCH_SECONDS = 5.0
PING_SECONDS = 10  # a server that stopped without closing is noticed after two of these


@dataclass(frozen=True)
class Asked:
    """A request that came over the bus."""

    subject: str
    data: bytes


class BusUnavailable(Unavailable):
    """NATS cannot be reached now. Events wait in the outbox."""

    reason = "BUS_UNAVAILABLE"


class Bus:
    """A connection that comes back by itself, and the streams it makes sure of."""

    def __init__(self) -> None:
        self._client = Client()
        self._js: JetStreamContext = self._client.jetstream(timeout=REQUEST_SECONDS)
        self._connecting: asyncio.Task[None] | None = None
        self._down = False
        self._in_use: set[asyncio.Timeout] = set()

    @classmethod
    async def connect(cls, settings: Settings, service: str) -> Self:
        """Connect, and wait for it at most `CONNECT_SECONDS`: it goes on in the background for as long as it takes.

        Raises:
            FailedPrecondition: There are no credentials, so that connecting can never succeed.
        """
        user, password = _credentials(settings)
        bus, peer = cls(), Peer.of(settings)
        meters.observe("aios.bus.connected", "Whether the event bus answers.", lambda: bus.connected)
        connect = bus._client.connect(
            settings.nats_url,
            name=f"aios-{service}",
            user=user,
            password=password,
            error_cb=bus._on_error,
            disconnected_cb=bus._on_disconnect,
            reconnected_cb=bus._on_connect,
            connect_timeout=CONNECT_SECONDS,  # type: ignore[arg-type]  # any number of seconds
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=PING_SECONDS,
            tls=peer.client_context() if peer else None,
        )

        async def first() -> None:
            await connect
            await bus._on_connect()

        bus._connecting = asyncio.create_task(first(), name="bus-connect")
        await asyncio.wait([bus._connecting], timeout=CONNECT_SECONDS)
        return bus

    @property
    def connected(self) -> bool:
        """Whether the server answers right now."""
        return bool(self._client.is_connected)

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._client.close()

    @asynccontextmanager
    async def one_connection(self) -> AsyncIterator[None]:
        """Run a block on one connection: a new one, to what may be another server, ends it with BusUnavailable."""
        self._require_connection()
        try:
            async with asyncio.timeout(None) as scope:
                self._in_use.add(scope)
                try:
                    yield
                finally:
                    self._in_use.discard(scope)
        except TimeoutError as error:
            raise BusUnavailable("NATS was connected anew", retry_after=_RETRY) from error

    @asynccontextmanager
    async def listening(self, subject: str, hear: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
        """Hear a subject while a block runs, as one of all who do: each message goes to one of them. Use it within
        `one_connection`."""
        heard = await self._client.subscribe(
            subject,
            queue="aios",
            cb=hear,
            pending_msgs_limit=WAITING_MAX,
            pending_bytes_limit=WAITING_BYTES_MAX,
        )
        try:
            yield
        finally:
            with suppress(nats.errors.Error):  # the connection may be gone, and the subscription with it
                await heard.unsubscribe()

    @asynccontextmanager
    async def answering(
        self,
        subject: str,
        answer: Callable[[Asked], Awaitable[bytes]],
        inbox: Callable[[str], str],
    ) -> AsyncIterator[None]:
        """Answer strangers on a subject while a block runs, as `listening`, several at a time. What fails gets no
        answer: whoever asks asks again.

        One question of a subject is answered at a time, and `PACE_SECONDS` apart: what comes meanwhile is dropped, so
        that whoever asks without waiting takes nothing from the others.

        Args:
            inbox: Where answers to a subject go, as the beginning of subjects. What is to be answered elsewhere is
                dropped: the server does not look at where a leaf node wants an answer, and we may publish anywhere.
        """
        running: dict[str, asyncio.Task[None]] = {}
        room = asyncio.Semaphore(ANSWERS_AT_ONCE)

        async def reply(message: Msg) -> None:
            ready = asyncio.get_running_loop().time() + PACE_SECONDS
            try:
                async with room:
                    said = await answer(Asked(message.subject, message.data))
                await asyncio.sleep(ready - asyncio.get_running_loop().time())
                # Its headers are not repeated: others would take them for ours.
                await self._client.publish(message.reply, said)
            except (AiosError, nats.errors.Error, ValueError) as error:
                log.warning("%s got no answer: %s", message.subject, error)
                await asyncio.sleep(ready - asyncio.get_running_loop().time())
            finally:
                running.pop(message.subject, None)

        async def hear(message: Msg) -> None:
            if message.subject not in running and message.reply.startswith(inbox(message.subject)):
                running[message.subject] = asyncio.create_task(reply(message))

        try:
            async with self.listening(subject, hear):
                yield
        finally:
            for task in [*running.values()]:
                task.cancel()

    async def say(self, subject: str, data: bytes) -> None:
        """Publish what nobody keeps, to whoever listens now.

        Raises:
            BusUnavailable
        """
        async with self.asking():
            await self._client.publish(subject, data)

    async def publish(self, event: Event) -> None:
        """Return once the event is on the server's disk. Publishing the same event again changes nothing.

        Raises:
            BusUnavailable: It may or may not have arrived, or somebody wiped the server: `ensure_streams`, then publish
                it again.
        """
        await self.send(cloudevents.encode(event))

    async def send(self, message: Message) -> None:
        """`publish`, for a message that is ready made."""
        async with self.asking():
            await self._js.publish(message.subject, message.data, headers=dict(message.headers))

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[JetStreamContext]:
        """JetStream, for what no other method does. What the server fails at is BusUnavailable, all but NOT_FOUND."""
        self._require_connection()
        try:
            yield self._js
        except NotFoundError:
            raise
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"NATS did not do it: {error!r}", retry_after=_RETRY) from error

    async def pull(
        self, config: ConsumerConfig, stream: str = EVENTS_NAME
    ) -> JetStreamContext.PullSubscription:
        """A subscription to the durable consumer of this configuration, made or brought up to date.

        It is of this connection: use it within `one_connection`.

        Raises:
            BusUnavailable: Try again.
        """
        assert config.durable_name is not None
        await self.ensure_streams()
        try:
            async with self.asking() as js:
                await js.add_consumer(stream, config)
                return await js.pull_subscribe_bind(durable=config.durable_name, stream=stream)
        except NotFoundError as error:
            raise BusUnavailable(f"stream {stream} went away", retry_after=_RETRY) from error

    async def ensure_streams(self) -> str:
        """Make the streams that do not exist, and bring the others up to date.

        Returns:
            Which stream of events this is: another one once somebody wiped the server.
        """
        async with self.asking() as js:
            for stream in (DEAD, ADVISORIES):
                await ensure(js, stream)
            created = (await ensure(js, EVENTS)).created
        assert created is not None
        return created.isoformat()

    def _require_connection(self) -> None:
        # The client would buffer and answer with a timeout; saying so at once keeps callers honest.
        if not self.connected:
            raise BusUnavailable("NATS is not connected", retry_after=_RETRY)

    async def _on_connect(self) -> None:
        self._down = False
        for scope in self._in_use:
            scope.reschedule(0)
        log.info("connected to NATS at %s", self._client.connected_url and self._client.connected_url.netloc)

    async def _on_disconnect(self) -> None:
        self._say_down("the connection closed")

    async def _on_error(self, error: Exception) -> None:
        self._say_down(repr(error))

    def _say_down(self, why: str) -> None:
        if not self._down and not self._client.is_closed:  # once, not at each attempt
            log.warning("NATS cannot be reached, events wait: %s", why)
        self._down = True


_RETRY = timedelta(seconds=1)
_STREAM_NAME_IN_USE = 10058


async def fetch(source: JetStreamContext.PullSubscription) -> list[Msg]:
    """The next messages; none when none comes for a while."""
    try:
        found: list[Msg] = await source.fetch(BATCH_MESSAGES, timeout=FETCH_SECONDS)
    except nats.errors.TimeoutError:
        found = []
    leave_if_cancelled()  # what was fetched comes again to the next
    return found


async def ensure(js: JetStreamContext, stream: StreamConfig) -> StreamInfo:
    """Make a stream, or bring the one of its name up to date."""
    try:
        return await js.add_stream(stream)
    except BadRequestError as error:
        if error.err_code != _STREAM_NAME_IN_USE:
            raise
        return await js.update_stream(stream)


def _credentials(settings: Settings) -> tuple[str, str]:
    path = settings.nats_credentials_file or settings.secret("nats.json")
    try:
        found = json.loads(path.read_text())
        return str(found["user"]), str(found["password"])
    except (OSError, ValueError, KeyError) as error:
        raise FailedPrecondition(
            f"{path} must be JSON with the user and password of NATS: {error!r}", path=str(path)
        ) from error

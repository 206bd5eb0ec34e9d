"""One process's connection to NATS JetStream."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import BadRequestError, NoStreamResponseError

from aios.bus import cloudevents
from aios.bus.streams import ADVISORIES, EVENTS
from aios.config import Settings
from aios.errors import FailedPrecondition, Unavailable
from aios.records.events import Event

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0  # how long start-up waits: the bus may come later than the service
RECONNECT_SECONDS = 0.5
REQUEST_SECONDS = 5.0
PING_SECONDS = 10  # a server that stopped without closing is noticed after two of these


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
        bus = cls()
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

    async def publish(self, event: Event) -> None:
        """Return once the event is on the server's disk. Publishing the same event again changes nothing.

        Raises:
            BusUnavailable: It may or may not have arrived: publish it again.
        """
        message = cloudevents.encode(event)
        self._require_connection()
        try:
            try:
                await self._js.publish(message.subject, message.data, headers=dict(message.headers))
            except NoStreamResponseError:
                # Somebody wiped the server: make the streams again.
                await self.ensure_streams()
                await self._js.publish(message.subject, message.data, headers=dict(message.headers))
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise BusUnavailable(
                f"event {event.id} was not published: {error!r}", retry_after=_RETRY
            ) from error

    async def pull(self, config: ConsumerConfig) -> JetStreamContext.PullSubscription:
        """A subscription to the durable consumer of this configuration, made or brought up to date.

        It is of this connection: use it within `one_connection`.

        Raises:
            BusUnavailable: Try again.
        """
        assert config.durable_name is not None
        assert EVENTS.name is not None
        try:
            await self.ensure_streams()
            await self._js.add_consumer(EVENTS.name, config)
            return await self._js.pull_subscribe_bind(durable=config.durable_name, stream=EVENTS.name)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise BusUnavailable(
                f"no consumer {config.durable_name}: {error!r}", retry_after=_RETRY
            ) from error

    async def ensure_streams(self) -> None:
        """Make the streams that do not exist, and bring the others up to date."""
        for stream in (EVENTS, ADVISORIES):
            await self._ensure(stream)

    async def _ensure(self, stream: StreamConfig) -> None:
        try:
            await self._js.add_stream(stream)
        except BadRequestError as error:
            if error.err_code != _STREAM_NAME_IN_USE:
                raise
            await self._js.update_stream(stream)

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


def _credentials(settings: Settings) -> tuple[str, str]:
    path = settings.nats_credentials_file or settings.secret("nats.json")
    try:
        found = json.loads(path.read_text())
        return str(found["user"]), str(found["password"])
    except (OSError, ValueError, KeyError) as error:
        raise FailedPrecondition(
            f"{path} must be JSON with the user and password of NATS: {error!r}", path=str(path)
        ) from error

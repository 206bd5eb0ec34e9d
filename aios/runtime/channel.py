"""The way out: a gRPC channel that sends the token and the trace, bounds each call, retries what is safe, and raises
the catalogue's errors.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from aios.config import Settings
from aios.errors import AiosError, Unavailable
from aios.runtime import contract, gate, telemetry
from aios.runtime.peers import Peer
from aios.runtime.status import from_rpc_error, was_answered
from aios.runtime.token_files import TokenSource, token_file
from aios.runtime.wire import KEEPALIVE_MILLIS, MESSAGE_BYTES_MAX

UNARY_SECONDS = 10.0  # where the caller names no timeout
PATIENCE_SECONDS = 8.0  # a service that restarts is back within this; the caller need not notice
FIRST_SECONDS = 2.0  # for a first connection: a wrong address, or a platform that is down, is soon told
ATTEMPTS_MAX = 4  # of calls that the service itself turned away
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.1, 1.0  # doubles, with full jitter
# A budget keeps retries from drowning a service that is coming back. Source: gRFC A6, retry throttling.
BUDGET_TOKENS, BUDGET_REFILL = 10.0, 0.1

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


def connect(
    address: str,
    token: TokenSource | None,
    *,
    background: bool = False,
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.aio.Channel:
    """Open a channel to `host:port`. Nothing is dialled before the first call.

    Args:
        token: Gives the bearer token, at each call.
        background: Calls outside any span are not traced by anyone on the way: for reconcilers and heartbeats.
        credentials: Of TLS; plain text where None.
    """
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
        ("grpc.keepalive_timeout_ms", 5_000),
        # The library's own wait between dials grows to two minutes; a service is back in seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    if address.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]"):
        options.append(
            ("grpc.enable_http_proxy", 0)
        )  # a proxy that the shell names cannot reach this machine's loopback
    if credentials is None:
        inner = grpc.aio.insecure_channel(address, options=options)
    else:
        inner = grpc.aio.secure_channel(address, credentials, options=options)
    return _Channel(inner, address, token, background)


def service_channel(settings: Settings, service: str) -> grpc.aio.Channel:
    """The channel from one service to another, with the caller's service token."""
    assert settings.token_file is not None
    return peer_channel(settings, service, token_file(settings.token_file), background=True)


def peer_channel(
    settings: Settings, service: str, token: TokenSource | None, *, background: bool = False
) -> grpc.aio.Channel:
    """The same with any token, or with none where each call brings its own."""
    peer = Peer.of(settings)
    credentials = peer.channel_credentials() if peer else None
    return connect(settings.address_of(service), token, background=background, credentials=credentials)


def door_channel(address: str, token: TokenSource) -> grpc.aio.Channel:
    """The channel of a job to the public door, `http://host:port` or `https://host:port`."""
    target, credentials = telemetry.door(address)
    return connect(target, token, background=True, credentials=credentials)


class _Channel(grpc.aio.Channel):
    """Generated stubs ask a channel for callables; these are ours."""

    def __init__(
        self, inner: grpc.aio.Channel, address: str, token: TokenSource | None, background: bool
    ) -> None:
        self._inner = inner
        self._address = address
        self._token = token
        self._background = background
        self._budget = BUDGET_TOKENS
        self._reached = background  # the platform's own processes know that the other side is coming
        """Whether it was connected before."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> Any:
        call = self._inner.unary_unary(method, request_serializer, response_deserializer)
        declared = contract.method(method)

        async def send(request: Message, *, timeout: float | None = None, metadata: Any = ()) -> Any:
            with gate.aside():
                return await send_until_answered(request, timeout, metadata)

        async def send_until_answered(request: Message, timeout: float | None, metadata: Any) -> Any:
            safe = (declared is not None and declared.idempotent) or contract.has_request_id(request)
            clock = asyncio.get_running_loop()
            started = clock.time()
            deadline = started + (timeout or UNARY_SECONDS)
            for number in itertools.count(1):
                patience = PATIENCE_SECONDS if self._reached else FIRST_SECONDS
                await self._reach(min(deadline, started + patience) - clock.time())
                try:
                    response = await call(
                        request,
                        timeout=max(0.0, deadline - clock.time()),
                        metadata=self._metadata(metadata),
                        # Of a connection that breaks now: what was not sent waits for the next one.
                        wait_for_ready=not safe,
                    )
                except grpc.RpcError as raw:
                    error = from_rpc_error(raw)
                    pause = random.uniform(0, min(BACKOFF_SECONDS * 2**number, BACKOFF_SECONDS_MAX))
                    elapsed = clock.time() - started
                    again = _unbegun(raw, elapsed) or (safe and self._may_retry(raw, error, number, elapsed))
                    if not again or clock.time() + pause > deadline:
                        raise error from None
                    await asyncio.sleep(pause)
                else:
                    self._budget = min(BUDGET_TOKENS, self._budget + BUDGET_REFILL)
                    return response
            raise AssertionError("counting does not end")

        return send

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> Any:
        call = self._inner.unary_stream(method, request_serializer, response_deserializer)

        def send(request: Message, *, timeout: float | None = None, metadata: Any = ()) -> AsyncIterator[Any]:
            return _receive(lambda: call(request, timeout=timeout, metadata=self._metadata(metadata)))

        return send

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> Any:
        call = self._inner.stream_unary(method, request_serializer, response_deserializer)

        async def send(
            requests: AsyncIterator[Any],
            *,
            timeout: float | None = None,
            metadata: Any = (),
        ) -> Any:
            try:
                return await call(requests, timeout=timeout, metadata=self._metadata(metadata))
            except grpc.RpcError as raw:
                raise from_rpc_error(raw) from None

        return send

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = False,
    ) -> Any:
        call = self._inner.stream_stream(method, request_serializer, response_deserializer)

        def send(
            requests: AsyncIterator[Any], *, timeout: float | None = None, metadata: Any = ()
        ) -> AsyncIterator[Any]:
            return _receive(lambda: call(requests, timeout=timeout, metadata=self._metadata(metadata)))

        return send

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> "_Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _metadata(self, extra: Any) -> tuple[tuple[str, str], ...]:
        metadata = [*extra]
        traceparent = telemetry.current_traceparent()
        if not traceparent and self._background:
            traceparent = telemetry.unsampled_traceparent()
        if traceparent:
            metadata.append(("traceparent", traceparent))
        if self._token is not None:
            metadata.append(("authorization", f"Bearer {self._token()}"))
        return tuple(metadata)

    async def _reach(self, seconds: float) -> None:
        """Wait for a connection. Nothing is sent before, so any call may wait out a restart of the other side.

        Raises:
            Unavailable: there is none after `seconds`.
        """
        if self._inner.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            try:
                async with asyncio.timeout(seconds):
                    await self._inner.channel_ready()
            except TimeoutError:
                raise Unavailable(f"{self._address} cannot be reached.") from None
        self._reached = True

    def _may_retry(self, raw: grpc.RpcError, error: AiosError, attempt: int, elapsed: float) -> bool:
        if not isinstance(error, Unavailable):
            return False
        if not was_answered(raw):
            return elapsed < PATIENCE_SECONDS  # nobody was reached: asking again costs nobody anything
        if attempt >= ATTEMPTS_MAX:
            return False
        self._budget = max(0.0, self._budget - 1)
        return self._budget > BUDGET_TOKENS / 2


def _unbegun(raw: grpc.RpcError, elapsed: float) -> bool:
    """Whether a server that stops has let go of the call before anything was done (`Server.stop`)."""
    call: Any = raw  # the library raises one object that is both
    return call.code() is grpc.StatusCode.CANCELLED and not was_answered(raw) and elapsed < PATIENCE_SECONDS


async def _receive(start: Callable[[], Any]) -> AsyncIterator[Any]:
    """Responses as they come. Leaving the loop early cancels the call."""
    call = start()
    try:
        async for response in call:
            yield response
    except grpc.RpcError as raw:
        raise from_rpc_error(raw) from None
    finally:
        call.cancel()

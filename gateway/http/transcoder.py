"""HTTP/JSON to gRPC, for every method that has a `google.api.http` rule. No route is written by hand.

Owns reading requests strictly, passing caller, trace and deadline on, and writing answers, streams and errors. Knows
no service and no resource. Methods whose requests are streams are answered with 501: they are for gRPC clients.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind, get_current_span
from starlette.types import Receive, Scope, Send

from aios.errors import AiosError, Internal, InvalidArgument, Unavailable, Unimplemented
from aios.runtime import contract, telemetry
from aios.runtime.gate import Gate
from aios.runtime.status import RETRY_SOON
from gateway.envoy import limits
from gateway.http import dialects, problems, requests, streams
from gateway.http.exchange import ClientGone, Exchange, authorization
from gateway.http.rules import Binding, Routes

UNARY_SECONDS = 10.0  # deadline of a call whose client names none
DEADLINE_SECONDS_MAX = 24 * 3600.0
DEADLINE_HEADER = "x-aios-timeout"
"""Seconds that the client will wait, such as `2.5`. Streams have no deadline without it."""
FIRST_RECORD_SECONDS = 1.0  # how long a stream may fail with an HTTP status of its own before 200 is sent
PREDICTIONS = "predictions.create"
"""Permission of the methods that ask a model."""
LARGE_BYTES = 64 * 1024  # more is converted in a thread: 10 ms and up, which other requests must not wait for

_log = logging.getLogger(__name__)
T = TypeVar("T")
Start = Callable[[], Any]
"""Sends a request that is ready: gives an awaitable response, or an async generator of them."""


class Transcoder:
    """An ASGI application over the services' channels.

    Args:
        channels: By domain: `scheduler`, `data` ... Made by `aios.runtime.channel.connect`, without a token of their own.
        stopping: Once set, streams end: their clients go on where they were, elsewhere or later.
    """

    def __init__(
        self, routes: Routes, channels: Mapping[str, grpc.aio.Channel], stopping: asyncio.Event
    ) -> None:
        self._routes = routes
        self._stopping = stopping
        # One for each service: those who wait for one that is away hold up nobody else. One for predictions, which
        # wait for models.
        self._gates = {domain: Gate(lends=False) for domain in channels}
        self._predictions = Gate(limits.PREDICTIONS_AT_ONCE, lends=False)
        self._stubs = {
            binding.rpc: _stub(channels[binding.domain], binding)
            for binding in routes
            if not binding.method.client_streaming
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "the API speaks HTTP"})
            return
        incoming = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        traceparent = incoming if telemetry.trace_id_of(incoming) else telemetry.unsampled_traceparent()
        with telemetry.span("http", traceparent=traceparent, kind=SpanKind.SERVER) as span:
            said = telemetry.current_traceparent() or traceparent
            trace_id = telemetry.trace_id_of(said)
            exchange = Exchange(scope, receive, send, {"traceparent": said, "x-aios-trace-id": trace_id})
            span.update_name(f"HTTP {exchange.method}")
            await self._answer(exchange, trace_id)

    async def _answer(self, exchange: Exchange, trace_id: str) -> None:
        binding: Binding | None = None
        try:
            binding, path_values = self._routes.find(exchange.method, exchange.path)
            get_current_span().update_name(f"HTTP {exchange.method} {binding.template.text}")
            if binding.method.server_streaming:
                start = await self._prepare(exchange, binding, path_values)
                await _until_gone(exchange, _write_stream(exchange, binding, start, trace_id, self._stopping))
            else:
                async with self._gate(binding).inside():
                    start = await self._prepare(exchange, binding, path_values)
                    await _until_gone(exchange, _write_one(exchange, binding, start))
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - the one place that turns the unknown into 500
            known = _known(error)
            problem = problems.problem(known, trace_id)
            if binding is not None and binding.dialect:
                problem |= dialects.problem(known)
            await exchange.answer(problems.status(known), problems.headers(known), problems.encode(problem))

    def _gate(self, binding: Binding) -> Gate:
        declared = contract.method(binding.rpc)
        predicts = declared is not None and declared.permission == PREDICTIONS
        return self._predictions if predicts else self._gates[binding.domain]

    async def _prepare(self, exchange: Exchange, binding: Binding, path_values: Mapping[str, str]) -> Start:
        """Everything that can be wrong with the request is found here, before the call."""
        if binding.method.client_streaming:
            raise Unimplemented(f"{binding.rpc} takes a stream: call it over gRPC", reason="GRPC_ONLY")
        metadata, timeout = authorization(exchange.headers), _timeout(exchange, binding)
        message = await _request(exchange, binding, path_values)
        return partial(self._stubs[binding.rpc], message, timeout=timeout, metadata=metadata)


def _stub(channel: grpc.aio.Channel, binding: Binding) -> Callable[..., Any]:
    make = channel.unary_stream if binding.method.server_streaming else channel.unary_unary
    return make(
        binding.rpc,
        request_serializer=binding.request_class.SerializeToString,
        response_deserializer=binding.response_class.FromString,
    )


async def _request(exchange: Exchange, binding: Binding, path_values: Mapping[str, str]) -> Message:
    body = await exchange.body()
    try:
        query = parse_qsl(
            exchange.query, keep_blank_values=True, strict_parsing=bool(exchange.query), errors="strict"
        )
    except ValueError:
        raise InvalidArgument("the query is not of the form key=value&key=value in UTF-8") from None
    if binding.dialect:
        return dialects.build(binding, path_values, query, body)
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(requests.build, binding, path_values, query, body)
    return requests.build(binding, path_values, query, body)


def _timeout(exchange: Exchange, binding: Binding) -> float | None:
    text = exchange.headers.get(DEADLINE_HEADER)
    if text is None:
        return None if binding.method.server_streaming else UNARY_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 < seconds <= DEADLINE_SECONDS_MAX:
        raise InvalidArgument.of(
            DEADLINE_HEADER, f"must be seconds such as 2.5, at most {DEADLINE_SECONDS_MAX:.0f}"
        )
    return seconds


async def _write_one(exchange: Exchange, binding: Binding, start: Start) -> None:
    response = await start()
    if response.ByteSize() > LARGE_BYTES:
        body = await asyncio.to_thread(_encoded, binding, response)
    else:
        body = _encoded(binding, response)
    headers = {
        name: str(getattr(response, field)).rpartition("/")[2] for field, name in binding.headers.items()
    }
    await exchange.answer(200, {"content-type": "application/json"} | headers, body)


async def _write_stream(
    exchange: Exchange, binding: Binding, start: Start, trace_id: str, stopping: asyncio.Event
) -> None:
    form = streams.wanted(exchange.headers.get("accept", ""))
    async with (
        aclosing(start()) as messages,
        _ended(asyncio.create_task(stopping.wait())) as stop,
        _ended(asyncio.create_task(_next(messages, stop))) as first,
    ):
        # An error that comes at once still gets its HTTP status; a quiet stream must not keep its client waiting.
        await asyncio.wait({first}, timeout=FIRST_RECORD_SECONDS)
        if first.done():
            first.result()
        await exchange.start(200, {"content-type": form.media_type})
        try:
            message = await first
            while message is not None:
                await exchange.write(form.message(_json(binding, message)))
                message = await _next(messages, stop)
            last = form.end()
        except Exception as error:  # noqa: BLE001 - the status is sent: what failed is told in the last record
            last = form.error(problems.problem(_known(error), trace_id))
        await exchange.write(last, last=True)


async def _next(messages: AsyncIterator[Message], stop: asyncio.Task[Any]) -> Message | None:
    """The next message, None at the end.

    Raises:
        Unavailable: `stop` came first.
    """

    async def message() -> Message | None:
        return await anext(messages, None)

    async with _ended(asyncio.create_task(message())) as coming:
        await asyncio.wait({coming, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise Unavailable(
                "The gateway is restarting: ask again from where you were.",
                reason="RESTARTING",
                retry_after=RETRY_SOON,
            )
        return coming.result()


@asynccontextmanager
async def _ended(task: asyncio.Task[T]) -> AsyncIterator[asyncio.Task[T]]:
    """The task, which is over when the block is: cancelled where it still ran."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _until_gone(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and cancel it, and so its call, when the client hangs up."""
    async with (
        _ended(asyncio.create_task(work)) as working,
        _ended(asyncio.create_task(exchange.gone())) as gone,
    ):
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        working.result()


def _encoded(binding: Binding, message: Message) -> bytes:
    if binding.dialect:
        return dialects.encoded(message)
    return problems.encode(_json(binding, message))


def _json(binding: Binding, message: Message) -> Any:
    """The standard JSON form: lowerCamelCase names, 64-bit integers as strings, defaults left out."""
    value = MessageToDict(message)
    if not binding.response_body:
        return value
    field = message.DESCRIPTOR.fields_by_name[binding.response_body]
    return value.get(field.json_name, [] if field.is_repeated else None)


def _known(error: Exception) -> AiosError:
    """The error of the catalogue that a client is told."""
    if isinstance(error, Unavailable) and error.reason == Unavailable.reason:
        # The library's own text: it names an address that is none of the client's business.
        return Unavailable(
            "The service behind this path cannot be reached now: try again.", retry_after=RETRY_SOON
        )
    if isinstance(error, AiosError):
        return error
    _log.error("unexpected error", exc_info=error)
    return Internal("This failed inside the platform. Its log has it under the trace id.")

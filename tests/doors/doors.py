"""Through which door: gRPC and HTTP, by way of Envoy and straight at the processes behind it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
import httpx

from gateway.http.rules import Binding
from tests.doors.callers import PROJECT, Caller, Outcome
from tests.doors.rpcs import Rpc, bindings_of, path_values

CALL_SECONDS = 10.0
QUIET_SECONDS = 0.5
"""A stream that says nothing for so long was let through."""
AT_ONCE = 16

OURS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""What a healthy platform says to no request, however wrong."""
_OF_CODE = {
    **dict.fromkeys(OURS, Outcome.BROKEN),
    grpc.StatusCode.UNAUTHENTICATED: Outcome.UNKNOWN_CALLER,
    grpc.StatusCode.PERMISSION_DENIED: Outcome.DENIED,
    grpc.StatusCode.NOT_FOUND: Outcome.NOT_FOUND,
}
_OF_STATUS = {
    **dict.fromkeys((500, 502, 503, 504), Outcome.BROKEN),
    401: Outcome.UNKNOWN_CALLER,
    403: Outcome.DENIED,
    404: Outcome.NOT_FOUND,
}


T = TypeVar("T")
R = TypeVar("R")
Answer = tuple[str, Rpc, Outcome]
"""What was called, the method behind it, and what came of it."""


class GrpcDoor:
    """gRPC to the address of each process; one address for all is Envoy's."""

    def __init__(self, targets: dict[str, str]) -> None:
        self._targets = targets

    async def ask(self, caller: Caller, rpcs: Iterable[Rpc]) -> list[Answer]:
        channels = {name: grpc.aio.insecure_channel(target) for name, target in self._targets.items()}

        async def one(rpc: Rpc) -> Answer:
            # Silence is an answer only where none but silence is expected.
            patience = QUIET_SECONDS if caller.expected(rpc) is Outcome.PASSED else CALL_SECONDS
            body = None if rpc.method.client_streaming else rpc.request(PROJECT).SerializeToString()
            code, _ = await call(channels[rpc.process], rpc, body, caller.metadata, patience)
            return str(rpc), rpc, _OF_CODE.get(code, Outcome.PASSED)

        try:
            return await each(one, rpcs)
        finally:
            await asyncio.gather(*(channel.close() for channel in channels.values()))


class HttpDoor:
    """Every HTTP route of every method, at one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def ask(self, caller: Caller, rpcs: Iterable[Rpc]) -> list[Answer]:
        async with httpx.AsyncClient(
            base_url=self._address, headers=caller.headers, trust_env=False, timeout=CALL_SECONDS
        ) as client:

            async def one(route: tuple[Rpc, Binding]) -> Answer:
                rpc, binding = route
                status = await request(client, binding, PROJECT)
                return (
                    f"{binding.http_method} {binding.template.text}",
                    rpc,
                    _OF_STATUS.get(status, Outcome.PASSED),
                )

            return await each(one, [(rpc, binding) for rpc in rpcs for binding in bindings_of(rpc.path)])


async def call(
    channel: grpc.aio.Channel,
    rpc: Rpc,
    body: bytes | None,
    metadata: tuple[tuple[str, str], ...] = (),
    patience: float = QUIET_SECONDS,
) -> tuple[grpc.StatusCode, str]:
    """Status and message of one call with any bytes as its request. A stream is read to its first message only.

    Args:
        body: None sends nothing and leaves a client's stream open.
        patience: A stream that says nothing for so many seconds counts as OK.
    """
    method = rpc.method
    options: Any = {"metadata": metadata, "timeout": CALL_SECONDS}
    try:
        if method.client_streaming or method.server_streaming:
            make: Any = channel.stream_stream if method.client_streaming else channel.unary_stream
            said = body if body is None or not method.client_streaming else iter([body])
            stream = make(rpc.path)(said, **options)
            try:
                async with asyncio.timeout(patience):
                    await stream.read()
            except TimeoutError:
                pass
            finally:
                stream.cancel()
        else:
            unary: Any = channel.unary_unary(rpc.path)
            await unary(body, **options)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def request(client: httpx.AsyncClient, binding: Binding, project: str) -> int:
    """The status of one HTTP call; the headers of a stream are enough."""
    values = path_values(binding, project)
    async with client.stream(
        binding.http_method,
        binding.template.expand(values),
        json={} if binding.body else None,
    ) as response:
        return response.status_code


async def each(one: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """The result for each item, a few at a time."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def bounded(item: T) -> R:
        async with at_once:
            return await one(item)

    return list(await asyncio.gather(*(bounded(item) for item in items)))

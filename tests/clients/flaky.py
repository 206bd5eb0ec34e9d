"""A door that fails: the first call of every method is UNAVAILABLE, all others pass through unchanged."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tests.clients import loop

DETAILS = "grpc-status-details-bin"
Bytes = AsyncIterator[bytes]


@contextmanager
def flaky_door(target: str) -> Iterator[tuple[str, set[str]]]:
    """Its address, and the methods that it has failed once."""
    failed: set[str] = set()
    with loop.running() as run:
        server, port = run(_serve(target, failed))
        try:
            yield f"http://127.0.0.1:{port}", failed
        finally:
            run(server.stop(None))


async def _serve(target: str, failed: set[str]) -> tuple[grpc.aio.Server, int]:
    behind = grpc.aio.insecure_channel(target)
    server = grpc.aio.server(handlers=[_Forward(behind, failed)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


class _Forward(grpc.GenericRpcHandler):
    """Passes any method's bytes on, knowing no message."""

    def __init__(self, behind: grpc.aio.Channel, failed: set[str]) -> None:
        self._behind, self._failed = behind, failed

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def forward(requests: Any, context: Any) -> Bytes:
            if details.method not in self._failed:
                self._failed.add(details.method)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "The door is closed for a moment.")
            metadata = [
                (key, value) for key, value in context.invocation_metadata() if not key.startswith("grpc-")
            ]
            call: Any = self._behind.stream_stream(details.method)(
                requests, metadata=metadata, timeout=context.time_remaining()
            )
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                trailing = error.trailing_metadata()
                context.set_trailing_metadata([pair for pair in trailing if pair[0] == DETAILS])
                await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)

"""A door that fails, to a platform of a later release.

The first call of every method is UNAVAILABLE. Every answer has a field that no client of today knows, and the first
ones of two methods an enum value that none knows. All else passes through unchanged.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from aios.inference.v1.deployment_pb2 import Deployment
from aios.trainer.v1.run_pb2 import Run
from aios.trainer.v1.trainer_service_pb2 import WatchMetricsResponse
from tests.clients import loop
from tests.golden.messages import LATER, NEW_VALUE

DETAILS = "grpc-status-details-bin"
NEW_STATE: Any = NEW_VALUE
NEWS: Mapping[str, bytes] = {
    "/aios.inference.v1.InferenceService/GetDeployment": Deployment(state=NEW_STATE).SerializeToString(),
    "/aios.trainer.v1.TrainerService/WatchMetrics": WatchMetricsResponse(
        run=Run(state=NEW_STATE)
    ).SerializeToString(),
}
"""What the first answer of a method ends with. Of a field that comes twice a reader takes the last."""
Bytes = AsyncIterator[bytes]


@dataclass
class Door:
    """What it has done to its clients."""

    address: str
    failed: set[str] = field(default_factory=set)
    """Methods of which it has failed one call."""
    told: set[str] = field(default_factory=set)
    """Methods of which it has answered one call with a new enum value."""


@contextmanager
def flaky_door(target: str) -> Iterator[Door]:
    """One before a platform."""
    door = Door("")
    with loop.running() as run:
        server, port = run(_serve(target, door))
        door.address = f"http://127.0.0.1:{port}"
        try:
            yield door
        finally:
            run(server.stop(None))


async def _serve(target: str, door: Door) -> tuple[grpc.aio.Server, int]:
    behind = grpc.aio.insecure_channel(target)
    server = grpc.aio.server(handlers=[_Forward(behind, door)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


class _Forward(grpc.GenericRpcHandler):
    """Passes any method's bytes on."""

    def __init__(self, behind: grpc.aio.Channel, door: Door) -> None:
        self._behind, self._door = behind, door

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def forward(requests: Any, context: Any) -> Bytes:
            if details.method not in self._door.failed:
                self._door.failed.add(details.method)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "The door is closed for a moment.")
            metadata = [
                (key, value) for key, value in context.invocation_metadata() if not key.startswith("grpc-")
            ]
            call: Any = self._behind.stream_stream(details.method)(
                requests, metadata=metadata, timeout=context.time_remaining()
            )
            try:
                async for message in call:
                    news = b""
                    if details.method not in self._door.told:
                        news = NEWS.get(details.method, b"")
                    if news:
                        self._door.told.add(details.method)
                    yield message + news + LATER
            except grpc.aio.AioRpcError as error:
                trailing = error.trailing_metadata()
                context.set_trailing_metadata([pair for pair in trailing if pair[0] == DETAILS])
                await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)

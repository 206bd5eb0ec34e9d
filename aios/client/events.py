"""Events between services that went wrong."""

from collections.abc import AsyncIterator

from aios.client.connection import Connection, pages
from aios.names import DeadEventName
from aios.telemetry.v1 import event_service_pb2 as pb
from aios.telemetry.v1 import event_service_pb2_grpc


class Events:
    """`client.events`. Operators only."""

    def __init__(self, connection: Connection) -> None:
        self._stub = event_service_pb2_grpc.EventServiceStub(connection.channel)

    async def dead(self, limit: int | None = None) -> AsyncIterator[pb.DeadEvent]:
        """What consumers gave up, oldest first."""
        async for each in pages(self._stub.ListDeadEvents, pb.ListDeadEventsRequest(), "dead_events", limit):
            yield each

    async def redeliver(self, name: str) -> pb.DeadEvent:
        """Send one again, and forget it."""
        return await self._stub.RedeliverDeadEvent(pb.RedeliverDeadEventRequest(name=_full(name)))

    async def delete(self, name: str) -> None:
        """Forget one."""
        await self._stub.DeleteDeadEvent(pb.DeleteDeadEventRequest(name=_full(name)))


def _full(name: str) -> str:
    return str(DeadEventName.parse(f"deadEvents/{name.removeprefix('deadEvents/')}"))

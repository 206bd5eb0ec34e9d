"""Traces: what happened for one request, across processes."""

from collections.abc import AsyncIterator

from aios.client.connection import Connection, pages
from aios.names import TraceName
from aios.telemetry.v1 import trace_service_pb2 as pb
from aios.telemetry.v1 import trace_service_pb2_grpc


class Traces:
    """`client.traces`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = trace_service_pb2_grpc.TraceServiceStub(connection.channel)

    async def get(self, trace: str) -> pb.Trace:
        """One trace with its spans, ordered by start, by its id."""
        name = self._connection.name(TraceName, trace)
        return await self._stub.GetTrace(pb.GetTraceRequest(name=str(name)))

    async def list(self, limit: int | None = 20) -> AsyncIterator[pb.Trace]:
        """The newest traces, without their spans."""
        request = pb.ListTracesRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListTraces, request, "traces", limit):
            yield each

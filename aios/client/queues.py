"""Queues: how the pool is divided."""

from collections.abc import AsyncIterator, Sequence

from aios.client.connection import Connection, pages, request_id
from aios.names import QueueName
from aios.scheduler.v1 import queue_pb2, queue_service_pb2_grpc
from aios.scheduler.v1 import queue_service_pb2 as pb


class Queues:
    """`client.queues`. What changes them is for operators."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = queue_service_pb2_grpc.QueueServiceStub(connection.channel)

    async def list(self, limit: int | None = None) -> AsyncIterator[queue_pb2.Queue]:
        """Those that the caller's project may use, and those above them; all for an operator."""
        async for each in pages(self._stub.ListQueues, pb.ListQueuesRequest(), "queues", limit):
            yield each

    async def get(self, name: str) -> queue_pb2.Queue:
        """One queue."""
        return await self._stub.GetQueue(pb.GetQueueRequest(name=self._name(name)))

    async def create(self, name: str, queue: queue_pb2.Queue) -> queue_pb2.Queue:
        """Make a queue."""
        made = pb.CreateQueueRequest(
            queue_id=QueueName.parse(self._name(name)).queue, queue=queue, request_id=request_id()
        )
        return await self._stub.CreateQueue(made)

    async def update(self, name: str, queue: queue_pb2.Queue, fields: Sequence[str]) -> queue_pb2.Queue:
        """Change these fields of a queue."""
        wanted = queue_pb2.Queue()
        wanted.CopyFrom(queue)
        wanted.name = self._name(name)
        request = pb.UpdateQueueRequest(queue=wanted)
        request.update_mask.paths.extend(fields)
        return await self._stub.UpdateQueue(request)

    async def delete(self, name: str) -> None:
        """Remove a queue."""
        await self._stub.DeleteQueue(pb.DeleteQueueRequest(name=self._name(name)))

    def _name(self, name: str) -> str:
        return str(self._connection.name(QueueName, name))

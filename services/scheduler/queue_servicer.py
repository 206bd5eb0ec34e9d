"""Queues, for people: convert, call, convert."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.names import QueueName, check_id
from aios.records import Database, Page, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from aios.scheduler.v1 import queue_pb2, queue_service_pb2, queue_service_pb2_grpc
from services.scheduler import queue_store, queues, store
from services.scheduler.queue_mapping import queue_from_proto, queue_to_proto
from services.scheduler.queues import Queue, QueueNotFound
from services.scheduler.reconciler import Reconciler
from services.scheduler.usage import Usage

Context = Any


class QueueServicer(queue_service_pb2_grpc.QueueServiceServicer):
    """How the pool is divided."""

    def __init__(self, db: Database, reconciler: Reconciler, clock: Clock) -> None:
        self._db = db
        self._reconciler = reconciler
        self._clock = clock

    async def CreateQueue(
        self, request: queue_service_pb2.CreateQueueRequest, context: Context
    ) -> queue_pb2.Queue:
        asked = queue_from_proto(check_id(request.queue_id, "queue_id"), request.queue)

        def write(tx: Tx) -> queue_pb2.Queue:
            queues.check(asked, store.all_queues(tx).values())
            return queue_to_proto(queue_store.add(tx, asked, self._clock.now()))

        made = await self._db.once(request, write, queue_pb2.Queue)
        self._reconciler.wake()
        return made

    async def GetQueue(self, request: queue_service_pb2.GetQueueRequest, context: Context) -> queue_pb2.Queue:
        name = QueueName.parse(request.name).queue
        for queue, usage in await self._seen():
            if queue.name == name:
                return queue_to_proto(queue, usage)
        raise QueueNotFound(f"There is no {request.name} for you: see `aios queue list`.", name=request.name)

    async def ListQueues(
        self, request: queue_service_pb2.ListQueuesRequest, context: Context
    ) -> queue_service_pb2.ListQueuesResponse:
        page = Page.of(request)
        found, token = page.cut(await self._seen(), lambda each: each[0].name)
        return queue_service_pb2.ListQueuesResponse(
            queues=[queue_to_proto(queue, usage) for queue, usage in found], next_page_token=token
        )

    async def UpdateQueue(
        self, request: queue_service_pb2.UpdateQueueRequest, context: Context
    ) -> queue_pb2.Queue:
        name = QueueName.parse(request.queue.name, "queue.name").queue
        wanted = queue_from_proto(name, request.queue)

        def write(tx: Tx) -> Queue:
            before = queue_store.get(tx, name)
            after = queues.edit(before, wanted, request.update_mask.paths, request.queue.etag)
            queues.check(after, store.all_queues(tx).values())
            return queue_store.save(tx, after, self._clock.now())

        made = await self._db.write(write)
        self._reconciler.wake()
        return queue_to_proto(made, (await self._reconciler.usages()).get(name))

    async def DeleteQueue(self, request: queue_service_pb2.DeleteQueueRequest, context: Context) -> Empty:
        name = QueueName.parse(request.name).queue
        await self._db.write(lambda tx: queue_store.remove(tx, name))
        self._reconciler.wake()
        return Empty()

    async def _seen(self) -> list[tuple[Queue, Usage]]:
        """The queues that the caller may know of, by name: those that were made, and projects' own that have jobs."""
        made = await self._db.read(store.all_queues)
        usages = await self._reconciler.usages()
        caller = principal()
        names: Iterable[str] = {*made, *(name for name, usage in usages.items() if name and _lives(usage))}
        if not caller.everywhere:
            names = queues.visible(caller.project, made)
        return [(made.get(name, Queue(name)), usages.get(name, Usage())) for name in sorted(names)]


def _lives(usage: Usage) -> bool:
    return bool(usage.running_jobs or usage.pending_jobs)

"""EventService: the events that consumers gave up, for an operator."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from aios.bus.dead import DeadEvent, DeadEventNotFound, DeadEvents
from aios.names import DeadEventName
from aios.records import Page
from aios.telemetry.v1 import event_service_pb2 as pb
from aios.telemetry.v1 import event_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
PAYLOAD_BYTES_MAX = 4096  # of each: a page of 500 stays within the 4 MiB message limit


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """EventService: convert, call, convert."""

    def __init__(self, dead: DeadEvents) -> None:
        self._dead = dead

    async def ListDeadEvents(
        self, request: pb.ListDeadEventsRequest, context: Context
    ) -> pb.ListDeadEventsResponse:
        page = Page.of(request)
        found = await self._dead.list(page.number(), page.size + 1)
        token = page.token(found[page.size - 1].sequence) if len(found) > page.size else ""
        return pb.ListDeadEventsResponse(
            dead_events=map(_to_proto, found[: page.size]), next_page_token=token
        )

    async def RedeliverDeadEvent(
        self, request: pb.RedeliverDeadEventRequest, context: Context
    ) -> pb.DeadEvent:
        return _to_proto(await self._dead.redeliver(_number(request.name)))

    async def DeleteDeadEvent(self, request: pb.DeleteDeadEventRequest, context: Context) -> Empty:
        await self._dead.drop(_number(request.name))
        return Empty()


def _number(name: str) -> int:
    text = DeadEventName.parse(name).dead_event
    if not text.isdecimal() or not 0 < int(text) < 2**63:
        raise DeadEventNotFound(f"no dead event {text} is kept", sequence=text)
    return int(text)


def _to_proto(event: DeadEvent) -> pb.DeadEvent:
    made = pb.DeadEvent(
        name=str(DeadEventName(str(event.sequence))),
        consumer=event.consumer,
        subject=event.subject,
        event_id=event.headers.get("ce-id", ""),
        deliveries=event.deliveries,
        error=event.error,
        payload=event.data[:PAYLOAD_BYTES_MAX].decode(errors="replace"),
    )
    made.create_time.FromDatetime(event.time)
    return made

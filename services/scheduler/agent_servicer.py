"""The agents' door: one stream that registers, renews and reports, and one that brings output."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from aios.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from aios.names import JobName, NodeName
from aios.records import Database
from aios.scheduler.v1 import agent_service_pb2, agent_service_pb2_grpc
from services.scheduler import mapping, store
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.jobs import JobNotFound
from services.scheduler.logs import Logs
from services.scheduler.reconciler import Held, Reconciler
from services.scheduler.sessions import Session, Sessions

Context = Any

REPORTS_MAX = 1024
"""Reports of one agent that wait for the records. Then it is not read any further, and keeps what it has to say."""


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """What node agents say and hear.

    Args:
        lease: How long an agent may keep its jobs after the last heartbeat that was answered.
    """

    def __init__(
        self, db: Database, reconciler: Reconciler, sessions: Sessions, logs: Logs, lease: timedelta
    ) -> None:
        self._db = db
        self._reconciler = reconciler
        self._sessions = sessions
        self._logs = logs
        self._lease = lease

    async def Connect(
        self, requests: AsyncIterator[agent_service_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[agent_service_pb2.ConnectResponse]:
        first = await anext(requests, None)
        if first is None or not first.HasField("register"):
            raise FailedPrecondition("The first message must be `register`.", reason="NOT_REGISTERED")
        node = mapping.node_from_proto(first.register)
        said = [mapping.attempt_from_proto(each.attempt) for each in first.register.attempts]
        _require_node(node.name, *(each.node for each in said))
        session = Session(node.name)
        # An older stream is silenced before this one's word counts.
        self._sessions.close(node.name, "The agent of this node has connected again.")
        stops = await self._reconciler.register(node, said)
        session.send(_registered(self._lease, stops))
        for each in said:
            if each.state is AttemptState.ENDED:
                session.send(_ack(each))
        with self._sessions.opened(session):
            self._reconciler.wake()
            reader = asyncio.create_task(self._listen(session, requests))
            try:
                async for message in session.outgoing():
                    yield message
            finally:
                reader.cancel()

    async def PushLogs(
        self, requests: AsyncIterator[agent_service_pb2.PushLogsRequest], context: Context
    ) -> AsyncIterator[agent_service_pb2.PushLogsResponse]:
        known: set[Held] = set()
        async for request in requests:
            name = JobName.parse(request.job, "job")
            if (request.job, request.epoch, request.rank) not in known:
                await self._require_attempt(name, request.epoch, request.rank)
                known.add((request.job, request.epoch, request.rank))
            if request.offset < 0:
                raise InvalidArgument.of("offset", "must not be negative")
            stored = await self._logs.append(
                name, request.epoch, request.offset, request.data, end=request.end, rank=request.rank
            )
            yield agent_service_pb2.PushLogsResponse(
                job=request.job, epoch=request.epoch, stored_bytes=stored, rank=request.rank
            )

    async def _listen(
        self, session: Session, requests: AsyncIterator[agent_service_pb2.ConnectRequest]
    ) -> None:
        """Take what the agent says until it hangs up; whatever goes wrong ends the stream, and it comes again.

        Heartbeats are answered at once: a report that waits for the records must not cost the node its lease.
        """
        told: asyncio.Queue[agent_service_pb2.ConnectRequest | None] = asyncio.Queue(REPORTS_MAX)

        async def listen() -> None:
            async for request in requests:
                if session.ended is not None:
                    break
                if request.HasField("heartbeat"):
                    self._beat(session, request.heartbeat)
                else:
                    await told.put(request)
            await told.put(None)

        async def take() -> None:
            more = True
            while more and session.ended is None:
                requests = [await told.get()]
                # What came while the last of it was stored is stored together.
                while not told.empty():
                    requests.append(told.get_nowait())
                more = requests[-1] is not None
                await self._take(session, [request for request in requests if request is not None])

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listen())
                tasks.create_task(take())
            session.end(None)
        except* Exception as errors:  # noqa: BLE001  # raised again where the stream is written
            session.end(errors.exceptions[0])

    def _beat(self, session: Session, heartbeat: agent_service_pb2.Heartbeat) -> None:
        self._reconciler.heard(session.node)
        ack = agent_service_pb2.HeartbeatAck(sequence=heartbeat.sequence)
        session.send(agent_service_pb2.ConnectResponse(heartbeat_ack=ack))

    async def _take(self, session: Session, requests: Sequence[agent_service_pb2.ConnectRequest]) -> None:
        said = [
            mapping.attempt_from_proto(request.report.attempt)
            for request in requests
            if request.HasField("report")
        ]
        _require_node(session.node, *(each.node for each in said))
        for each, counts in zip(said, await self._reconciler.report(said), strict=True):
            if each.state is AttemptState.ENDED:
                session.send(_ack(each))
            elif not counts:
                stop = _stop_now(str(each.job), each.epoch, each.rank)
                session.send(agent_service_pb2.ConnectResponse(stop=stop))
        if any(request.HasField("register") for request in requests):
            raise FailedPrecondition("The node is registered already.", reason="REGISTERED_TWICE")
        if any(request.HasField("leave") for request in requests):
            await self._reconciler.leave(session.node)

    async def _require_attempt(self, name: JobName, epoch: int, rank: int) -> None:
        if not 0 <= rank < await self._db.read(lambda tx: store.processes(tx, name, epoch)):
            raise JobNotFound(f"{name} has no attempt {epoch} with a replica {rank}.", name=str(name))


def _require_node(node: str, *others: str) -> None:
    for other in others:
        if other != node:
            raise PermissionDenied(
                f"{NodeName(node)} cannot speak for {NodeName(other)}.", reason="OTHER_NODE", node=other
            )


def _registered(lease: timedelta, stops: list[Held]) -> agent_service_pb2.ConnectResponse:
    return agent_service_pb2.ConnectResponse(
        registered=agent_service_pb2.Registered(
            lease=mapping.duration(lease), stops=[_stop_now(*each) for each in stops]
        )
    )


def _stop_now(job: str, epoch: int, rank: int) -> agent_service_pb2.Stop:
    # No grace: the attempt has lost its claim, and another one may be running.
    return agent_service_pb2.Stop(job=job, epoch=epoch, rank=rank, grace=mapping.duration(timedelta()))


def _ack(said: Attempt) -> agent_service_pb2.ConnectResponse:
    ack = agent_service_pb2.ReportAck(
        job=str(said.job), epoch=said.epoch, state=mapping.ENDED, rank=said.rank
    )
    return agent_service_pb2.ConnectResponse(report_ack=ack)

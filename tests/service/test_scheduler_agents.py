"""The agents' protocol, spoken by the test itself: what a scheduler answers to an agent that is late, stale or wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from aios.common.v1 import resources_pb2
from aios.errors import Aborted, FailedPrecondition, NotFound, PermissionDenied
from aios.records.dialect import sqlite
from aios.scheduler.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    job_pb2,
    node_pb2,
    scheduler_service_pb2,
)
from aios.scheduler.v1.agent_service_pb2 import ConnectRequest as Request
from aios.scheduler.v1.agent_service_pb2 import ConnectResponse as Response
from aios.scheduler.v1.job_pb2 import Attempt
from services.scheduler.signing import BadSignature, Verifier
from tests.service import neighbours
from tests.service.pool import Pool, running_pool

Job = job_pb2.Job
LEASE = 1.0


class Stream:
    """One Connect call of an agent that the test plays."""

    def __init__(self, stub: agent_service_pb2_grpc.AgentServiceStub) -> None:
        self._outbox: asyncio.Queue[Request] = asyncio.Queue()
        self._responses: AsyncIterator[Response] = aiter(stub.Connect(self._requests()))

    async def _requests(self) -> AsyncIterator[Request]:
        while True:
            yield await self._outbox.get()

    def say(self, request: Request) -> None:
        self._outbox.put_nowait(request)

    async def hear(self) -> Response:
        async with asyncio.timeout(5):
            return await anext(self._responses)

    async def register(self, *attempts: Attempt, node: str = "x") -> agent_service_pb2.Registered:
        reports = [agent_service_pb2.AttemptReport(attempt=attempt) for attempt in attempts]
        self.say(
            Request(
                register=agent_service_pb2.Register(
                    node=f"nodes/{node}",
                    capacity=resources_pb2.Resources(cpu_millis=1000, memory_bytes=2**30),
                    host="127.0.0.1",
                    attempts=reports,
                )
            )
        )
        return (await self.hear()).registered

    def report(self, attempt: Attempt) -> None:
        self.say(Request(report=agent_service_pb2.AttemptReport(attempt=attempt)))


def said(job: str, epoch: int, state: Attempt.State.ValueType, node: str = "x", **more: int) -> Attempt:
    return Attempt(job=job, epoch=epoch, node=f"nodes/{node}", state=state, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def playing(tmp_path: Path) -> AsyncIterator[tuple[Pool, agent_service_pb2_grpc.AgentServiceStub]]:
    """A scheduler without agents, and the agents' door of it."""
    async with running_pool(tmp_path, agents=(), lease_seconds=LEASE) as pool:
        token = neighbours.token("node", subject="agent")
        async with neighbours.channel(pool.settings.scheduler_address, token) as channel:
            yield pool, agent_service_pb2_grpc.AgentServiceStub(channel)


async def test_a_stale_epoch_is_refused(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        name = await pool.submit("true")
        job = await pool.until(name, lambda job: bool(job.state_reason))
        assert job.state_message == "waits for a node: none has registered yet"
        stream = Stream(stub)
        assert (await stream.register()).lease.ToTimedelta().total_seconds() == LEASE
        sealed = (await stream.hear()).assignment
        spec = Verifier(pool.settings.secret("scheduler.pub")).open(sealed)
        assert (spec.job, spec.epoch, spec.node) == (name, 1, "nodes/x")
        stream.report(said(name, 1, Attempt.STATE_RUNNING))
        # Silence: the lease runs out, the stream ends, the job waits again and its restart budget is whole.
        job = await pool.until_state(name, Job.STATE_QUEUED)
        assert job.attempt.state == Attempt.STATE_LOST
        with pytest.raises(Aborted, match="lease has run out"):
            await stream.hear()
        late = Stream(stub)
        registered = await late.register(said(name, 1, Attempt.STATE_RUNNING))
        assert [(stop.job, stop.epoch) for stop in registered.stops] == [(name, 1)]
        assert (await late.hear()).assignment.spec
        late.report(said(name, 1, Attempt.STATE_ENDED, exit_code=0))
        assert (await late.hear()).report_ack.epoch == 1
        job = await pool.get(name)
        assert (job.epoch, job.state) == (2, Job.STATE_STARTING)
        late.report(said(name, 1, Attempt.STATE_RUNNING))
        assert (await late.hear()).stop.epoch == 1


async def test_an_altered_assignment_does_not_open(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        await pool.submit("true")
        stream = Stream(stub)
        await stream.register()
        sealed = (await stream.hear()).assignment
        sealed.spec = sealed.spec.replace(b"true", b"evil")
        with pytest.raises(BadSignature):
            Verifier(pool.settings.secret("scheduler.pub")).open(sealed)


async def test_an_assignment_is_said_again_on_the_next_stream_until_it_is_reported(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        name = await pool.submit("true")
        first = Stream(stub)
        await first.register()
        assert (await first.hear()).assignment.spec
        second = Stream(stub)
        await second.register()
        again = await second.hear()
        assert agent_service_pb2.AssignmentSpec.FromString(again.assignment.spec).epoch == 1
        with pytest.raises(Aborted, match="connected again"):
            await first.hear()
        third = Stream(stub)
        await third.register(said(name, 1, Attempt.STATE_ENDED, exit_code=0))
        assert (await third.hear()).report_ack.job == name
        assert (await pool.get(name)).state == Job.STATE_SUCCEEDED


async def test_heartbeats_keep_a_node_and_leaving_ends_new_work(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        stream = Stream(stub)
        await stream.register()
        for sequence in range(1, 9):
            stream.say(Request(heartbeat=agent_service_pb2.Heartbeat(sequence=sequence)))
            assert (await stream.hear()).heartbeat_ack.sequence == sequence
            await asyncio.sleep(LEASE / 4)
        node = await pool.until_ready("x")
        assert node.HasField("heartbeat_time")
        stream.say(Request(leave=agent_service_pb2.Leave()))
        await asyncio.sleep(0.2)
        name = await pool.submit("true")
        job = await pool.until(name, lambda job: bool(job.state_reason))
        assert (job.state, job.state_message) == (Job.STATE_QUEUED, "waits for a node: x is stopped")
        listed = await pool.stub.ListNodes(scheduler_service_pb2.ListNodesRequest())
        assert [(node.name, node.state) for node in listed.nodes] == [
            ("nodes/x", node_pb2.Node.STATE_STOPPED)
        ]


@contextmanager
def locked(pool: Pool) -> Iterator[None]:
    """The scheduler can neither read nor write its records, as while another process holds them."""
    with closing(sqlite.connect(pool.settings.home / "records" / "scheduler.db", isolation_level=None)) as db:
        db.execute("PRAGMA busy_timeout = 5000")
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.execute("ROLLBACK")


async def test_records_that_cannot_be_written_cost_a_node_nothing(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        name = await pool.submit("true")
        stream = Stream(stub)
        await stream.register()
        assert (await stream.hear()).assignment.spec
        with locked(pool):
            stream.report(said(name, 1, Attempt.STATE_RUNNING))
            for sequence in range(1, 13):
                stream.say(Request(heartbeat=agent_service_pb2.Heartbeat(sequence=sequence)))
                assert (await stream.hear()).heartbeat_ack.sequence == sequence
                await asyncio.sleep(LEASE / 4)
        stream.report(said(name, 1, Attempt.STATE_ENDED, exit_code=0))
        assert (await stream.hear()).report_ack.epoch == 1
        job = await pool.until_state(name, Job.STATE_SUCCEEDED)
        assert job.epoch == 1


async def test_a_node_that_comes_back_while_it_is_given_up_is_ready(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        silent = Stream(stub)
        await silent.register()
        await asyncio.sleep(LEASE)
        back = Stream(stub)
        with locked(pool):
            registering = asyncio.create_task(back.register())
            await asyncio.sleep(2 * LEASE)
        await registering
        for sequence in range(1, 9):
            back.say(Request(heartbeat=agent_service_pb2.Heartbeat(sequence=sequence)))
            assert (await back.hear()).heartbeat_ack.sequence == sequence
            await asyncio.sleep(LEASE / 4)
        await pool.until_ready("x")


async def test_an_agent_speaks_for_its_own_node_and_registers_first(tmp_path: Path) -> None:
    async with playing(tmp_path) as (_, stub):
        stream = Stream(stub)
        stream.say(Request(heartbeat=agent_service_pb2.Heartbeat(sequence=1)))
        with pytest.raises(FailedPrecondition):
            await stream.hear()
        stream = Stream(stub)
        with pytest.raises(PermissionDenied):
            await stream.register(said("projects/p/jobs/j", 1, Attempt.STATE_RUNNING, node="other"))


async def test_log_pieces_may_repeat_and_a_gap_is_answered_with_the_end(tmp_path: Path) -> None:
    async with playing(tmp_path) as (pool, stub):
        name = await pool.submit("true")
        stream = Stream(stub)
        await stream.register()
        await stream.hear()

        async def pieces() -> AsyncIterator[agent_service_pb2.PushLogsRequest]:
            for offset, data, end in (
                (0, b"abc", False),
                (0, b"abcd", False),
                (9, b"z", True),
                (4, b"e", True),
            ):
                yield agent_service_pb2.PushLogsRequest(job=name, epoch=1, offset=offset, data=data, end=end)

        assert [answer.stored_bytes async for answer in stub.PushLogs(pieces())] == [3, 4, 4, 5]
        assert await pool.log(name) == b"abcde"

        async def nobodys() -> AsyncIterator[agent_service_pb2.PushLogsRequest]:
            yield agent_service_pb2.PushLogsRequest(job=name, epoch=7, data=b"x")

        with pytest.raises(NotFound):
            await anext(aiter(stub.PushLogs(nobodys())))

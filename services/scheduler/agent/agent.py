"""The agent's stream to the scheduler: registers, renews the lease, obeys, reports."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

import grpc

from aios.errors import AiosError, Unavailable
from aios.scheduler.v1 import agent_service_pb2, agent_service_pb2_grpc, job_pb2
from services.scheduler.agent.attempts import Attempts, key_of
from services.scheduler.signing import BadSignature, Verifier

HEARTBEATS_PER_LEASE = 5
SILENCE_PER_LEASE = 0.6  # of the lease without an answer: the stream is dead, dial again while there is time
REGISTER_SECONDS = 5.0
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.1, 1.0  # a scheduler is back in seconds, and the lease runs
DRAIN_PATIENCE = timedelta(seconds=3)
FLUSH_SECONDS = 3.0  # for the scheduler to take what was said last

_log = logging.getLogger(__name__)
Request = agent_service_pb2.ConnectRequest
Response = agent_service_pb2.ConnectResponse


class Outbox:
    """What this node has to say. Without a stream it is dropped: the next one begins with everything."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Request | None] | None = None
        self._over = asyncio.Event()

    def report(self, attempt: job_pb2.Attempt) -> None:
        """An attempt changed."""
        self.say(Request(report=agent_service_pb2.AttemptReport(attempt=attempt)))

    def say(self, request: Request) -> None:
        if self._queue is not None:
            self._queue.put_nowait(request)

    def begin(self, first: Request) -> AsyncIterator[Request]:
        """A new stream's requests: `first`, then all that is said from now on, in order."""
        self._queue = asyncio.Queue()
        self._over.clear()
        self._queue.put_nowait(first)
        return _drained(self._queue)

    def end(self) -> None:
        """The stream broke: whoever still reads its requests comes to their end."""
        if self._queue is not None:
            self._queue.put_nowait(None)
        self._queue = None
        self._over.set()

    async def close(self) -> None:
        """Hang up once all that was said is sent; return when the scheduler has taken it and hung up too."""
        if self._queue is not None:
            self._queue.put_nowait(None)
            await self._over.wait()


class Agent:
    """One node's end of the conversation.

    Args:
        node: What it registers with.
        lease_file: Where the deadline is kept that every shim obeys.
    """

    def __init__(
        self,
        scheduler: grpc.aio.Channel,
        verifier: Verifier,
        node: agent_service_pb2.Register,
        attempts: Attempts,
        outbox: Outbox,
        lease_file: Path,
        rng: random.Random,
    ) -> None:
        self._stub = agent_service_pb2_grpc.AgentServiceStub(scheduler)
        self._verifier = verifier
        self._node = node
        self._attempts = attempts
        self._outbox = outbox
        self._lease_file = lease_file
        self._rng = rng
        self._lease_seconds = 0.0
        self._sent: dict[int, float] = {}
        self._answered = 0.0
        self._leaving = self._left = False

    async def run(self) -> None:
        """Stay connected until cancelled, or until this node has left."""
        backoff = BACKOFF_SECONDS
        while not self._left:
            began = time.monotonic()
            try:
                await self._converse()
            except AiosError as error:
                _log.warning("not connected to the scheduler: %s", error.message)
            except TimeoutError:
                _log.warning("not connected to the scheduler: it does not answer")
            except OSError as error:
                _log.warning("not connected to the scheduler: this node's disk takes no files: %s", error)
            except Exception:  # noqa: BLE001  # whatever one stream meets, the next may not
                _log.exception("the stream to the scheduler failed")
            finally:
                self._outbox.end()
            backoff = (
                BACKOFF_SECONDS if time.monotonic() - began > 5 else min(2 * backoff, BACKOFF_SECONDS_MAX)
            )
            await asyncio.sleep(backoff * self._rng.uniform(0.5, 1))

    async def drain(self) -> None:
        """End every attempt as the node's own doing: the scheduler starts them again when a node is there."""
        self._leaving = True
        self._outbox.say(Request(leave=agent_service_pb2.Leave()))
        await self._attempts.drain("NODE_STOPPED", DRAIN_PATIENCE)
        self._left = True
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._outbox.close()

    async def _converse(self) -> None:
        """One stream, from registration until it breaks."""
        register = agent_service_pb2.Register()
        register.CopyFrom(self._node)
        register.attempts.extend(
            agent_service_pb2.AttemptReport(attempt=report) for report in self._attempts.reports()
        )
        # A node whose disk takes no files can keep no lease: it must not look alive to the scheduler.
        self._lease_file.with_name(".lease").write_text("0")
        sent_at = time.monotonic()
        stream = self._stub.Connect(self._outbox.begin(Request(register=register)))
        async with aclosing(cast(AsyncGenerator[Response, None], stream)) as responses:
            await self._follow(sent_at, responses)

    async def _follow(self, sent_at: float, responses: AsyncIterator[Response]) -> None:
        """The scheduler's side of a stream whose registration was sent."""
        async with asyncio.timeout(REGISTER_SECONDS):
            first = await anext(responses, None)
        if first is None:
            raise Unavailable("The scheduler closed the stream.")
        self._lease_seconds = first.registered.lease.ToTimedelta().total_seconds()
        self._sent = {}
        self._renew(sent_at)
        for stop in first.registered.stops:
            self._stop(stop)
        if self._leaving:
            self._outbox.say(Request(leave=agent_service_pb2.Leave()))
        _log.info("registered as %s; the lease is %g s", self._node.node, self._lease_seconds)
        tasks = [asyncio.create_task(self._listen(responses)), asyncio.create_task(self._beat())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, responses: AsyncIterator[Response]) -> None:
        async for response in responses:
            self._obey(response)

    async def _beat(self) -> None:
        sequence = 0
        while True:
            await asyncio.sleep(self._lease_seconds / HEARTBEATS_PER_LEASE)
            if time.monotonic() - self._answered > self._lease_seconds * SILENCE_PER_LEASE:
                raise Unavailable("The scheduler does not answer heartbeats.")
            sequence += 1
            self._sent[sequence] = time.monotonic()
            self._outbox.say(Request(heartbeat=agent_service_pb2.Heartbeat(sequence=sequence)))

    def _obey(self, response: Response) -> None:
        match response.WhichOneof("message"):
            case "heartbeat_ack":
                sent_at = self._sent.pop(response.heartbeat_ack.sequence, None)
                if sent_at is not None:
                    self._renew(sent_at)
            case "assignment":
                self._start(response.assignment)
            case "stop":
                self._stop(response.stop)
            case "report_ack":
                self._attempts.forget(
                    (response.report_ack.job, response.report_ack.epoch, response.report_ack.rank)
                )
            case other:
                _log.warning("unexpected message %s", other)

    def _start(self, sealed: agent_service_pb2.Assignment) -> None:
        try:
            assignment = self._verifier.open(sealed)
            if assignment.node != self._node.node:
                raise BadSignature(f"The assignment is for {assignment.node}.")
        except BadSignature as error:
            _log.error("an assignment is refused: %s", error.message)
            self._attempts.refuse(agent_service_pb2.AssignmentSpec.FromString(sealed.spec), error.reason)
            return
        self._attempts.start(assignment)
        if self._leaving:
            self._attempts.stop(key_of(assignment), timedelta(), "NODE_STOPPED")

    def _stop(self, stop: agent_service_pb2.Stop) -> None:
        self._attempts.stop((stop.job, stop.epoch, stop.rank), stop.grace.ToTimedelta())

    def _renew(self, sent_at: float) -> None:
        """The lease runs from when the question was sent, not from when its answer came."""
        self._answered = time.monotonic()
        scratch = self._lease_file.with_name(".lease")
        scratch.write_text(str(sent_at + self._lease_seconds))
        scratch.rename(self._lease_file)


async def _drained(outbox: asyncio.Queue[Request | None]) -> AsyncIterator[Request]:
    while (request := await outbox.get()) is not None:
        yield request

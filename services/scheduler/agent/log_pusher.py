"""Brings the output of attempts to the scheduler: new bytes by offset, one at a time, until the end is stored."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc

from aios.errors import AiosError, NotFound, Unavailable
from aios.scheduler.v1 import agent_service_pb2, agent_service_pb2_grpc

LOOK_SECONDS = 0.1  # between writing a line and its being readable everywhere, with a round trip
PIECE_BYTES = 512 * 1024
ANSWER_SECONDS = 15.0  # a scheduler that takes longer to store a piece is gone
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.2, 2.0

_log = logging.getLogger(__name__)
Answers = AsyncGenerator[agent_service_pb2.PushLogsResponse, None]


@dataclass(eq=False)
class Tail:
    """One attempt's log file on its way."""

    job: str
    epoch: int
    rank: int
    path: Path
    closed: bool = False
    """Nothing writes to the file any more."""
    stored: int | None = None
    """What the scheduler has; None when it must be asked first."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def has_news(self) -> bool:
        """Whether there may be something to send."""
        return self.stored is None or self.closed or self.path.stat().st_size > self.stored

    def next_request(self) -> agent_service_pb2.PushLogsRequest | None:
        """What to send now, or None."""
        if self.stored is None:
            return self._request(0, b"", end=False)
        with self.path.open("rb") as file:
            closed = self.closed  # before the reading: what was written before it is then seen
            file.seek(self.stored)
            data = file.read(PIECE_BYTES)
        if data:
            return self._request(self.stored, data, end=False)
        return self._request(self.stored, b"", end=True) if closed else None

    def _request(self, offset: int, data: bytes, *, end: bool) -> agent_service_pb2.PushLogsRequest:
        return agent_service_pb2.PushLogsRequest(
            job=self.job, epoch=self.epoch, rank=self.rank, offset=offset, data=data, end=end
        )


class LogPusher:
    """One stream for all logs of the node."""

    def __init__(self, scheduler: grpc.aio.Channel) -> None:
        self._stub = agent_service_pb2_grpc.AgentServiceStub(scheduler)
        self._tails: set[Tail] = set()
        self._some = asyncio.Event()

    def follow(self, job: str, epoch: int, rank: int, path: Path) -> Tail:
        """Begin to push a log, from wherever the scheduler has it."""
        tail = Tail(job, epoch, rank, path)
        self._tails.add(tail)
        self._some.set()
        return tail

    async def run(self) -> None:
        """Push until cancelled."""
        backoff = BACKOFF_SECONDS
        while True:
            await self._some.wait()
            try:
                await self._push()
                backoff = BACKOFF_SECONDS
                continue
            except (AiosError, TimeoutError) as error:
                _log.info("logs wait for the scheduler: %s", error)
            except Exception:  # noqa: BLE001  # whatever one stream meets, the next may not
                _log.exception("logs cannot be pushed")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    async def _push(self) -> None:
        """Push on one stream until it breaks or nothing is left."""
        outbox: asyncio.Queue[agent_service_pb2.PushLogsRequest | None] = asyncio.Queue()
        stream = cast(Answers, self._stub.PushLogs(_drained(outbox)))
        try:
            async with aclosing(stream) as answers:
                await self._push_on(outbox, answers)
        finally:
            outbox.put_nowait(None)  # whoever still reads the requests comes to their end

    async def _push_on(
        self, outbox: asyncio.Queue[agent_service_pb2.PushLogsRequest | None], answers: Answers
    ) -> None:
        for tail in self._tails:
            tail.stored = None
        while self._tails:
            idle = True
            for tail in list(self._tails):
                if not tail.has_news() or (request := await asyncio.to_thread(tail.next_request)) is None:
                    continue
                idle = False
                outbox.put_nowait(request)
                await self._answer(tail, request, answers)
            if idle:
                await asyncio.sleep(LOOK_SECONDS)
        self._some.clear()

    async def _answer(
        self,
        tail: Tail,
        request: agent_service_pb2.PushLogsRequest,
        answers: Answers,
    ) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await anext(answers)
        except NotFound as error:
            # The scheduler knows of no such attempt: nobody will ever read this.
            _log.warning("dropping a log: %s", error.message)
            self._finish(tail)
            raise
        except StopAsyncIteration:
            raise Unavailable("The scheduler closed the stream.") from None
        tail.stored = answer.stored_bytes
        if request.end and answer.stored_bytes == request.offset:
            self._finish(tail)

    def _finish(self, tail: Tail) -> None:
        self._tails.discard(tail)
        tail.done.set()


async def _drained(
    outbox: asyncio.Queue[agent_service_pb2.PushLogsRequest | None],
) -> AsyncIterator[agent_service_pb2.PushLogsRequest]:
    while (request := await outbox.get()) is not None:
        yield request

"""Nodes without processes: each speaks the agents' protocol as an agent does, and its jobs are numbers.

A node keeps count of what it was made to hold: more than it has, or one job twice at once on two nodes that both hold a
lease, is a fault of the scheduler, and is written down in `Ledger.faults`.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import grpc

from aios.common.v1 import resources_pb2
from aios.errors import AiosError
from aios.names import NodeName
from aios.scheduler.v1 import agent_service_pb2 as pb
from aios.scheduler.v1 import agent_service_pb2_grpc, job_pb2

HEARTBEATS_PER_LEASE = 5
AGAIN_SECONDS = 0.1

Key = tuple[str, int]
"""A job's name and an epoch."""


@dataclass
class Ledger:
    """What all nodes together saw."""

    assigned: dict[Key, float] = field(default_factory=dict)
    """When each attempt first reached its node, on the monotonic clock."""
    running: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By job, the node and epoch that run it now."""
    leases: dict[str, float] = field(default_factory=dict)
    """By node, until when it may hold jobs, on the monotonic clock."""
    completed: Counter[str] = field(default_factory=Counter)
    """How often each job came to its own end, and its node was told that this is stored."""
    faults: list[str] = field(default_factory=list)


class Node:
    """One simulated node.

    Args:
        seconds: How long a job takes, between these two.
    """

    def __init__(
        self,
        name: str,
        channel: grpc.aio.Channel,
        ledger: Ledger,
        capacity: resources_pb2.Resources,
        seconds: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self._stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._ledger = ledger
        self._seconds = seconds
        self._rng = random.Random(f"{name} {seed}")
        self._held: dict[Key, pb.AssignmentSpec] = {}
        self._ended: dict[Key, job_pb2.Attempt] = {}
        self._ends: dict[Key, asyncio.Task[None]] = {}
        self._out: asyncio.Queue[pb.ConnectRequest | None] = asyncio.Queue()
        self._stream: asyncio.Task[None] | None = None
        self._lease = 1.0
        self._sent: dict[int, float] = {}

    async def run(self) -> None:
        """Stay connected until cancelled, and give up its jobs when its lease runs out, as every agent's shims do."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fence())
            tasks.create_task(self._stay())

    async def _fence(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            # Ends that nobody stored in time count no more either: the scheduler has given these attempts up.
            if (self._held or self._ended) and self._ledger.leases.get(self.name, 0.0) < time.monotonic():
                self.crash()

    async def _stay(self) -> None:
        while True:
            self._stream = asyncio.create_task(self._converse())
            try:
                await asyncio.wait({self._stream})
            finally:
                self._stream.cancel()
            error = None if self._stream.cancelled() else self._stream.exception()
            if error is not None and not isinstance(error, AiosError):
                raise error
            await asyncio.sleep(AGAIN_SECONDS * self._rng.uniform(0.5, 1.5))

    def hang_up(self) -> None:
        """The stream breaks, as when an agent is killed: its jobs go on, and the next stream says so."""
        if self._stream is not None:
            self._stream.cancel()

    def crash(self) -> None:
        """The machine is gone with all that it held; what comes back has nothing."""
        for task in self._ends.values():
            task.cancel()
        for key in list(self._held):
            self._release(key)
        self._ends.clear()
        self._ended.clear()
        self.hang_up()

    async def _converse(self) -> None:
        out = self._out = asyncio.Queue()
        register = pb.Register(node=str(NodeName(self.name)), capacity=self.capacity, host="127.0.0.1")
        for key, spec in self._held.items():
            register.attempts.append(
                pb.AttemptReport(attempt=self._attempt(key, spec, job_pb2.Attempt.STATE_RUNNING))
            )
        for ended in self._ended.values():
            register.attempts.append(pb.AttemptReport(attempt=ended))
        self._out.put_nowait(pb.ConnectRequest(register=register))
        sent = time.monotonic()
        beats: asyncio.Task[None] | None = None
        # What a channel of ours gives is a generator.
        said = cast(AsyncGenerator[pb.ConnectResponse, None], self._stub.Connect(self._said()))
        try:
            async with aclosing(said) as messages:
                async for message in messages:
                    match message.WhichOneof("message"):
                        case "registered":
                            self._lease = message.registered.lease.ToTimedelta().total_seconds()
                            self._ledger.leases[self.name] = sent + self._lease
                            for stop in message.registered.stops:
                                self._stop((stop.job, stop.epoch))
                            beats = asyncio.create_task(self._beat())
                        case "heartbeat_ack":
                            sent = self._sent.pop(message.heartbeat_ack.sequence, 0.0)
                            until = max(self._ledger.leases[self.name], sent + self._lease)
                            self._ledger.leases[self.name] = until
                        case "assignment":
                            self._start(pb.AssignmentSpec.FromString(message.assignment.spec))
                        case "stop":
                            self._stop((message.stop.job, message.stop.epoch))
                        case "report_ack":
                            self._stored((message.report_ack.job, message.report_ack.epoch))
        finally:
            out.put_nowait(None)
            if beats is not None:
                beats.cancel()

    async def _said(self) -> AsyncIterator[pb.ConnectRequest]:
        out = self._out
        while (request := await out.get()) is not None:
            yield request

    async def _beat(self) -> None:
        sequence = 0
        while True:
            await asyncio.sleep(self._lease / HEARTBEATS_PER_LEASE)
            sequence += 1
            self._sent[sequence] = time.monotonic()
            self._out.put_nowait(pb.ConnectRequest(heartbeat=pb.Heartbeat(sequence=sequence)))

    def _start(self, spec: pb.AssignmentSpec) -> None:
        key = (spec.job, spec.epoch)
        if key in self._held:
            return
        if key in self._ended:
            self._tell(self._ended[key])
            return
        self._ledger.assigned.setdefault(key, time.monotonic())
        other = self._ledger.running.get(spec.job)
        if other is not None and self._ledger.leases[other[0]] > time.monotonic():
            self._ledger.faults.append(
                f"{spec.job} runs on {other} and is assigned to {self.name} as {spec.epoch}"
            )
        if self._ledger.completed[spec.job]:
            self._ledger.faults.append(f"{spec.job} has ended and is assigned to {self.name} as {spec.epoch}")
        self._held[key] = spec
        self._ledger.running[spec.job] = (self.name, spec.epoch)
        self._check_room()
        self._tell(self._attempt(key, spec, job_pb2.Attempt.STATE_RUNNING))
        self._ends[key] = asyncio.create_task(self._end_later(key, self._rng.uniform(*self._seconds)))

    async def _end_later(self, key: Key, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._end(key, exit_code=0)

    def _stop(self, key: Key) -> None:
        if key in self._held:
            if task := self._ends.get(key):
                task.cancel()
            self._end(key, exit_code=143)
        elif key not in self._ended:
            job, epoch = key
            self._tell(
                job_pb2.Attempt(
                    job=job,
                    epoch=epoch,
                    node=str(NodeName(self.name)),
                    state=job_pb2.Attempt.STATE_ENDED,
                    end_reason="NOT_STARTED",
                )
            )

    def _end(self, key: Key, exit_code: int) -> None:
        spec = self._held[key]
        self._release(key)
        attempt = self._attempt(key, spec, job_pb2.Attempt.STATE_ENDED)
        attempt.exit_code = exit_code
        self._ended[key] = attempt
        self._ends.pop(key, None)
        self._tell(attempt)

    def _release(self, key: Key) -> None:
        self._held.pop(key)
        if self._ledger.running.get(key[0]) == (self.name, key[1]):
            del self._ledger.running[key[0]]

    def _stored(self, key: Key) -> None:
        attempt = self._ended.pop(key, None)
        if attempt is not None and attempt.exit_code == 0 and not attempt.end_reason:
            self._ledger.completed[key[0]] += 1

    def _tell(self, attempt: job_pb2.Attempt) -> None:
        self._out.put_nowait(pb.ConnectRequest(report=pb.AttemptReport(attempt=attempt)))

    def _attempt(
        self, key: Key, spec: pb.AssignmentSpec, state: job_pb2.Attempt.State.ValueType
    ) -> job_pb2.Attempt:
        return job_pb2.Attempt(job=key[0], epoch=key[1], node=spec.node, state=state, host="127.0.0.1")

    def _check_room(self) -> None:
        cpu = sum(spec.granted.cpu_millis for spec in self._held.values())
        devices = Counter[str]()
        for spec in self._held.values():
            devices.update(spec.granted.accelerators)
        over = [kind for kind, count in devices.items() if count > self.capacity.accelerators[kind]]
        if cpu > self.capacity.cpu_millis or over:
            self._ledger.faults.append(f"{self.name} holds {cpu} millicores and {dict(devices)}")

"""Nodes without processes: each speaks the agents' protocol as an agent does, and its jobs are numbers.

A node keeps count of what it was made to hold: more than it has, or one job twice at once on two nodes that both hold a
lease, is a fault of the scheduler, and is written down in `Ledger.faults`.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

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
        self.leaving = 0.0
        self._stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._ledger = ledger
        self._seconds = seconds
        self._rng = random.Random(f"{name} {seed}")
        self._held: dict[Key, pb.AssignmentSpec] = {}
        self._ended: dict[Key, job_pb2.Attempt] = {}
        self._ends: dict[Key, asyncio.Task[None]] = {}
        self._out: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self._call: grpc.aio.StreamStreamCall | None = None  # type: ignore[type-arg]
        self._lease = 1.0
        self._answered = 0.0

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._converse()
            except (AiosError, grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                current = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
                    raise
            if self._held and time.monotonic() - self._answered > self._lease:
                self.crash()
            await asyncio.sleep(AGAIN_SECONDS * self._rng.uniform(0.5, 1.5))

    def hang_up(self) -> None:
        """The stream breaks, as when an agent is killed: its jobs go on, and the next stream says so."""
        if self._call is not None:
            self._call.cancel()

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
        self._out = asyncio.Queue()
        register = pb.Register(node=str(NodeName(self.name)), capacity=self.capacity, host="127.0.0.1")
        for key, spec in self._held.items():
            register.attempts.append(
                pb.AttemptReport(attempt=self._attempt(key, spec, job_pb2.Attempt.STATE_RUNNING))
            )
        for ended in self._ended.values():
            register.attempts.append(pb.AttemptReport(attempt=ended))
        self._out.put_nowait(pb.ConnectRequest(register=register))
        sent = time.monotonic()
        self._call = self._stub.Connect(self._said())
        beats: asyncio.Task[None] | None = None
        try:
            async for message in self._call:
                match message.WhichOneof("message"):
                    case "registered":
                        self._lease = message.registered.lease.ToTimedelta().total_seconds()
                        self._answered = sent
                        for stop in message.registered.stops:
                            self._stop((stop.job, stop.epoch))
                        beats = asyncio.create_task(self._beat())
                    case "heartbeat_ack":
                        self._answered = time.monotonic()
                    case "assignment":
                        self._start(pb.AssignmentSpec.FromString(message.assignment.spec))
                    case "stop":
                        self._stop((message.stop.job, message.stop.epoch))
                    case "report_ack":
                        self._stored((message.report_ack.job, message.report_ack.epoch))
        finally:
            if beats is not None:
                beats.cancel()
            self._call = None

    async def _said(self) -> AsyncIterator[pb.ConnectRequest]:
        out = self._out
        while True:
            yield await out.get()

    async def _beat(self) -> None:
        sequence = 0
        while True:
            await asyncio.sleep(self._lease / HEARTBEATS_PER_LEASE)
            sequence += 1
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
        if other is not None:
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

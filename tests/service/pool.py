"""A real scheduler and real node agents, as processes that a test can kill; identity is played by the test."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from aios.common.v1 import resources_pb2
from aios.config import Settings
from aios.errors import AiosError
from aios.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from aios.runtime import tokens
from aios.runtime.server import Service
from aios.scheduler.v1 import job_pb2, node_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from tests.servers import NatsServer, nats_server, wait_for_port
from tests.service import neighbours

State = job_pb2.Job.State
FINAL = (job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED)
PARENT = "projects/demo"
FOREIGN = {"opentelemetry.proto.collector.trace.v1.TraceService": "spans.write"}


class Identity(identity_service_pb2_grpc.IdentityServiceServicer):
    """Issues worker tokens as the gateway does."""

    def __init__(self) -> None:
        self.ttl = timedelta(minutes=10)
        self.issued: list[tuple[str, int]] = []

    async def IssueWorkerToken(
        self, request: identity_service_pb2.IssueWorkerTokenRequest, context: Any
    ) -> identity_service_pb2.IssueWorkerTokenResponse:
        self.issued.append((request.job, request.epoch))
        secret = neighbours.token("worker", job=request.job, epoch=request.epoch, jti=f"t{len(self.issued)}")
        end = Timestamp()
        end.FromDatetime(datetime.now(UTC) + self.ttl)
        return identity_service_pb2.IssueWorkerTokenResponse(secret=secret, expire_time=end)

    async def WatchRevocations(
        self, request: identity_service_pb2.WatchRevocationsRequest, context: Any
    ) -> AsyncIterator[identity_service_pb2.WatchRevocationsResponse]:
        yield identity_service_pb2.WatchRevocationsResponse()
        await asyncio.Event().wait()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass
class Pool:
    """What a test drives."""

    settings: Settings
    nats: NatsServer
    identity: Identity
    collector: Collector
    lease_seconds: float
    stub: scheduler_service_pb2_grpc.SchedulerServiceStub
    channel: grpc.aio.Channel
    scheduler: subprocess.Popen[bytes] | None = None
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    made: int = 0

    def start_scheduler(self) -> None:
        self.scheduler = self._spawn("services.scheduler", self.settings.home, "scheduler", {})
        wait_for_port(int(self.settings.scheduler_address.rpartition(":")[2]), self.scheduler)

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def start_agent(self, node: str = "a", cpu_millis: int = 2000, **more: str) -> None:
        env = {
            "AIOS_NODE": node,
            "AIOS_NODE_CPU_MILLIS": str(cpu_millis),
            "AIOS_NODE_MEMORY_BYTES": str(2**30),
            "AIOS_NODE_LABELS": "zone=earth",
            "AIOS_TOKEN_FILE": str(self.settings.secret("agent.token")),
            "AIOS_SCHEDULER_PUBLIC_KEY_FILE": str(self.settings.secret("scheduler.pub")),
            **more,
        }
        self.agents[node] = self._spawn("services.scheduler.agent", self.home_of(node), f"agent-{node}", env)

    def kill_agent(self, node: str = "a") -> None:
        self.agents[node].kill()
        self.agents[node].wait()

    def end_without_agent(self, node: str = "a") -> None:
        """What is done when an agent died and nobody starts another."""
        command = [sys.executable, "-m", "services.scheduler.agent", "end"]
        subprocess.run(
            command, env={**os.environ, "AIOS_HOME": str(self.home_of(node))}, check=True, timeout=20
        )

    def home_of(self, node: str) -> Path:
        return self.settings.home / "nodes" / node

    def attempt_directory(self, job: str, epoch: int = 1, node: str = "a") -> Path:
        _, project, _, job_id = job.split("/")
        return self.home_of(node) / "agent" / "attempts" / f"{project}.{job_id}.{epoch}"

    async def submit(self, *command: str, cpu_millis: int = 500, **spec: Any) -> str:
        """Create a job and return its name."""
        spec.setdefault("resources", resources_pb2.Resources(cpu_millis=cpu_millis))
        self.made += 1
        job = await self.stub.CreateJob(
            scheduler_service_pb2.CreateJobRequest(
                parent=PARENT,
                job_id=f"j{self.made}",
                job=job_pb2.Job(spec=job_pb2.JobSpec(command=command, **spec)),
            )
        )
        return str(job.name)

    async def python(self, code: str, *arguments: str, **spec: Any) -> str:
        """Create a job that runs some Python."""
        return await self.submit("python", "-c", code, *arguments, **spec)

    async def get(self, name: str) -> job_pb2.Job:
        return await self.stub.GetJob(scheduler_service_pb2.GetJobRequest(name=name))

    async def cancel(self, name: str) -> job_pb2.Job:
        return await self.stub.CancelJob(scheduler_service_pb2.CancelJobRequest(name=name))

    async def until(
        self, name: str, check: Callable[[job_pb2.Job], bool], seconds: float = 30.0
    ) -> job_pb2.Job:
        """The job once `check` holds; an assertion that shows it when that takes too long."""
        deadline = time.monotonic() + seconds
        job = job_pb2.Job()
        while time.monotonic() < deadline:
            with suppress(AiosError):
                job = await self.get(name)
                if check(job):
                    return job
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name} is still\n{job}")

    async def until_state(self, name: str, state: State.ValueType, seconds: float = 30.0) -> job_pb2.Job:
        return await self.until(name, lambda job: job.state == state, seconds)

    async def until_final(self, name: str, seconds: float = 30.0) -> job_pb2.Job:
        return await self.until(name, lambda job: job.state in FINAL, seconds)

    async def until_ready(self, node: str = "a", seconds: float = 30.0) -> node_pb2.Node:
        """Return once the scheduler may place jobs on the node."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(AiosError):
                found = await self.stub.GetNode(scheduler_service_pb2.GetNodeRequest(name=f"nodes/{node}"))
                if found.state == node_pb2.Node.STATE_READY:
                    return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"node {node} did not register")

    async def until_logged(self, name: str, text: bytes, seconds: float = 10.0) -> None:
        """Return once the job has written `text`."""
        async with asyncio.timeout(seconds):
            while text not in await self.log(name):  # noqa: ASYNC110  # it asks another process
                await asyncio.sleep(0.05)

    async def log(self, name: str, **request: Any) -> bytes:
        """What ReadJobLogs gives, in one piece."""
        pieces = self.stub.ReadJobLogs(scheduler_service_pb2.ReadJobLogsRequest(name=name, **request))
        return b"".join([piece.data async for piece in pieces])

    def _spawn(self, module: str, home: Path, name: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        home.mkdir(parents=True, exist_ok=True)
        env = {
            **os.environ,
            "AIOS_HOME": str(home),
            "AIOS_SCHEDULER_ADDRESS": self.settings.scheduler_address,
            "AIOS_GATEWAY_ADDRESS": self.settings.gateway_address,
            "AIOS_NATS_URL": self.nats.url,
            "AIOS_NATS_CREDENTIALS_FILE": str(self.nats.directory / "nats.json"),
            "AIOS_DATABASE_URL": self.settings.database_url,
            "AIOS_LEASE_SECONDS": str(self.lease_seconds),
            "AIOS_DRAIN_SECONDS": "0.5",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        with (self.settings.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", module], env=env, stdout=log, stderr=log)


@asynccontextmanager
async def running_pool(
    home: Path, *, agents: Sequence[str] = ("a",), lease_seconds: float = 10.0, database_url: str = ""
) -> AsyncIterator[Pool]:
    """A scheduler with agents. Whatever they started is gone at the end."""
    settings = neighbours.settings_in(home, database_url)
    key = tokens.new_key()
    tokens.write_key(key, settings.secret("scheduler.pem"))
    tokens.write_secret(settings.secret("scheduler.pub"), tokens.public_pem(key))
    tokens.write_secret(settings.secret("scheduler.token"), neighbours.token("service", subject="scheduler"))
    tokens.write_secret(settings.secret("agent.token"), neighbours.token("node", subject="agent"))
    identity, collector = Identity(), Collector()
    gateway = [
        Service(identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, identity),
        Service(trace_service_pb2_grpc.add_TraceServiceServicer_to_server, collector),
    ]
    channel = neighbours.channel(settings.scheduler_address, neighbours.token("editor"))
    with nats_server(home / "nats") as nats:
        async with neighbours.neighbour(settings, "gateway", gateway, FOREIGN), channel:
            stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
            pool = Pool(settings, nats, identity, collector, lease_seconds, stub, channel)
            try:
                pool.start_scheduler()
                for node in agents:
                    pool.start_agent(node)
                    await pool.until_ready(node)
                yield pool
            finally:
                _end(pool)


async def eventually(check: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once `check` holds."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # it looks at other processes
            await asyncio.sleep(0.02)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every process that was started for the attempt in this directory, its shim included."""
    marks = (f"AIOS_SCRATCH={directory}/scratch".encode(), os.fsencode(directory))
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            if marks[0] in environment or marks[1] in arguments:
                found.append(process)
    return found


def _end(pool: Pool) -> None:
    for agent in pool.agents.values():
        agent.kill()
        agent.wait()
    for directory in pool.settings.home.glob("nodes/*/agent/attempts/*"):
        for process in processes_of(directory):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
    if pool.scheduler is not None:
        pool.scheduler.kill()
        pool.scheduler.wait()

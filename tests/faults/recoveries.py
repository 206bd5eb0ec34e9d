"""How long the platform takes to be itself again after one kill, in calm: the figures that are promised."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from aios.client import AsyncClient
from aios.common.v1 import resources_pb2
from aios.errors import AiosError
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from tests.faults.links import Trouble
from tests.faults.platform import LEASE_SECONDS, Platform

SCHEDULER_SECONDS = 3.0
AGENT_SECONDS = 10.0
NODE_SECONDS = LEASE_SECONDS + 10.0
WORK_SECONDS = 3.0
PATIENCE_SECONDS = 60.0
NODES = {"nodes/a": "agent-scheduler", "nodes/b": "agent-b-scheduler"}


async def scheduler_killed(platform: Platform, client: AsyncClient) -> float:
    """Seconds from SIGKILL to the first answer through the public door. No job may be started again."""
    jobs = [await submit(platform, "sleep", "6") for _ in range(3)]
    for job in jobs:
        await until(client, job, lambda now: now.state == job_pb2.Job.STATE_RUNNING)
    began = time.monotonic()
    os.kill(platform.pid("scheduler"), signal.SIGKILL)
    await asyncio.sleep(0.05)
    while True:
        with suppress(AiosError):
            await client.jobs.get(jobs[0])
            break
    took = time.monotonic() - began
    for job in jobs:
        ended = await until(client, job, lambda now: now.state >= job_pb2.Job.STATE_SUCCEEDED)
        assert (ended.state, ended.epoch) == (job_pb2.Job.STATE_SUCCEEDED, 1), ended
    await platform.until_ready()
    return took


async def agent_killed(platform: Platform, client: AsyncClient) -> float:
    """Seconds that a job's end is told later because its agent was killed while it ran."""
    job = await submit(platform, "sleep", str(WORK_SECONDS))
    running = await until(client, job, lambda now: now.state == job_pb2.Job.STATE_RUNNING)
    began = time.monotonic()
    os.kill(platform.pid("agent" if running.attempt.node == "nodes/a" else "agent-b"), signal.SIGKILL)
    ended = await until(client, job, lambda now: now.state >= job_pb2.Job.STATE_SUCCEEDED)
    assert ended.state == job_pb2.Job.STATE_SUCCEEDED, ended
    took = time.monotonic() - began
    await platform.until_ready()
    return max(0.0, took - WORK_SECONDS)


async def node_lost(platform: Platform, client: AsyncClient) -> float:
    """Seconds from the last word of a node until its job runs on another."""
    job = await submit(platform, "sleep", "30")
    running = await until(client, job, lambda now: now.state == job_pb2.Job.STATE_RUNNING)
    began = time.monotonic()
    async with platform.links[NODES[running.attempt.node]].troubled(Trouble.DROP):
        again = await until(
            client, job, lambda now: now.state == job_pb2.Job.STATE_RUNNING and now.epoch > running.epoch
        )
        took = time.monotonic() - began
    assert again.attempt.node != running.attempt.node
    await client.jobs.cancel(job)
    await until(client, job, lambda now: now.state >= job_pb2.Job.STATE_SUCCEEDED)
    await platform.until_ready()
    return took


async def submit(platform: Platform, *command: str) -> str:
    """A small job; its name."""
    credentials = platform.client().credentials
    async with connect(credentials.target, credentials.current_token) as channel:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        spec = job_pb2.JobSpec(command=command, resources=resources_pb2.Resources(cpu_millis=100))
        request = pb.CreateJobRequest(
            parent="projects/default", job=job_pb2.Job(spec=spec), request_id=str(uuid4())
        )
        return str((await stub.CreateJob(request)).name)


async def until(client: AsyncClient, name: str, holds: Callable[[job_pb2.Job], bool]) -> job_pb2.Job:
    """The job once that holds."""
    began, job = time.monotonic(), None
    while time.monotonic() - began < PATIENCE_SECONDS:
        with suppress(AiosError):
            job = await client.jobs.get(name)
            if holds(job):
                return job
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} is still {job}")

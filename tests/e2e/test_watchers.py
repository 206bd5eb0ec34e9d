"""Watchers that never read: they cost the platform a little each, once, and the others nothing."""

import asyncio
from typing import Any

import grpc
import psutil

from aios.client.connection import request_id
from aios.common.v1 import resources_pb2
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from tests.e2e.stack import Stack

SLOW, CONNECTIONS = 200, 4
JOBS, JOB_BYTES = 40, 8_000
"""80 changes of 8 kB for each watcher: 128 MB in all, if anything kept them."""
SERVICE_GROWTH_BYTES = 48 << 20
DOOR_GROWTH_BYTES = SLOW * (3 << 19)
"""One and a half MiB for each: two buffers and two windows."""
PROJECT = "projects/default"


def memory(aios: Stack, service: str) -> int:
    return int(psutil.Process(aios.state.services[service].pid).memory_info().rss)


async def test_watchers_that_never_read_hold_up_nobody_and_cannot_grow_memory(aios: Stack) -> None:
    metadata = tuple(aios.bearer().items())
    alone = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(aios.target, options=alone) for _ in range(CONNECTIONS)]
    slow: list[Any] = []
    for number in range(SLOW):
        watch: Any = channels[number % CONNECTIONS].unary_stream(
            "/aios.scheduler.v1.SchedulerService/WatchJobs", pb.WatchJobsRequest.SerializeToString
        )
        slow.append(watch(pb.WatchJobsRequest(parent=PROJECT), metadata=metadata))
    await asyncio.sleep(1)
    service, door = memory(aios, "scheduler"), memory(aios, "envoy")
    async with connect(aios.target, lambda: aios.token) as channel:
        stub: Any = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        reading = stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT))
        await anext(reading)
        made = [await one_job(stub) for _ in range(JOBS)]
        ended: set[str] = set()
        async with asyncio.timeout(30):
            while not ended >= set(made):
                message = await anext(reading)
                ended |= {event.job.name for event in message.events if event.type == "cancelled"}
    assert memory(aios, "scheduler") - service < SERVICE_GROWTH_BYTES
    assert memory(aios, "envoy") - door < DOOR_GROWTH_BYTES
    for each in channels:
        await each.close()


async def one_job(stub: Any) -> str:
    """A job that is cancelled at once."""
    resources = resources_pb2.Resources(cpu_millis=50, memory_bytes=32 << 20)
    spec = job_pb2.JobSpec(command=["sleep", "60"], resources=resources, environment={"X": "x" * JOB_BYTES})
    request = pb.CreateJobRequest(parent=PROJECT, job=job_pb2.Job(spec=spec), request_id=request_id())
    job = await stub.CreateJob(request, timeout=30)
    await stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=30)
    return str(job.name)

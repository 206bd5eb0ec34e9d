"""Durable assignments a second, end to end: gRPC in, records on disk, gRPC out to agents that start no process.

A real scheduler process; 100 simulated nodes of 8 GPUs in this one. Every job is created by its own CreateJob and opens
one attempt that is committed before its node hears of it; the node answers RUNNING and then its end, and both are
committed too: three durable changes of a job for each assignment, and its creation before. Batching: one planning step
decides up to 256 starts and stores them in one transaction; reports that arrive while one transaction is written go
into the next, 256 at most; writes that arrive while the disk syncs are committed together (128 at most).
"""

import asyncio
import gc
import tempfile
import time
from pathlib import Path

import psutil

from aios.common.v1 import resources_pb2
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2
from bench.report import Report, quantile
from tests.service import neighbours
from tests.service.pool import running_pool
from tests.service.simulated import Ledger, Node

NODES, GPUS = 100, 8
JOBS = 5_000
CALLERS = 8
ASSIGNMENTS_PER_SECOND_MIN = 500.0
SECONDS_MAX = 300.0


async def main() -> None:
    report = Report("scheduler_assign")
    gc.set_threshold(50_000, 20, 100)  # of the simulated nodes: they are not what is measured
    with tempfile.TemporaryDirectory(prefix="aios-assign-") as folder:
        async with running_pool(Path(folder), agents=(), lease_seconds=30) as pool:
            ledger = Ledger()
            channel = neighbours.channel(
                pool.settings.scheduler_address, neighbours.token("node", subject="agent")
            )
            capacity = resources_pb2.Resources(
                cpu_millis=1000 * GPUS, memory_bytes=1 << 40, accelerators={"gpu/SIM": GPUS}
            )
            left = iter(range(JOBS))
            created: dict[str, float] = {}

            async def submit() -> None:
                for number in left:
                    spec = job_pb2.JobSpec(
                        command=["true"],
                        resources=resources_pb2.Resources(cpu_millis=1000, accelerators={"gpu": 1}),
                    )
                    request = scheduler_service_pb2.CreateJobRequest(
                        parent="projects/demo", job_id=f"a{number}", job=job_pb2.Job(spec=spec)
                    )
                    job = await pool.stub.CreateJob(request)
                    created[job.name] = time.monotonic()

            began = time.monotonic()
            await asyncio.gather(*(submit() for _ in range(CALLERS)))
            report.figure("creations_per_second", JOBS / (time.monotonic() - began))
            assert pool.scheduler is not None
            scheduler = psutil.Process(pool.scheduler.pid)
            worked = sum(scheduler.cpu_times()[:2])
            nodes = [Node(f"sim{n}", channel, ledger, capacity) for n in range(NODES)]
            began = time.monotonic()
            tasks = [asyncio.create_task(node.run()) for node in nodes]
            async with asyncio.timeout(SECONDS_MAX):
                while len(ledger.completed) < JOBS:  # noqa: ASYNC110  # counted by many tasks
                    await asyncio.sleep(0.05)
            seconds = max(ledger.assigned.values()) - min(ledger.assigned.values())
            report.bar("assignments_per_second", JOBS / seconds, at_least=ASSIGNMENTS_PER_SECOND_MIN)
            # What the scheduler itself worked for it: no other process of a busy machine is in it.
            worked = sum(scheduler.cpu_times()[:2]) - worked
            report.figure("scheduler_cpu_ms_per_assignment", 1000 * worked / JOBS)
            report.figure("seconds_to_the_last_end", time.monotonic() - began)
            report.bar("faults", len(ledger.faults), 0)
            # A pool with room: how long one job takes from its creation to its node.
            left = iter(range(JOBS, JOBS + 500))
            created.clear()
            await asyncio.gather(*(submit() for _ in range(4)))
            async with asyncio.timeout(SECONDS_MAX):
                while len(ledger.completed) < JOBS + 500:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            waits = [1000 * max(0.0, ledger.assigned[(name, 1)] - at) for name, at in created.items()]
            report.figure("created_to_assigned_p50_ms", quantile(waits, 0.5))
            report.figure("created_to_assigned_p99_ms", quantile(waits, 0.99))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await channel.close()
    report.finish()


if __name__ == "__main__":
    asyncio.run(main())

"""From submitting a job to its process running, on a warm stack: through the public door, as a client does it.

The process writes down the time itself, as its first act: the interpreter's own start is in the figure of `python`
jobs and not in that of `date`, which is the platform's part alone.
"""

import asyncio
import time
from collections.abc import Sequence

from aios.client.connection import request_id
from aios.common.v1 import resources_pb2
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from bench import stack
from bench.report import Report, millis
from bench.stack import Stack

SEQUENTIAL = 25
AT_ONCE = 20
P95_SECONDS_MAX = 1.0
JOB_SECONDS = 30.0
ENDED = (job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED)
DATE = ("date", "+%s.%N")
PYTHON = ("python", "-c", "import time; print(time.time())")


class Pool:
    """Submits to one stack."""

    def __init__(self, running: Stack) -> None:
        target = running.state.address.removeprefix("http://")
        self.channel = connect(target, lambda: running.token)
        self._stub = scheduler_service_pb2_grpc.SchedulerServiceStub(self.channel)

    async def seconds_to_start(self, command: Sequence[str], ask_seconds: float = 0.1) -> float:
        """Submit a job, and let it end. Returns the seconds from the call until its process ran.

        Args:
            ask_seconds: Between questions whether it has ended: they are work for what is measured.
        """
        # Small enough for all of them to run at once: what is measured is not the wait for a core.
        resources = resources_pb2.Resources(cpu_millis=50, memory_bytes=32 << 20)
        job = job_pb2.Job(spec=job_pb2.JobSpec(command=command, resources=resources))
        request = pb.CreateJobRequest(parent="projects/default", job=job, request_id=request_id())
        submitted = time.time()
        name = (await self._stub.CreateJob(request)).name
        async with asyncio.timeout(JOB_SECONDS):
            while (job := await self._stub.GetJob(pb.GetJobRequest(name=name))).state not in ENDED:  # noqa: ASYNC110
                await asyncio.sleep(ask_seconds)
        if job.state != job_pb2.Job.STATE_SUCCEEDED:
            raise RuntimeError(f"{name} ended as {job.state_reason}: {job.state_message}")
        pieces = self._stub.ReadJobLogs(pb.ReadJobLogsRequest(name=name))
        printed = b"".join([piece.data async for piece in pieces])
        return float(printed) - submitted


async def main() -> None:
    report = Report("dispatch")
    report.say("starting a stack")
    with stack.running() as running:
        pool = Pool(running)
        await pool.seconds_to_start(PYTHON)
        for name, command in (("process", DATE), ("python", PYTHON)):
            one_by_one = millis([await pool.seconds_to_start(command) for _ in range(SEQUENTIAL)])
            report.figure(f"{name}_p50_seconds", one_by_one["p50"] / 1000)
            report.bar(f"{name}_p95_seconds", one_by_one["p95"] / 1000, P95_SECONDS_MAX)
        jobs = (pool.seconds_to_start(DATE, ask_seconds=AT_ONCE / 10) for _ in range(AT_ONCE))
        at_once = millis(await asyncio.gather(*jobs))
        report.figure(f"process_{AT_ONCE}_at_once_p50_seconds", at_once["p50"] / 1000)
        report.figure(f"process_{AT_ONCE}_at_once_p95_seconds", at_once["p95"] / 1000)
        await pool.channel.close()
    report.finish()


if __name__ == "__main__":
    asyncio.run(main())

"""What preemption costs training that lives: jobs with deadlines take all devices of a node from two runs, again and again.

A stack of its own; its node declares four cores, which stand for devices. Two runs hold two each: steps of 50 ms in NumPy,
saved every 200 and when the process is told to stop. Under `edf`, with its usual
interval, a job with a deadline takes all four for some seconds; then the runs go on. Counted as lost, of the devices'
time that the runs held: from a run's last step until its devices are free, from its next assignment until its first
step, and steps that were made twice. The first start of a run is none of preemption's doing.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from aios.client import AsyncClient
from aios.client.jobs import FINAL
from aios.common.v1 import resources_pb2
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, policy_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from aios.trainer.v1 import run_pb2
from bench import stack
from bench.preempted import STEP_SECONDS
from bench.report import Report
from bench.stack import Stack

DEVICES, RUNS, DEMANDS = 4, 2, 3
BETWEEN_SECONDS, DEMAND_SECONDS = 100.0, 5
STEPS = round((DEMANDS + 0.5) * BETWEEN_SECONDS / STEP_SECONDS)
LOOK_SECONDS, PATIENCE_SECONDS = 0.2, 120.0
FREE_SECONDS_MAX, LOST_PERCENT_MAX = 30.0, 5.0


@dataclass
class Seen:
    """All attempts of the jobs that are watched, as the records have them last."""

    attempts: dict[tuple[str, int], job_pb2.Attempt] = field(default_factory=dict)
    states: dict[str, job_pb2.Job.State.ValueType] = field(default_factory=dict)


async def main() -> None:
    report = Report("scheduler_preemption")
    report.say("starting a stack")
    settings = {"AIOS_NODE_CPU_MILLIS": str(1000 * DEVICES), "AIOS_NODE_MEMORY_BYTES": str(8 << 30)}
    with stack.running(**settings) as running, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            Path(__file__).parent, Path(folder, "bench"), ignore=shutil.ignore_patterns("*.pyc", "traces")
        )
        async with running.client() as client:
            await client.jobs.set_policy(policy_pb2.Policy(algorithm="edf"))
            spec = {
                "command": [sys.executable, "-m", "bench.preempted"],
                "resources": {"cpu": DEVICES / RUNS, "memory": "1Gi"},
                "hyperparameters": {"steps": STEPS},
                "environment": {"OMP_NUM_THREADS": "1"},
            }
            runs = [await client.runs.submit(spec, code=Path(folder)) for _ in range(RUNS)]
            jobs = [await job_of(client, run.name) for run in runs]
            async with watched(client, jobs) as seen:
                demands = [await demand(report, running, seen, jobs) for _ in range(DEMANDS)]
                report.say("the runs go on to their ends")
                for run in runs:
                    ended = await client.runs.wait(run.name)
                    if ended.state != run_pb2.Run.STATE_SUCCEEDED:
                        raise RuntimeError(f"{run.name} ended as {ended.state_reason}: {ended.state_message}")
            report.bar("devices_free_seconds_worst", max(demands), FREE_SECONDS_MAX)
            await account(report, client, seen, list(zip([run.name for run in runs], jobs, strict=True)))
    report.finish()


@asynccontextmanager
async def watched(client: AsyncClient, jobs: list[str]) -> AsyncIterator[Seen]:
    """Look at jobs all the time."""
    seen = Seen()

    async def look() -> None:
        while True:
            for name in jobs:
                job = await client.jobs.get(name)
                seen.states[name] = job.state
                if job.HasField("attempt"):
                    seen.attempts[name, job.attempt.epoch] = job.attempt
            await asyncio.sleep(LOOK_SECONDS)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        yield seen
        await asyncio.sleep(5 * LOOK_SECONDS)
        looking.cancel()


async def job_of(client: AsyncClient, run: str) -> str:
    """The job of a run, once there is one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await client.runs.get(run)).job:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
    return found.job


async def demand(report: Report, running: Stack, seen: Seen, runs: list[str]) -> float:
    """Once the runs have run for a while, a job that takes all that they hold. Returns the seconds until it had it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all(seen.states.get(run) == job_pb2.Job.STATE_RUNNING for run in runs):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
    report.say("the runs run")
    await asyncio.sleep(BETWEEN_SECONDS)
    before = {run: max(epoch for name, epoch in seen.attempts if name == run) for run in runs}
    resources = resources_pb2.Resources(cpu_millis=1000 * DEVICES, memory_bytes=256 << 20)
    spec = job_pb2.JobSpec(command=["sleep", str(DEMAND_SECONDS)], resources=resources)
    spec.scheduling.deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=60))
    async with connect(running.state.address.removeprefix("http://"), lambda: running.token) as channel:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        request = pb.CreateJobRequest(parent="projects/default", job=job_pb2.Job(spec=spec))
        job = await stub.CreateJob(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while job.state not in FINAL:
                    await asyncio.sleep(LOOK_SECONDS)
                    job = await stub.GetJob(pb.GetJobRequest(name=job.name))
    if job.state not in FINAL:
        others = ", ".join(job_pb2.Job.State.Name(seen.states[run]) for run in runs)
        raise RuntimeError(
            f"{job.name} has not ended: {job.state_reason}: {job.state_message}; runs: {others}"
        )
    if job.state != job_pb2.Job.STATE_SUCCEEDED:
        raise RuntimeError(f"{job.name} ended as {job.state_reason}: {job.state_message}")
    created = seconds_of(job.create_time)
    free = max(seconds_of(seen.attempts[run, epoch].end_time) for run, epoch in before.items()) - created
    starts = seconds_of(job.attempt.start_time) - created
    report.say(f"devices free {free:.1f} s after the demand, its process began after {starts:.1f} s")
    return free


async def account(report: Report, client: AsyncClient, seen: Seen, runs: list[tuple[str, str]]) -> None:
    """What was lost, of all that the runs held."""
    held = stopping = reloading = again = first_start = working = 0.0
    committed = repeated = duplicates = missing = preemptions = 0
    for run, job in runs:
        kept = 0
        reached = 0
        for epoch in sorted(epoch for name, epoch in seen.attempts if name == job):
            attempt = seen.attempts[job, epoch]
            lines = [json.loads(line) async for line in printed(client, job, epoch)]
            told = next(line for line in lines if "from" in line)
            assigned, ended = seconds_of(attempt.assign_time), seconds_of(attempt.end_time)
            held += ended - assigned
            if epoch == 1:
                first_start += told["began"] - assigned
            else:
                reloading += told["began"] - assigned
                working += told["processor"]
            committed += max(0, kept - told["from"])
            repeated += max(0, reached - told["from"])
            kept = max((line["saved"] for line in lines if "saved" in line), default=kept)
            reached = told["to"]
            if reached < STEPS:
                preemptions += 1
                stopping += ended - told["ended"]
        points = Counter([point.step async for point in client.runs.metrics(run, "loss")])
        duplicates += sum(count - 1 for count in points.values())
        missing += len(set(range(1, STEPS + 1)) - set(points))
    again = repeated * STEP_SECONDS
    report.figure("preemptions", preemptions)
    report.figure("device_hours_held", held * DEVICES / RUNS / 3600)
    report.figure("seconds_from_last_step_to_free_mean", stopping / max(1, preemptions))
    report.figure("seconds_from_assignment_to_step_mean", reloading / max(1, preemptions))
    report.figure("of_which_processor_seconds_mean", working / max(1, preemptions))
    report.figure("first_start_seconds_mean", first_start / len(runs))
    report.bar("committed_steps_lost", committed, 0)
    report.bar("steps_made_twice", repeated, 0)
    report.bar("metric_points_twice", duplicates, 0)
    report.bar("metric_points_missing", missing, 0)
    report.bar("lost_percent", 100 * (stopping + reloading + again) / held, LOST_PERCENT_MAX)


async def printed(client: AsyncClient, job: str, epoch: int) -> AsyncIterator[str]:
    """Lines of JSON that an attempt wrote, to the one that says what it did."""
    text = b"".join([piece async for piece in client.jobs.logs(job, epoch=epoch)]).decode()
    for line in text.splitlines():
        if line.startswith("{"):
            yield line
            if "from" in line:
                return


def seconds_of(stamp: Timestamp) -> float:
    """Since the epoch."""
    return stamp.seconds + stamp.nanos / 1e9


if __name__ == "__main__":
    asyncio.run(main())

"""Jobs say how far they are: only their own process may, a restart forgets nothing, and policies go by it."""

import asyncio
from pathlib import Path

import pytest

from aios.common.v1 import scheduling_pb2
from aios.errors import InvalidArgument, NotFound, PermissionDenied, StaleEpoch
from aios.scheduler.v1 import job_pb2, policy_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from tests.service import neighbours
from tests.service.pool import Pool, running_pool

Job = job_pb2.Job
SHORTEST = policy_pb2.Policy(name="policy", algorithm="srtf")
SHORTEST.preempt_interval.FromSeconds(1)
SLEEPS = "import time; time.sleep(60)"


def worker(pool: Pool, job: str, epoch: int = 1) -> scheduler_service_pb2_grpc.SchedulerServiceStub:
    token = neighbours.token("worker", job=job, epoch=epoch)
    return scheduler_service_pb2_grpc.SchedulerServiceStub(
        neighbours.channel(pool.settings.scheduler_address, token)
    )


async def tell(pool: Pool, job: str, epoch: int = 1, **said: object) -> None:
    request = pb.ReportJobProgressRequest(name=job, epoch=epoch)
    request.progress.CopyFrom(job_pb2.JobProgress(**said))  # type: ignore[arg-type]
    await worker(pool, job, epoch).ReportJobProgress(request)


async def test_progress_is_the_jobs_own_word_survives_a_restart_and_decides(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        long = await pool.python(SLEEPS, cpu_millis=2000)
        await pool.until_state(long, Job.STATE_RUNNING)
        report = pb.ReportJobProgressRequest(name=long, epoch=1, progress=job_pb2.JobProgress(step=1))
        with pytest.raises(PermissionDenied):
            await pool.stub.ReportJobProgress(report)
        with pytest.raises(NotFound):
            await worker(pool, "projects/demo/jobs/other").ReportJobProgress(report)
        with pytest.raises(StaleEpoch):
            await tell(pool, long, 2, step=1)
        with pytest.raises(InvalidArgument, match=r"progress\.step"):
            await tell(pool, long, step=-1)

        await tell(pool, long, step=20, total_steps=1000, steps_per_second=1.0, saved_step=15)
        told = (await pool.until(long, lambda job: job.progress.step == 20)).progress
        assert (told.step, told.total_steps, told.saved_step, told.epoch) == (20, 1000, 15, 1)
        assert told.load_time.ToTimedelta().total_seconds() < 20

        await asyncio.sleep(2)  # its next step stores what is new
        pool.kill_scheduler()
        pool.start_scheduler()
        kept = await pool.until(long, lambda job: job.progress.total_steps == 1000)
        assert kept.progress.load_time == told.load_time
        await pool.until_ready()

        # It has not said that it saves its work, so nothing stops it, until it does.
        token = neighbours.token("admin", platform=True)
        channel = neighbours.channel(pool.settings.scheduler_address, token)
        operator = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        await operator.UpdatePolicy(pb.UpdatePolicyRequest(policy=SHORTEST))
        short = await pool.submit("true", cpu_millis=2000)
        seen = await operator.PreviewPolicy(pb.PreviewPolicyRequest(policy=SHORTEST))
        assert not seen.stops
        await tell(pool, long, step=30, total_steps=1000, steps_per_second=1.0, saved_step=15, saves=True)
        await pool.until_state(short, Job.STATE_SUCCEEDED)
        again = await pool.until_state(long, Job.STATE_RUNNING)
        assert (again.epoch, again.progress.step) == (2, 30)
        with pytest.raises(StaleEpoch):
            await tell(pool, long, 1, step=40)


async def test_what_is_said_at_submit_is_checked_and_kept_to(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        for wrong, field in [
            ({"weight": -1.0}, "job.spec.scheduling.weight"),
            ({"node_selector": {"zone": "mars"}}, "job.spec.scheduling.node_selector"),
            ({"speeds": {"gpu": 1.0}}, "job.spec.scheduling.speeds['gpu']"),
        ]:
            with pytest.raises(InvalidArgument) as raised:
                await pool.python("", scheduling=scheduling_pb2.Scheduling(**wrong))  # type: ignore[arg-type]
            assert raised.value.fields.keys() == {field}
        limit = scheduling_pb2.Scheduling(node_selector={"zone": "earth"})
        limit.max_run_time.FromSeconds(1)
        ended = await pool.until_final(await pool.python(SLEEPS, max_restarts=5, scheduling=limit))
        assert (ended.state, ended.state_reason, ended.epoch) == (Job.STATE_FAILED, "MAX_RUN_TIME", 1)

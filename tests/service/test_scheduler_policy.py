"""A policy is put in force while jobs run: it takes back what one project has too much of, and loses no work."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from aios.common.v1 import resources_pb2
from aios.errors import InvalidArgument, PermissionDenied
from aios.scheduler.v1 import job_pb2, policy_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from tests.service import neighbours
from tests.service.pool import Pool, running_pool

Job = job_pb2.Job
FAIR = policy_pb2.Policy(name="policy", algorithm="fair")
FAIR.preempt_interval.FromSeconds(1)
# Ends by itself once it has been stopped and started again, and says so.
TWICE = "import os, time\nif os.environ['AIOS_EPOCH'] == '1': time.sleep(60)"


def operator(pool: Pool) -> scheduler_service_pb2_grpc.SchedulerServiceStub:
    token = neighbours.token("admin", platform=True)
    return scheduler_service_pb2_grpc.SchedulerServiceStub(
        neighbours.channel(pool.settings.scheduler_address, token)
    )


async def submit(
    stub: scheduler_service_pb2_grpc.SchedulerServiceStub, project: str, command: Sequence[str]
) -> str:
    spec = job_pb2.JobSpec(command=command, resources=resources_pb2.Resources(cpu_millis=1000))
    request = pb.CreateJobRequest(parent=f"projects/{project}", job=job_pb2.Job(spec=spec))
    return (await stub.CreateJob(request)).name


async def test_fair_takes_back_and_what_was_stopped_goes_on(tmp_path: Path) -> None:
    async with running_pool(tmp_path, agents=("a",)) as pool:
        await pool.until_ready("a")
        mine = [await submit(pool.stub, "demo", ["python", "-c", TWICE]) for _ in range(2)]
        for name in mine:
            await pool.until_state(name, Job.STATE_RUNNING)
        stub = operator(pool)
        other = await submit(stub, "other", ["true"])

        seen = await stub.PreviewPolicy(pb.PreviewPolicyRequest(policy=FAIR))
        assert (await stub.GetPolicy(pb.GetPolicyRequest(name="policy"))).algorithm == "balanced"
        made = await stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=FAIR))
        assert (made.algorithm, made.reservations) == ("fair", 8)

        stopped = await pool.until(mine[1], lambda job: job.epoch == 2 or job.state_reason == "PREEMPTED")
        assert seen.stops in ([], [stopped.name]), "it may have run for less than a second then"
        await pool.until_state(mine[1], Job.STATE_SUCCEEDED)
        ended = await stub.GetJob(pb.GetJobRequest(name=other))
        assert ended.state == Job.STATE_SUCCEEDED
        kept = await pool.get(mine[0])
        assert (kept.state, kept.epoch) == (Job.STATE_RUNNING, 1)
        await pool.stub.CancelJob(pb.CancelJobRequest(name=mine[0]))

        # It is in force after a restart, too.
        pool.kill_scheduler()
        pool.start_scheduler()
        assert (await stub.GetPolicy(pb.GetPolicyRequest(name="policy"))).algorithm == "fair"

        useful = policy_pb2.Policy(name="policy", algorithm="utility")
        useful.utility.add(time=0.5, worth=0.8)
        useful.utility.add(time=1.0, worth=1.0)
        made = await stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=useful))
        assert list(made.utility) == list(useful.utility)
        late = await submit(stub, "other", ["true"])

        async def started() -> bool:
            return (await stub.GetJob(pb.GetJobRequest(name=late))).state == Job.STATE_SUCCEEDED

        assert await neighbours.until(started, 30.0), "under utility, too, what waits is started"
        useful.utility.add(time=0.7, worth=2.0)
        with pytest.raises(InvalidArgument, match=r"policy\.utility"):
            await stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=useful))

        wrong = policy_pb2.Policy(name="policy", algorithm="magic")
        with pytest.raises(InvalidArgument, match="must be one of balanced, fcfs"):
            await stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=wrong))
        with pytest.raises(PermissionDenied):
            await pool.stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=FAIR))

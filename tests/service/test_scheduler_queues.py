"""Queues through the scheduler's doors: made, seen, obeyed at the next step, kept over restarts."""

from pathlib import Path

import pytest

from aios.common.v1 import resources_pb2
from aios.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aios.scheduler.v1 import (
    job_pb2,
    policy_pb2,
    queue_pb2,
    queue_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from aios.scheduler.v1 import queue_service_pb2 as pb
from services.scheduler.journal import files_of
from services.scheduler.replay import replay
from tests.service import neighbours
from tests.service.pool import Pool, running_pool

Job = job_pb2.Job


def queues(pool: Pool, role: str = "admin", **who: object) -> queue_service_pb2_grpc.QueueServiceStub:
    token = neighbours.token(role, **who)  # type: ignore[arg-type]
    return queue_service_pb2_grpc.QueueServiceStub(neighbours.channel(pool.settings.scheduler_address, token))


def cpu(millis: int) -> resources_pb2.Resources:
    return resources_pb2.Resources(cpu_millis=millis)


async def test_a_queue_is_made_obeyed_changed_and_removed(tmp_path: Path) -> None:
    async with running_pool(tmp_path, agents=("a",)) as pool:
        operator, editor = queues(pool, platform=True), queues(pool, "editor")
        wanted = queue_pb2.Queue(nominal=cpu(500), limit=cpu(1000), projects=["projects/demo"])
        with pytest.raises(PermissionDenied):
            await editor.CreateQueue(pb.CreateQueueRequest(queue_id="lab", queue=wanted))
        await operator.CreateQueue(pb.CreateQueueRequest(queue_id="top", queue=queue_pb2.Queue()))
        wanted.parent = "queues/top"
        made = await operator.CreateQueue(pb.CreateQueueRequest(queue_id="lab", queue=wanted))
        assert (made.name, made.weight, made.etag) == ("queues/lab", 1.0, "1")

        with pytest.raises(InvalidArgument, match="queues/lab may use 1 cpu at most"):
            await pool.submit("true", cpu_millis=1500, queue="queues/lab")
        with pytest.raises(InvalidArgument, match="may use no queue 'other'"):
            await pool.submit("true", queue="queues/other")
        runs = await pool.submit("sleep", "60", cpu_millis=1000, queue="queues/lab")
        await pool.until_state(runs, Job.STATE_RUNNING)
        waits = await pool.submit("sleep", "60", cpu_millis=600, queue="queues/lab")
        barred = await pool.until(waits, lambda job: job.state_reason == "WAITS_FOR_QUOTA")
        assert (
            barred.state_message == "waits for 0.6 cpu of queues/lab: it uses 1 cpu of the 1 cpu that it may"
        )

        request = scheduler_service_pb2.ExplainJobRequest(name=waits)
        why = await pool.stub.ExplainJob(request)
        assert (why.reason, [each.job for each in why.holders]) == ("WAITS_FOR_QUOTA", [runs])
        assert "nothing is known" in why.unpredicted
        assert "starts now if the limit of queues/lab is raised" in [
            each.message for each in why.alternatives
        ]
        held = await pool.stub.ExplainJob(scheduler_service_pb2.ExplainJobRequest(name=runs))
        assert (held.reason, held.attempts) == ("RUNNING", 1)

        only = scheduler_service_pb2.ListJobsRequest(parent="projects/demo", states=[Job.STATE_QUEUED])
        assert [job.name for job in (await pool.stub.ListJobs(only)).jobs] == [waits]

        seen = await editor.GetQueue(pb.GetQueueRequest(name="queues/lab"))
        assert (seen.usage.used.cpu_millis, seen.usage.borrowed.cpu_millis) == (1000, 500)
        assert (seen.usage.pending.cpu_millis, seen.usage.running_jobs, seen.usage.pending_jobs) == (
            600,
            1,
            1,
        )
        assert seen.usage.share == 0.5
        listed = await editor.ListQueues(pb.ListQueuesRequest(page_size=2))
        assert [queue.name for queue in listed.queues] == ["queues/demo", "queues/lab"]
        rest = await editor.ListQueues(pb.ListQueuesRequest(page_size=2, page_token=listed.next_page_token))
        assert [(queue.name, queue.usage.used.cpu_millis) for queue in rest.queues] == [("queues/top", 1000)]
        with pytest.raises(NotFound):
            await queues(pool, "viewer", project="others").GetQueue(pb.GetQueueRequest(name="queues/lab"))

        pool.kill_scheduler()
        pool.start_scheduler()
        with pytest.raises(FailedPrecondition, match="live jobs"):
            await operator.DeleteQueue(pb.DeleteQueueRequest(name="queues/lab"))
        changed = queue_pb2.Queue(name="queues/lab", limit=cpu(1600), etag="1")
        update = pb.UpdateQueueRequest(queue=changed)
        update.update_mask.paths.append("limit")
        after = await operator.UpdateQueue(update)
        assert (after.limit.cpu_millis, after.nominal.cpu_millis, after.etag) == (1600, 500, "2")
        with pytest.raises(Aborted):
            await operator.UpdateQueue(update)
        await pool.until_state(waits, Job.STATE_RUNNING)

        for name in (runs, waits):
            await pool.cancel(name)
            await pool.until_final(name)
        asked = scheduler_service_pb2.ListJobHistoryRequest(parent="projects/demo", page_size=1)
        past = await pool.stub.ListJobHistory(asked)
        [first] = past.jobs
        assert (first.job, first.queue) == (runs, "queues/lab")
        assert first.create_time.seconds <= first.attempts[0].assign_time.seconds <= first.end_time.seconds
        asked.page_token = past.next_page_token
        assert [each.job for each in (await pool.stub.ListJobHistory(asked)).jobs] == [waits]
        with pytest.raises(NotFound):
            await pool.stub.ListJobHistory(scheduler_service_pb2.ListJobHistoryRequest(parent="projects/-"))
        with pytest.raises(FailedPrecondition, match="is part of"):
            await operator.DeleteQueue(pb.DeleteQueueRequest(name="queues/top"))
        await operator.DeleteQueue(pb.DeleteQueueRequest(name="queues/lab"))
        with pytest.raises(NotFound):
            await operator.GetQueue(pb.GetQueueRequest(name="queues/lab"))

    # What it decided it would decide again.
    for file in files_of(tmp_path / "scheduler" / "decisions"):
        found = replay(file)
        assert (found.differs, found.plans > 0) == ("", True)


async def test_what_was_used_lately_counts_after_a_restart_too(tmp_path: Path) -> None:
    async with running_pool(tmp_path, agents=("a",)) as pool:
        token = neighbours.token("admin", platform=True)
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(
            neighbours.channel(pool.settings.scheduler_address, token)
        )
        policy = policy_pb2.Policy(name="policy", algorithm="fair")
        policy.usage_half_life.FromSeconds(3600)
        await stub.UpdatePolicy(scheduler_service_pb2.UpdatePolicyRequest(policy=policy))
        done = await pool.submit("sleep", "0.5", cpu_millis=2000)
        await pool.until_final(done)
        pool.kill_scheduler()
        pool.start_scheduler()

        async def used() -> float:
            seen = await queues(pool).GetQueue(pb.GetQueueRequest(name="queues/demo"))
            return seen.usage.recent_share

        assert 0.5 / 3600 * 0.6 < await neighbours.until(used) < 0.01

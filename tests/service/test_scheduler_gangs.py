"""Gangs over several nodes, with real agents and real processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aios.common.v1 import scheduling_pb2
from aios.errors import PermissionDenied
from aios.scheduler.v1 import job_pb2, node_pb2, policy_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from tests.service import neighbours
from tests.service.pool import Pool, State, eventually, running_pool

MEET = """
import os, time, torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = torch.nn.Linear(4, 1)
model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
torch.manual_seed(rank)
for step in range(20):
    optimizer.zero_grad()
    model(torch.rand(8, 4)).pow(2).mean().backward()
    optimizer.step()
total = torch.tensor([float(rank)])
dist.all_reduce(total)
weights = [torch.zeros(1) for _ in range(world)]
dist.all_gather(weights, next(model.parameters()).detach().sum().reshape(1))
print(f"rank {rank} of {world}: sum {total.item():g}, same {len({w.item() for w in weights}) == 1}", flush=True)
dist.destroy_process_group()
"""
WAIT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "meets", os.environ["MASTER_PORT"], flush=True)
if len(sys.argv) > 1 and os.environ["RANK"] == sys.argv[1] and os.environ["AIOS_EPOCH"] == "1":
    time.sleep(1)
    sys.exit(9)
time.sleep(600 if len(sys.argv) == 1 else 3 if os.environ["AIOS_EPOCH"] == "2" else 600)
"""
SIZE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("world", os.environ["WORLD_SIZE"], flush=True)
time.sleep(600)
"""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with running_pool(tmp_path, agents=("a", "b"), lease_seconds=5.0) as made:
        yield made


def nodes(job: job_pb2.Job) -> list[str]:
    return [each.node for each in job.attempt.replicas]


async def test_two_ranks_on_two_nodes_train_one_model(pool: Pool) -> None:
    """By a machine that is too small for both."""
    name = await pool.python(MEET, cpu_millis=1500, replicas=2)
    job = await pool.until_final(name, 90)
    logs = [await pool.log(name, rank=rank) for rank in (0, 1)]
    assert job.state == State.STATE_SUCCEEDED, logs
    assert sorted(nodes(job)) == ["nodes/a", "nodes/b"]
    for rank, log in enumerate(logs):
        assert f"rank {rank} of 2: sum 1, same True".encode() in log


async def test_one_rank_that_fails_ends_all_and_they_start_again_together(pool: Pool) -> None:
    name = await pool.python(WAIT, "1", cpu_millis=1500, replicas=2, max_restarts=1)
    job = await pool.until_final(name, 60)
    assert (job.state, job.epoch) == (State.STATE_SUCCEEDED, 2), job
    history = await pool.stub.ListJobHistory(
        scheduler_service_pb2.ListJobHistoryRequest(parent="projects/demo")
    )
    first, second = history.jobs[0].attempts
    assert first.exit_code == 9
    assert first.end_time.ToDatetime() <= second.assign_time.ToDatetime()
    assert b"rank 1 of 2" in await pool.log(name, epoch=1, rank=1)


async def test_a_lost_node_ends_the_rest_before_the_gang_starts_elsewhere(pool: Pool) -> None:
    name = await pool.python(WAIT, cpu_millis=1500, replicas=2)
    job = await pool.until_state(name, State.STATE_RUNNING)
    pool.kill_agent("b")
    job = await pool.until(name, lambda each: each.state == State.STATE_QUEUED)
    assert job.state_reason in ("NODE_LOST", "WAITS_FOR_NODE", "WAITS_FOR_GANG", "WAITS_FOR_CPU")
    rank = nodes(job).index("nodes/a")
    assert job.attempt.replicas[rank].state == job_pb2.Attempt.STATE_ENDED
    left = [pool.home_of(node) / "agent" / "attempts" for node in ("a", "b")]
    # Whoever lost its lease has ended its own.
    await eventually(lambda: all((each / "exit").exists() for at in left for each in at.iterdir()))
    pool.start_agent("c")
    job = await pool.until_state(name, State.STATE_RUNNING)
    assert (job.epoch, sorted(nodes(job))) == (2, ["nodes/a", "nodes/c"])
    await pool.cancel(name)
    await pool.until_state(name, State.STATE_CANCELLED)


async def test_a_gang_lives_through_a_scheduler_and_an_agent_that_start_again(tmp_path: Path) -> None:
    async with running_pool(tmp_path, agents=("a", "b"), lease_seconds=20.0) as pool:
        name = await pool.python(WAIT, cpu_millis=1500, replicas=2)
        await pool.until_state(name, State.STATE_RUNNING)
        pool.kill_scheduler()
        pool.kill_agent("a")
        pool.start_scheduler()
        pool.start_agent("a")
        await pool.cancel(name)
        job = await pool.until_state(name, State.STATE_CANCELLED)
        assert (job.epoch, [each.exit_code for each in job.attempt.replicas]) == (1, [143, 143])


async def test_a_node_that_is_drained_gives_its_jobs_to_others_and_takes_none(pool: Pool) -> None:
    name = await pool.python("import time; time.sleep(600)", cpu_millis=1500)
    job = await pool.until_state(name, State.STATE_RUNNING)
    node, node_id = job.attempt.node, job.attempt.node.removeprefix("nodes/")
    drain = scheduler_service_pb2.UpdateNodeRequest(
        node=node_pb2.Node(name=node, draining=True, taints={"dedicated": "lab"})
    )
    with pytest.raises(PermissionDenied):
        await pool.stub.UpdateNode(drain)
    token = neighbours.token("admin", platform=True)
    async with neighbours.channel(pool.settings.scheduler_address, token) as channel:
        await scheduler_service_pb2_grpc.SchedulerServiceStub(channel).UpdateNode(drain)
    job = await pool.until(name, lambda each: each.epoch == 2 and each.state == State.STATE_RUNNING)
    assert job.attempt.node != node
    # What operators say outlasts the agent.
    pool.kill_agent(node_id)
    pool.start_agent(node_id)
    found = await pool.until_ready(node_id)
    assert (found.draining, found.labels["taint/dedicated"]) == (True, "lab")
    await pool.cancel(name)


async def test_an_elastic_gang_makes_room_by_a_smaller_one_and_grows_again(pool: Pool) -> None:
    token = neighbours.token("admin", platform=True)
    async with neighbours.channel(pool.settings.scheduler_address, token) as channel:
        policy = policy_pb2.Policy(name="policy", algorithm="dynamic")
        policy.preempt_interval.FromSeconds(1)
        await scheduler_service_pb2_grpc.SchedulerServiceStub(channel).UpdatePolicy(
            scheduler_service_pb2.UpdatePolicyRequest(policy=policy)
        )
    said = scheduling_pb2.Scheduling(preemptible=True)
    said.expected_duration.FromSeconds(3600)
    name = await pool.python(SIZE, cpu_millis=1500, replicas=2, min_replicas=1, scheduling=said)
    await pool.until_logged(name, b"world 2", 30)
    other = await pool.python("import time; time.sleep(5)", cpu_millis=1500)
    smaller = await pool.until(name, lambda each: each.epoch == 2 and each.state == State.STATE_RUNNING)
    assert len(smaller.attempt.replicas) == 1
    await pool.until_logged(name, b"world 1")
    assert (await pool.until_final(other)).state == State.STATE_SUCCEEDED
    larger = await pool.until(name, lambda each: each.epoch == 3 and each.state == State.STATE_RUNNING)
    assert (len(larger.attempt.replicas), larger.spec.max_restarts) == (2, 0)
    history = await pool.stub.ListJobHistory(
        scheduler_service_pb2.ListJobHistoryRequest(parent="projects/demo")
    )
    [tries] = [each.attempts for each in history.jobs if each.job == name]
    assert [each.end_reason for each in tries] == ["RESIZED", "RESIZED", ""]
    await pool.cancel(name)

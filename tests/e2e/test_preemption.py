"""A run gives way to another project and goes on from its checkpoint: nobody sees it in the model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aios.client import Client
from aios.common.v1 import resources_pb2
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, node_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from aios.trainer.v1 import run_pb2
from tests.e2e import digits
from tests.e2e.stack import Stack, eventually
from tests.e2e.test_kill import reached

pytestmark = pytest.mark.timeout(300)

ONE_CORE = 1000
OTHERS_SECONDS = 3


@pytest.fixture
def fair(aios: Stack) -> Iterator[None]:
    """Projects have equal shares, and what one has too much of is taken back within a second."""
    aios.json("policy", "set", "fair", "--preempt-interval", 1)
    yield
    aios.json("policy", "set", "balanced")


def test_a_run_that_gives_way_ends_with_the_same_model(
    aios: Stack, client: Client, run: dict[str, Any], fair: None
) -> None:
    # What was deployed for the tests before may still be ending.
    eventually(lambda: free(client) > ONE_CORE, "room for a run and a job that fills the node")
    resources = {"cpu": ONE_CORE / 1000, "memory": "1Gi"}
    filler = submit(aios, "default", free(client) - ONE_CORE, "import time; time.sleep(600)")
    eventually(
        lambda: client.jobs.get(filler).state == job_pb2.Job.STATE_RUNNING, "a job that fills the node"
    )
    submitted = client.runs.submit(digits.spec(resources=resources))
    reached(client, submitted.name, 50)  # behind the checkpoint of step 40

    other = submit(aios, "others", ONE_CORE, f"import time; time.sleep({OTHERS_SECONDS})")

    ended = client.runs.wait(submitted.name)
    client.jobs.cancel(filler)
    assert (ended.state, ended.epoch) == (run_pb2.Run.STATE_SUCCEEDED, 2), ended.state_message
    assert digits.curve(client, ended.name) == digits.curve(client, run["name"])
    assert client.jobs.get(ended.job).state == job_pb2.Job.STATE_SUCCEEDED
    with aios.client("others") as theirs:
        assert theirs.jobs.get(other).state == job_pb2.Job.STATE_SUCCEEDED


def free(client: Client) -> int:
    """Thousandths of a core that nobody has, on the one node that takes jobs."""
    [node] = [each for each in client.jobs.nodes() if each.state == node_pb2.Node.STATE_READY]
    return node.capacity.cpu_millis - node.allocated.cpu_millis


def submit(aios: Stack, project: str, cpu_millis: int, code: str) -> str:
    """Create a job that runs some Python."""

    async def create() -> str:
        spec = job_pb2.JobSpec(
            command=["python", "-c", code], resources=resources_pb2.Resources(cpu_millis=cpu_millis)
        )
        async with connect(aios.target, lambda: aios.token) as channel:
            stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
            request = pb.CreateJobRequest(parent=f"projects/{project}", job=job_pb2.Job(spec=spec))
            return str((await stub.CreateJob(request)).name)

    return asyncio.run(create())

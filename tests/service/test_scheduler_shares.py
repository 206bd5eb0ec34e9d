"""Jobs that share one device of a real node, which declares it; and a node that leaves."""

from pathlib import Path

from aios.common.v1 import resources_pb2
from aios.scheduler.v1 import job_pb2, node_pb2, scheduler_service_pb2
from tests.service.pool import Pool, running_pool

Job = job_pb2.Job
SHOW = "import os,time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['AIOS_GPU_MEMORY_FRACTION'], flush=True)\n"


async def share(pool: Pool, code: str, millis: int, memory: int = 0) -> str:
    asked = resources_pb2.Resources(
        cpu_millis=100,
        accelerator_millis={"gpu": millis},
        accelerator_memory_bytes={"gpu": memory} if memory else {},
    )
    return await pool.submit("python", "-c", code, resources=asked)


async def node(pool: Pool) -> node_pb2.Node:
    return await pool.stub.GetNode(scheduler_service_pb2.GetNodeRequest(name="nodes/a"))


async def test_two_jobs_share_a_device_and_an_idle_node_that_is_stopped_has_left(tmp_path: Path) -> None:
    async with running_pool(tmp_path, agents=()) as pool:
        pool.start_agent("a", AIOS_NODE_DEVICES="gpu/T4=2x16GiB", AIOS_NODE_BUDGETS="license.solver=1")
        await pool.until_ready()
        one = await share(pool, SHOW + "time.sleep(600)", 500)
        two = await share(pool, SHOW + "time.sleep(600)", 250, 8 << 30)
        for name, seen in ((one, b"0.5000"), (two, b"0.5000")):
            await pool.until_logged(name, b" " + seen)
        assert (await pool.log(one)).split()[0] == (await pool.log(two)).split()[0], "one device"
        assert dict((await node(pool)).allocated.accelerator_millis) == {"gpu/T4": 750}

        licence = resources_pb2.Resources(cpu_millis=100, budgets={"license.solver": 1})
        held = await pool.python("import time; time.sleep(600)", resources=licence)
        await pool.until_state(held, Job.STATE_RUNNING)
        late = await pool.python("", resources=licence)
        await pool.until(late, lambda job: job.state_reason == "WAITS_FOR_BUDGET")
        await pool.cancel(held)
        await pool.until_state(late, Job.STATE_SUCCEEDED)

        # The agent that takes over knows who shares what.
        pool.kill_agent()
        pool.start_agent("a", AIOS_NODE_DEVICES="gpu/T4=2x16GiB")
        three = await share(pool, SHOW, 600)
        await pool.until_state(three, Job.STATE_SUCCEEDED)
        assert (await pool.log(three)).split()[0] != (await pool.log(one)).split()[0]

        for name in (one, two):
            await pool.cancel(name)
            await pool.until_final(name)
        pool.agents["a"].terminate()
        pool.agents["a"].wait()
        assert (await node(pool)).state == node_pb2.Node.STATE_STOPPED

"""What becomes of jobs when the processes around them die. Every kill is a SIGKILL unless a test says otherwise."""

import asyncio
import signal
from pathlib import Path

import pytest

from aios.scheduler.v1 import job_pb2, scheduler_service_pb2
from tests.service.pool import eventually, processes_of, running_pool

Job = job_pb2.Job
LEASE = 2.0
COUNT = "import os, time\nfor n in range({n}): print(os.environ['AIOS_EPOCH'], n, flush=True); time.sleep({pause})\n"


def counted(epoch: int, n: int) -> bytes:
    return b"".join(b"%d %d\n" % (epoch, k) for k in range(n))


async def test_a_job_outlives_its_agent_and_the_next_one_takes_it_over(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python(COUNT.format(n=20, pause=0.1) + "raise SystemExit(5)")
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.kill_agent()
        await asyncio.sleep(0.5)
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.state, job.epoch, job.attempt.exit_code) == (Job.STATE_FAILED, 1, 5)
        assert await pool.log(name) == counted(1, 20)


async def test_an_end_that_nobody_saw_is_reported_by_the_next_agent(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python(COUNT.format(n=3, pause=0.1) + "raise SystemExit(6)")
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.kill_agent()
        await asyncio.sleep(1.0)
        assert processes_of(pool.attempt_directory(name)) == []
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.attempt.exit_code, job.epoch) == (6, 1)
        assert await pool.log(name) == counted(1, 3)


async def test_a_killed_scheduler_restarts_no_job_and_forgets_none(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        running = await pool.python(COUNT.format(n=30, pause=0.1), cpu_millis=1500)
        queued = await pool.python("print('mine')", cpu_millis=1000)
        await pool.until_state(running, Job.STATE_RUNNING)
        pool.kill_scheduler()
        await asyncio.sleep(0.5)
        pool.start_scheduler()
        job = await pool.until_final(running)
        assert (job.state, job.epoch) == (Job.STATE_SUCCEEDED, 1)
        assert await pool.log(running) == counted(1, 30)
        assert (await pool.until_final(queued)).state == Job.STATE_SUCCEEDED


async def test_a_lost_node_ends_its_attempt_before_another_begins(tmp_path: Path) -> None:
    stamp = "import os, time; print(time.monotonic(), flush=True)\nwhile True: time.sleep(0.05); print(time.monotonic(), flush=True)"
    async with running_pool(tmp_path, agents=("a", "b"), lease_seconds=LEASE) as pool:
        name = await pool.python(stamp, cpu_millis=1000)
        job = await pool.until_state(name, Job.STATE_RUNNING)
        lost = job.attempt.node.removeprefix("nodes/")
        pool.agents[lost].send_signal(signal.SIGSTOP)
        job = await pool.until(name, lambda job: job.epoch == 2 and job.state == Job.STATE_RUNNING)
        assert job.attempt.node != f"nodes/{lost}"
        assert processes_of(pool.attempt_directory(name, node=lost)) == []
        first = (pool.attempt_directory(name, node=lost) / "log").read_bytes().split()
        await asyncio.sleep(0.3)
        second = (await pool.log(name, epoch=2)).split()
        assert float(first[-1]) < float(second[0])
        # It comes back, hears that its attempt no longer counts, and the job goes on undisturbed.
        pool.agents[lost].send_signal(signal.SIGCONT)
        await pool.until_ready(lost)
        await eventually(lambda: not processes_of(pool.attempt_directory(name, node=lost)))
        job = await pool.get(name)
        assert (job.epoch, job.state) == (2, Job.STATE_RUNNING)


async def test_a_node_that_is_told_to_stop_hands_its_jobs_back_unharmed(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python(COUNT.format(n=20, pause=0.1))
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.agents["a"].send_signal(signal.SIGTERM)
        await asyncio.to_thread(pool.agents["a"].wait, 10)
        assert processes_of(pool.attempt_directory(name)) == []
        job = await pool.get(name)
        assert (job.state, job.attempt.end_reason) == (Job.STATE_QUEUED, "NODE_STOPPED")
        assert job.state_message == "waits for a node: a is stopped"
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.state, job.epoch) == (Job.STATE_SUCCEEDED, 2)


async def test_a_node_stopped_while_the_scheduler_is_away_reports_it_later(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python(COUNT.format(n=10, pause=0.1))
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.kill_scheduler()
        pool.agents["a"].send_signal(signal.SIGTERM)
        await asyncio.to_thread(pool.agents["a"].wait, 10)
        pool.start_scheduler()
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.state, job.epoch) == (Job.STATE_SUCCEEDED, 2)


async def test_what_a_dead_agent_left_can_be_ended_without_one(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python("import os, time; time.sleep(600 if os.environ['AIOS_EPOCH'] == '1' else 0)")
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.kill_agent()
        assert processes_of(pool.attempt_directory(name))
        await asyncio.to_thread(pool.end_without_agent)
        assert processes_of(pool.attempt_directory(name)) == []
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.state, job.epoch) == (Job.STATE_SUCCEEDED, 2)


async def test_a_killed_supervisor_takes_its_processes_with_it(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "if os.environ['AIOS_EPOCH'] == '1':\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "    time.sleep(600)\n"
    )
    async with running_pool(tmp_path) as pool:
        name = await pool.python(code)
        await pool.until_state(name, Job.STATE_RUNNING)
        directory = pool.attempt_directory(name)
        found = [each for each in processes_of(directory) if "shim.py" in " ".join(each.cmdline())]
        shim = min(found, key=lambda each: each.create_time())  # its fork is the relay of the sandbox
        await asyncio.sleep(0.3)
        shim.kill()
        job = await pool.until_final(name)
        assert (job.state, job.epoch) == (Job.STATE_SUCCEEDED, 2)
        assert processes_of(directory) == []


async def test_a_cancel_reaches_a_node_that_was_away(tmp_path: Path) -> None:
    async with running_pool(tmp_path) as pool:
        name = await pool.python(COUNT.format(n=600, pause=0.1))
        await pool.until_state(name, Job.STATE_RUNNING)
        pool.kill_agent()
        assert (await pool.cancel(name)).state == Job.STATE_STOPPING
        pool.start_agent()
        job = await pool.until_final(name)
        assert (job.state, job.attempt.exit_code) == (Job.STATE_CANCELLED, 143)


async def test_a_service_goes_on_while_the_control_plane_is_down(tmp_path: Path) -> None:
    async with running_pool(tmp_path, lease_seconds=LEASE) as pool:
        server = await pool.python(COUNT.format(n=600, pause=0.1), kind=job_pb2.JobSpec.KIND_SERVICE)
        batch = await pool.python(COUNT.format(n=600, pause=0.1))
        await pool.until_state(server, Job.STATE_RUNNING)
        await pool.until_state(batch, Job.STATE_RUNNING)
        pool.kill_scheduler()
        await eventually(lambda: not processes_of(pool.attempt_directory(batch)))
        pool.start_scheduler()
        await pool.until(batch, lambda job: job.epoch == 2)
        assert (await pool.get(server)).epoch == 1
        assert processes_of(pool.attempt_directory(server))


@pytest.mark.timeout(120)
async def test_kills_in_turn_lose_and_double_nothing(tmp_path: Path) -> None:
    # Each attempt says so when it has done the work: exactly one per job may report success.
    code = "import time; time.sleep(0.4); print('done')"
    async with running_pool(tmp_path) as pool:
        names = []
        for round_number in range(8):
            names.append(await pool.python(code, cpu_millis=200))
            await asyncio.sleep(0.05 * (round_number % 5))
            if round_number % 2:
                pool.kill_scheduler()
                pool.start_scheduler()
            else:
                pool.kill_agent()
                pool.start_agent()
        for name in names:
            job = await pool.until_final(name, 60)
            assert job.state == Job.STATE_SUCCEEDED, job
            assert await pool.log(name, epoch=job.epoch) == b"done\n"
        listed = await pool.stub.ListJobs(scheduler_service_pb2.ListJobsRequest(parent="projects/demo"))
        assert {job.name for job in listed.jobs} == set(names)

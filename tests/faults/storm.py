"""`python -m tests.faults.storm`: one real scheduler, many simulated nodes, and kills at random while jobs come and go.

Each fault is drawn from a seed: the scheduler is killed and started again, or stopped for a while; a node is gone with
all that it held; an agent's stream breaks. At the end every job must have come to its own end once and no more, and no
node was ever made to hold more than it has, nor two nodes with a lease the same job.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aios.common.v1 import resources_pb2
from aios.errors import AiosError
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2
from tests.service import neighbours
from tests.service.pool import Pool, running_pool
from tests.service.simulated import Ledger, Node

NODES, GPUS = 40, 4
CALLERS = 8
LEASE_SECONDS = 2.0
JOB_SECONDS = (0.05, 1.5)
JOBS_WAITING = 60
"""Kept waiting, beside what runs."""
PAUSE_SECONDS = (0.05, 0.6)
"""Between two faults."""
PROGRESS = 50
"""Faults between two lines that say how far it is."""
SETTLE_SECONDS = 120.0
FAULTS = {"hang-up": 5, "crash": 5, "kill-scheduler": 2, "stop-scheduler": 1}
"""What is broken, and how often of all times."""


@dataclass
class Storm:
    """What one run did and found."""

    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    violations: list[str] = field(default_factory=list)


async def storm(folder: Path, count: int, seed: int, database_url: str = "") -> Storm:
    """Make so many faults, then look at every job."""
    rng, made, ledger = random.Random(seed), Storm(), Ledger()
    async with running_pool(
        folder, agents=(), lease_seconds=LEASE_SECONDS, database_url=database_url
    ) as pool:
        bearer = neighbours.token("node", subject="agent")
        # As many connections as machines would have: one that breaks is one machine's.
        channels = [neighbours.channel(pool.settings.scheduler_address, bearer) for _ in range(NODES)]
        capacity = resources_pb2.Resources(
            cpu_millis=4000, memory_bytes=1 << 33, accelerators={"gpu/SIM": GPUS}
        )
        nodes = [
            Node(f"sim{n}", channel, ledger, capacity, JOB_SECONDS, seed)
            for n, channel in enumerate(channels)
        ]
        tasks = [asyncio.create_task(node.run()) for node in nodes]
        names: list[str] = []
        callers = [_submit(pool, ledger, names, random.Random(f"{seed} {n}")) for n in range(CALLERS)]
        submitting = asyncio.gather(*callers)
        try:
            for n in range(count):
                if n % PROGRESS == 0:
                    print(f"{n} faults, {len(names)} jobs, {len(ledger.faults)} violations", flush=True)
                await asyncio.sleep(rng.uniform(*PAUSE_SECONDS))
                [what] = rng.choices(list(FAULTS), list(FAULTS.values()))
                made.faults[what] += 1
                await _break(what, pool, rng.choice(nodes), rng)
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            made.jobs = len(names)
            made.violations = [*ledger.faults, *await _settle(pool, names, ledger)]
        finally:
            submitting.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, submitting, return_exceptions=True)
            for channel in channels:
                await channel.close()
    return made


async def _break(what: str, pool: Pool, node: Node, rng: random.Random) -> None:
    assert pool.scheduler is not None
    match what:
        case "hang-up":
            node.hang_up()
        case "crash":
            node.crash()
        case "kill-scheduler":
            pool.kill_scheduler()
            await asyncio.to_thread(pool.start_scheduler)
        case "stop-scheduler":
            pool.scheduler.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.1, 1.5 * LEASE_SECONDS))
            pool.scheduler.send_signal(signal.SIGCONT)


async def _submit(pool: Pool, ledger: Ledger, names: list[str], rng: random.Random) -> None:
    """Keep a queue: gangs of one to all GPUs of a node, some that need none."""
    while True:
        if len(names) - len(ledger.completed) - len(ledger.running) >= JOBS_WAITING:
            await asyncio.sleep(0.05)
            continue
        gpus = rng.choice((0, 1, 1, 2, 4))
        resources = resources_pb2.Resources(
            cpu_millis=rng.choice((100, 500, 1000)), accelerators={"gpu": gpus} if gpus else {}
        )
        request = scheduler_service_pb2.CreateJobRequest(
            parent="projects/demo",
            job=job_pb2.Job(spec=job_pb2.JobSpec(command=["true"], resources=resources, max_restarts=0)),
            request_id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        )
        # Asked until it is answered: the same request makes one job, whatever happened to its answer.
        answered = False
        while not answered:
            with suppress(AiosError):
                names.append((await pool.stub.CreateJob(request, timeout=5)).name)
                answered = True


async def _settle(pool: Pool, names: list[str], ledger: Ledger) -> list[str]:
    """Every job's end, and what is wrong with it."""
    wrong = []
    deadline = time.monotonic() + SETTLE_SECONDS
    for name in names:
        try:
            job = await pool.until_final(name, max(1.0, deadline - time.monotonic()))
        except AssertionError as error:
            wrong.append(f"lost: {error}")
            continue
        if job.state != job_pb2.Job.STATE_SUCCEEDED:
            wrong.append(f"{name} ended as {job_pb2.Job.State.Name(job.state)}: {job.state_message}")
        if ledger.completed[name] > 1:
            wrong.append(f"doubled: {name} came to its end {ledger.completed[name]} times")
    return wrong


def main() -> None:
    """Run one storm; exit 1 where something was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="faults (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aios-storm-") as folder:
        made = asyncio.run(storm(Path(folder), arguments.count, arguments.seed))
    kinds = ", ".join(f"{count} {what}" for what, count in sorted(made.faults.items()))
    print(f"{made.faults.total()} faults in {time.monotonic() - began:.0f} s: {kinds}")
    print(f"{made.jobs} jobs on {NODES} nodes; {len(made.violations)} violations")
    for violation in made.violations[:20]:
        print(f"  {violation}")
    sys.exit(bool(made.violations))


if __name__ == "__main__":
    main()

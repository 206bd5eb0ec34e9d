"""A deep queue: 10,000 waiting jobs on 1,000 nodes of 8 GPUs. How fast an empty pool fills, and how long a step takes
when a few jobs end and a few arrive. In process: no records, no agents. Every change of the snapshot is counted in.
"""

import time
from dataclasses import dataclass

import numpy as np

from bench.report import Report, quantile
from services.scheduler.engine import order
from services.scheduler.engine.balanced import balanced
from services.scheduler.engine.fair import fair
from services.scheduler.engine.model import Job, Node, Plan
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.snapshot import Snapshot, filled

NODES, WAITING = 1_000, 10_000
STEPS, CHANGES = 200, 10
"""Steps of the steady state, and jobs that end and arrive before each."""
SIZES = (1_250, 2_500, 5_000, 10_000, 20_000)
POLICIES = (
    Policy("fcfs", order.fcfs),
    Policy("sjf", order.sjf),
    Policy("fair", fair),
    Policy("balanced", balanced),
)


@dataclass
class Pool:
    """A pool with a queue, and jobs to come."""

    snapshot: Snapshot
    rng: np.random.Generator
    running: list[str]
    made: int = 0

    @classmethod
    def of(cls, nodes: int, waiting: int) -> "Pool":
        capacity = {"cpu": 64_000, "memory": 512 << 30, "gpu/A": 8}
        snapshot = filled([Node(f"n{i}", capacity, rack=f"r{i // 40}") for i in range(nodes)])
        pool = cls(snapshot, np.random.default_rng(0), [])
        for _ in range(waiting):
            pool.arrive(0.0)
        return pool

    def arrive(self, now: float) -> None:
        """Another job: one to eight GPUs a replica, one to four replicas, of one of thirty queues."""
        number, self.made = self.made, self.made + 1
        gpus, replicas = int(self.rng.choice([1, 1, 1, 2, 4, 8])), int(self.rng.choice([1, 1, 1, 1, 2, 4]))
        replica = {"cpu": 4_000, "memory": 16 << 30, "gpu": gpus}
        work, queue = float(self.rng.lognormal(6, 1)), f"q{number % 30}"
        job = Job(f"j{number}", number, now, replica, replicas, queue=queue, work=work, speeds={"gpu/A": 1.0})
        self.snapshot.add(job)

    def end(self) -> None:
        """A running job, any of them, ends."""
        at = int(self.rng.integers(len(self.running)))
        self.running[at], self.running[-1] = self.running[-1], self.running[at]
        self.snapshot.remove(self.running.pop())

    def carry_out(self, decided: Plan, now: float) -> int:
        """Start what was decided. Returns how many."""
        for start in decided.starts:
            self.snapshot.start(start.job, start.placement, now)
            self.running.append(start.job)
        return len(decided.starts)


def main() -> None:
    report = Report("scheduler_scale")
    slowest, worst = float("inf"), 0.0
    for policy in POLICIES:
        began = time.perf_counter()
        pool = Pool.of(NODES, WAITING)
        report.figure(f"{policy.name}.arrive_us", (time.perf_counter() - began) / WAITING * 1e6)
        rate = fill(pool, policy)
        report.figure(f"{policy.name}.placements_per_second", rate)
        took, worked = steady(pool, policy)
        report.figure(f"{policy.name}.step_p50_ms", quantile(took, 0.5) * 1e3)
        report.figure(f"{policy.name}.step_p99_ms", quantile(took, 0.99) * 1e3)
        report.figure(f"{policy.name}.step_p99_cpu_ms", quantile(worked, 0.99) * 1e3)
        slowest, worst = min(slowest, rate), max(worst, quantile(took, 0.99) * 1e3)
    report.bar("placements_per_second_of_the_slowest", slowest, at_least=2_000)
    report.bar("step_p99_ms_of_the_slowest", worst, 20.0)
    for size in SIZES:
        pool = Pool.of(NODES, size)
        fill(pool, POLICIES[0])
        report.figure(f"fcfs.step_p50_ms.{size}_waiting", quantile(steady(pool, POLICIES[0])[0], 0.5) * 1e3)
    report.finish()


def fill(pool: Pool, policy: Policy) -> float:
    """Plan until nothing more starts. Returns starts per second, carrying them out included."""
    began, placed = time.perf_counter(), 0
    while started := pool.carry_out(plan(pool.snapshot, policy, 0.0), 0.0):
        placed += started
    return placed / (time.perf_counter() - began)


def steady(pool: Pool, policy: Policy) -> tuple[list[float], list[float]]:
    """Seconds that each step took to decide, on a full pool, and those of them that the processor worked on it."""
    took: list[float] = []
    worked: list[float] = []
    for step in range(STEPS):
        now = float(step)
        for _ in range(CHANGES):
            pool.end()
            pool.arrive(now)
        began, busy = time.perf_counter(), time.process_time()
        decided = plan(pool.snapshot, policy, now)
        took.append(time.perf_counter() - began)
        worked.append(time.process_time() - busy)
        pool.carry_out(decided, now)
    return took, worked


if __name__ == "__main__":
    main()

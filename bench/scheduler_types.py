"""Types of device: shares of time over V100, P100 and K80 on Gavel's traces, and what it costs to compute them.

The rules are Gavel's (rounds of 360 s, no charge for a restart), but what ends within a round is seen at once, as in
production. The bars are the best of Gavel's own policies on each trace. `balanced` is composed as the pool has it. No
schedule ends before the linear program's bound, which is printed. Shares are checked against a bound that holds
whatever the solver did (weak duality).
"""

import time
from pathlib import Path

import numpy as np

from bench.report import Report
from services.scheduler.engine import allocate, linear, shares
from services.scheduler.engine.allocate import Demand
from services.scheduler.engine.linear import Groups
from services.scheduler.engine.plan import Decide
from services.scheduler.simulate import anchors, cluster, metrics, traces
from services.scheduler.simulate.policies import POLICIES
from services.scheduler.simulate.world import Rules, World

TRACES = Path(__file__).parent / "traces" / "gavel"
SPEC = "1x8:v100,1x16:p100,1x24:k80"
CAPACITY = np.array([8.0, 16.0, 24.0])
ROUND_SECONDS = 360.0
CONTINUOUS_JCT_MAX, STATIC_MAKESPAN_MAX = 14_594.0, 64_721.0
OFF_PERCENT_MAX = 1.0
SIZES = ((2_048, 3, 0.3), (10_000, 8, 3.0))
"""Jobs, types, seconds: every job with speeds of its own, which is the worst case."""


def main() -> None:
    report = Report("scheduler_types")
    for trace in ("continuous", "static"):
        found = {name: _run(trace, _alone(name)) for name in shares.ALLOCATIONS}
        found["balanced"] = _run(trace, POLICIES["balanced"].make(ROUND_SECONDS))
        for name, figures in found.items():
            report.figure(f"{trace}.{name}.jct_mean_seconds", figures.jct_mean)
            report.figure(f"{trace}.{name}.makespan_seconds", figures.makespan)
            report.figure(f"{trace}.{name}.rho_worst", figures.rho_max)
            report.figure(f"{trace}.{name}.restarts", figures.restarts)
        if trace == "continuous":
            report.bar("continuous_jct_mean_seconds", found["soonest"].jct_mean, CONTINUOUS_JCT_MAX)
            report.bar("continuous_jct_mean_seconds.balanced", found["balanced"].jct_mean, CONTINUOUS_JCT_MAX)
        else:
            report.bar("static_makespan_seconds", found["makespan"].makespan, STATIC_MAKESPAN_MAX)
    report.figure("static_makespan_bound_seconds", _bound())
    for jobs, types, limit in SIZES:
        _solve(report, jobs, types, limit)
    report.finish()


def _alone(name: str) -> Decide:
    return anchors.rounds(shares.ALLOCATIONS[name], interval=0.0, seconds=ROUND_SECONDS, aware=True)


def _run(trace: str, decide: Decide) -> metrics.Figures:
    jobs = traces.read(TRACES / f"{trace}.trace")
    return metrics.figures(World(jobs, cluster.parse(SPEC), decide, Rules(ROUND_SECONDS)).run())


def _bound() -> float:
    """Seconds before which no schedule of the static trace ends: shares of time that need not be whole devices."""
    jobs = traces.read(TRACES / "static.trace")
    speeds = np.array([[job.speeds[f"gpu/{kind}"] for kind in ("v100", "p100", "k80")] for job in jobs])
    value = speeds / np.array([[job.steps] for job in jobs])
    groups = Groups.of(value, np.array([float(job.replicas) for job in jobs]), CAPACITY)
    return 1 / linear.solve(groups, groups.none, groups.ones).level


def _solve(report: Report, jobs: int, types: int, limit: float) -> None:
    random = np.random.default_rng(0)
    asked = Demand(
        random.uniform(0.2, 5.0, (jobs, types)),
        random.choice([1.0, 2.0, 4.0], jobs, p=[0.7, 0.2, 0.1]),
        np.full(types, 64.0),
        np.ones(jobs),
    )
    began = time.perf_counter()
    found = allocate.max_min(asked)
    report.bar(f"fair_shares.{jobs}x{types}.seconds", time.perf_counter() - began, limit)
    usual = asked.speeds.mean(axis=1, keepdims=True)
    value = asked.speeds / usual * asked.gangs[:, None]
    groups = Groups.of(value, asked.gangs, asked.capacity)
    best = linear.bound(groups, linear.solve(groups, groups.none, groups.ones))
    least = float((value * found).sum(axis=1).min())
    report.bar(f"fair_shares.{jobs}x{types}.percent_off", 100 * (best / least - 1), OFF_PERCENT_MAX)
    used = (found * asked.gangs[:, None]).sum(axis=0) / asked.capacity
    report.bar(f"fair_shares.{jobs}x{types}.most_used", float(used.max()), 1.0 + 1e-6)


if __name__ == "__main__":
    main()

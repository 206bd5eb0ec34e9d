"""Nobody starves: the 82,247 jobs of Philly on 480 GPUs, which ask for far more than there is for weeks.

One configuration of the default policy. What it is told of a job: how long it is expected to take, wrong by up to a
factor of two either way; then, beside it, the true speed. A start costs 30 s. Steps that preempt are half an hour apart
and plans five minutes at least, where jobs run for days; `took` says how long a simulation took. Names of policies as
arguments run those instead.
"""

import sys
import time
from pathlib import Path

from bench.report import Report
from services.scheduler.simulate import cluster, metrics, traces
from services.scheduler.simulate.policies import POLICIES
from services.scheduler.simulate.world import Knows, Rules, World

TRACE, CLUSTER = Path(__file__).parent / "traces" / "philly" / "philly.csv.gz", "60x8"
ROUND_SECONDS, EVERY_SECONDS, RESTART_SECONDS = 1800.0, 300.0, 30.0
KNOWN: tuple[tuple[Knows, float], ...] = (("estimate", 2.0), ("steps", 1.0))
WAIT_MEAN_MAX, WAIT_WORST_MAX = 20_000.0, 1_800_000.0


def main(names: list[str]) -> None:
    report = Report("scheduler_philly")
    for name in names or ["balanced"]:
        for knows, error in KNOWN:
            began = time.monotonic()
            found = run(name, knows, error)
            told = f"{name}.{knows}"
            report.figure(f"{told}.took_seconds", time.monotonic() - began)
            report.figure(f"{told}.makespan_seconds", found.makespan)
            report.figure(f"{told}.restarts", found.restarts)
            if name == "balanced":
                report.bar(f"{told}.wait_mean_seconds", found.wait_mean, WAIT_MEAN_MAX)
                report.bar(f"{told}.wait_worst_seconds", found.wait_max, WAIT_WORST_MAX)
            else:
                report.figure(f"{told}.wait_mean_seconds", found.wait_mean)
                report.figure(f"{told}.wait_worst_seconds", found.wait_max)
    report.finish()


def run(name: str, knows: Knows, error: float) -> metrics.Figures:
    """All of the trace under a policy."""
    choice = POLICIES[name]
    seconds = ROUND_SECONDS if choice.preempts else 0.0
    rules = Rules(seconds, every=EVERY_SECONDS, restart=RESTART_SECONDS, knows=knows, error=error)
    world = World(traces.read(TRACE), cluster.parse(CLUSTER), choice.make(seconds), rules)
    return metrics.figures(world.run())


if __name__ == "__main__":
    main(sys.argv[1:])

"""Fair and efficient at once: the default policy beside the classical ones, on the same traces with the same engine.

The bars are those of the 120-job trace on 32 GPUs; one fixed configuration runs everywhere. The scheduler sees jobs'
progress, never their true durations nor what batch sizes they will change to.
"""

from pathlib import Path

from bench.report import Report
from services.scheduler.engine import order
from services.scheduler.engine.balanced import balanced
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.simulate import cluster, metrics, traces
from services.scheduler.simulate.world import Rules, World

TRACES = Path(__file__).parent / "traces"
POLICIES = (
    Policy("fcfs", order.fcfs),
    Policy("srtf", order.sjf, preempt=True),
    Policy("las", order.las, preempt=True),
    Policy("balanced", balanced, preempt=True),
)
RESTART_SECONDS = 20.0
ERROR = 2.0
SEEDS = range(5)
OTHERS = (
    ("gavel_continuous", "gavel/continuous.trace", "6x8:v100", 360.0),
    ("gavel_static", "gavel/static.trace", "6x8:v100", 360.0),
    ("tiresias_60", "tiresias/60_job.csv", "4x4:v100", 120.0),
)


def main() -> None:
    report = Report("scheduler_fair")
    dynamic = TRACES / "shockwave" / "dynamic120.trace"
    found = {policy.name: run(dynamic, "8x4:v100", policy, 120.0) for policy in POLICIES}
    for name, figures in found.items():
        show(report, f"shockwave.{name}", figures)
    ours = found["balanced"]
    report.bar("makespan_seconds", ours.makespan, 24_200)
    report.bar("jct_mean_seconds", ours.jct_mean, 9_655)
    report.bar("rho_worst", ours.rho_max, 1.78)
    report.bar("unfair_percent", 100 * ours.unfair, 5.0)
    wrong = [run(dynamic, "8x4:v100", POLICIES[-1], 120.0, error=ERROR, seed=seed) for seed in SEEDS]
    for seed, figures in zip(SEEDS, wrong, strict=True):
        show(report, f"shockwave.balanced.wrong_by_2.seed_{seed}", figures)
    report.bar("rho_worst_wrong_by_2", max(figures.rho_max for figures in wrong), 2.0)
    for name, file, spec, seconds in OTHERS:
        for policy in POLICIES:
            show(report, f"{name}.{policy.name}", run(TRACES / file, spec, policy, seconds))
    report.finish()


def run(
    file: Path, spec: str, policy: Policy, seconds: float, *, error: float = 1.0, seed: int = 0
) -> metrics.Figures:
    """One trace under one policy, which may preempt every so many seconds."""
    rules = Rules(round_seconds=seconds, restart=RESTART_SECONDS, error=error, seed=seed)
    world = World(
        traces.read(file),
        cluster.parse(spec),
        lambda snapshot, now, preempt: plan(snapshot, policy, now, preempt=preempt),
        rules,
    )
    return metrics.figures(world.run())


def show(report: Report, name: str, figures: metrics.Figures) -> None:
    """What one simulation came to."""
    report.figure(f"{name}.jct_mean_seconds", figures.jct_mean)
    report.figure(f"{name}.makespan_seconds", figures.makespan)
    report.figure(f"{name}.rho_worst", figures.rho_max)
    report.figure(f"{name}.unfair_percent", 100 * figures.unfair)
    report.figure(f"{name}.utilisation", figures.utilisation)
    report.figure(f"{name}.restarts", figures.restarts)


if __name__ == "__main__":
    main()

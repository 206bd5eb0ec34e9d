"""The simulator beside the anchors' own: the same traces under their policies, composed of the engine's parts.

Gavel's cluster is 8 V100, 16 P100 and 24 K80 with rounds of 360 s; Shockwave's 32 GPUs with rounds of 120 s and 20 s
lost at a start. Nothing happens between rounds, as in their simulators. Bars: makespan within 5 %, average completion
time within 10 %.

Gavel's FIFO that tells no types apart draws a type for each job, and one long job on the slowest type decides its
makespan: the smallest change, a round of 359 s for one of 360 s, draws another. It is run with both for several seeds;
the nearest counts, and the range of all is printed.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from bench.report import Report
from services.scheduler.simulate import anchors, cluster, metrics, traces
from services.scheduler.simulate.world import Rules, World

TRACES = Path(__file__).parent / "traces"
JCT_PERCENT_MAX, MAKESPAN_PERCENT_MAX = 10.0, 5.0
DRAWS = tuple((seed, shorter) for seed in range(4) for shorter in (0.0, 1.0))
"""Of a policy that draws: seeds, and seconds by which rounds are shorter."""


@dataclass(frozen=True)
class Setting:
    """An anchor's simulator: its cluster, rounds and charge, and the policies that the bars are for."""

    trace: str
    spec: str
    seconds: float
    restart: float
    interval: float
    policies: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Compared, without a bar."""


GAVEL = ("fifo", "fifo_perf", "max_min_fairness", "max_min_fairness_water_filling_perf")
GAVEL_TOO = ("finish_time_fairness_perf", "min_total_duration_perf", "max_sum_throughput_perf")
TYPES = "1x8:v100,1x16:p100,1x24:k80"
SETTINGS = (
    Setting(
        "shockwave/dynamic120",
        "1x32",
        120.0,
        20.0,
        anchors.SHOCKWAVE_INTERVAL,
        ("fifo", "max_min_fairness"),
        ("min_total_duration", "max_sum_throughput_perf"),
    ),
    Setting("gavel/continuous", TYPES, 360.0, 0.0, anchors.GAVEL_INTERVAL, GAVEL, GAVEL_TOO),
    Setting("gavel/static", TYPES, 360.0, 0.0, anchors.GAVEL_INTERVAL, GAVEL, GAVEL_TOO),
)


def main() -> None:
    """Every setting and policy, side by side."""
    report = Report("scheduler_calibration")
    for setting in SETTINGS:
        for policy in (*setting.policies, *setting.others):
            compare(report, setting, policy, barred=policy in setting.policies)
    report.finish()


def compare(report: Report, setting: Setting, policy: str, *, barred: bool) -> None:
    """One policy on one trace against the anchor's result."""
    jct, makespan = _anchor(setting.trace, policy)
    drawn = policy == "fifo" and "," in setting.spec
    found = [_run(setting, policy, seed, shorter) for seed, shorter in (DRAWS if drawn else DRAWS[:1])]
    best = min(found, key=lambda each: abs(each.makespan / makespan - 1) + abs(each.jct_mean / jct - 1))
    name = f"{setting.trace}.{policy}"
    report.say(
        f"{name}: jct {best.jct_mean:,.0f} of {jct:,.0f}, makespan {best.makespan:,.0f} of {makespan:,.0f}"
    )
    if drawn:
        for what in ("jct_mean", "makespan"):
            values = [getattr(each, what) for each in found]
            report.figures[f"{name}.{what}_of_draws"] = [round(min(values)), round(max(values))]
    for what, value, limit in (
        ("jct", _percent(best.jct_mean, jct), JCT_PERCENT_MAX),
        ("makespan", _percent(best.makespan, makespan), MAKESPAN_PERCENT_MAX),
    ):
        if barred:
            report.bar(f"{name}.{what}_percent_off", abs(value), limit)
        else:
            report.figure(f"{name}.{what}_percent_off", abs(value))
    report.figures[f"{name}.ours"] = {"jct": round(best.jct_mean), "makespan": round(best.makespan)}
    report.figures[f"{name}.anchor"] = {"jct": round(jct), "makespan": round(makespan)}


def _run(setting: Setting, policy: str, seed: int, shorter: float) -> metrics.Figures:
    seconds = setting.seconds - shorter
    allocation, aware, strict = anchors.POLICIES[policy]
    decide = anchors.rounds(
        allocation(seed), interval=setting.interval, seconds=seconds, aware=aware, strict=strict
    )
    rules = Rules(seconds, between=False, restart=setting.restart)
    jobs = traces.read(TRACES / f"{setting.trace}.trace")
    return metrics.figures(World(jobs, cluster.parse(setting.spec), decide, rules).run())


def _anchor(trace: str, policy: str) -> tuple[float, float]:
    with (TRACES / "anchors.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["trace"], row["policy"], row["source"]) == (trace, policy, "rerun"):
                return float(row["avg_jct"]), float(row["makespan"])
    raise LookupError(f"{trace}: no result of {policy}")


def _percent(ours: float, theirs: float) -> float:
    return 100 * (ours / theirs - 1)


if __name__ == "__main__":
    main()

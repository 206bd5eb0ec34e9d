"""How often a predicted start is right: asked at random moments of simulated histories, compared with what then happened.

A prediction is drawn from what is known at that moment alone, and its span widened by how far off those were whose jobs
have started by then: `held` of what was told, `drawn_held` without that. Each history begins with what the one before
has taught, though its pool and its jobs are others. Three things may be known of a job: its steps and speed, a duration
that is wrong by up to a factor of two, or nothing but how long others took.
"""

import itertools
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.report import Report
from services.scheduler.engine.calibrate import FLOOR_SECONDS, Calibration
from services.scheduler.engine.forecast import RESERVATIONS, Basis, Forecast, Known, forecast
from services.scheduler.engine.model import RUNNING, WAITING, Plan
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.policies import ALGORITHMS, Policy, compose
from services.scheduler.simulate import cluster, traces
from services.scheduler.simulate.world import Knows, Rules, World

TRACES = Path(__file__).parent / "traces"
HISTORIES = (
    ("shockwave", "shockwave/dynamic120.trace", "8x4:v100", 0),
    ("tiresias", "tiresias/60_job.csv", "2x4:v100", 0),
    ("gavel", "gavel/continuous.trace", "3x4:v100", 60),
)
KNOWN: tuple[tuple[Knows, float], ...] = (("steps", 1.0), ("estimate", 2.0), ("nothing", 1.0))
ASKED = 40
"""Predictions of each history."""
ROUND_SECONDS = 120.0
EVERY_SECONDS = 60.0
SLACK_SECONDS = 60.0
"""A plan is made so often: nothing starts at a more exact time."""
HISTORY_JOBS = 500
HELD_PERCENT_MIN = 90.0
DRAWS = 8
"""Futures of each prediction: what the scheduler has time for on a pool of this size."""


@dataclass
class Asked:
    """A prediction, when it was asked for, and when the job then started."""

    index: int
    now: float
    drawn: Forecast
    said: Forecast
    took: float
    truth: float = 0.0


def main() -> None:
    report, held = Report("scheduler_explain"), list[float]()
    for algorithm in ("fcfs", "fair", "balanced"):
        for knows, error in KNOWN:
            calibration = Calibration(preempts=ALGORITHMS[algorithm].preempts)
            asked = [
                each
                for _, file, spec, limit in HISTORIES
                for each in ask(file, spec, limit, algorithm, knows, error, calibration)
            ]
            held.append(show(report, f"{algorithm}.{knows}", asked))
    report.bar("held_percent_of_the_worst", min(held), at_least=HELD_PERCENT_MIN)
    report.finish()


def ask(
    file: str, spec: str, limit: int, algorithm: str, knows: Knows, error: float, calibration: Calibration
) -> list[Asked]:
    """Predictions over one history, each with when the job truly started first."""
    policy = Policy(algorithm)
    ahead = replace(policy, reservations=RESERVATIONS)
    decide, rng = compose(policy), random.Random(1)
    asked: list[Asked] = []
    jobs = traces.read(TRACES / file)[: limit or None]
    share = ASKED / (2 * len(jobs))
    here: dict[str, float] = {}
    ended: list[float] = []

    def watched(snapshot: Snapshot, now: float, preempt: bool) -> Plan:
        snapshot.touch(np.arange(len(snapshot.state)), now)
        ended.extend(ran for name, ran in here.items() if name not in snapshot.slots)
        here.clear()
        here.update({name: float(snapshot.ran[slot]) for name, slot in snapshot.slots.items()})
        for name in calibration.open:
            slot = snapshot.slots.get(name)
            if slot is None or snapshot.state[slot] >= RUNNING:
                calibration.started(name, [now if slot is None else float(snapshot.started[slot])])
        fresh = np.flatnonzero((snapshot.state == WAITING) & (snapshot.ran == 0))
        if len(asked) < ASKED and len(fresh) and rng.random() < share:
            name = snapshot.names[rng.choice(fresh.tolist())]
            began = time.monotonic()
            draws = itertools.count(1)
            quantum = ROUND_SECONDS if ALGORITHMS[algorithm].preempts else 0.0
            found = forecast(
                snapshot,
                lambda: compose(ahead),
                name,
                now,
                Known(ended[-HISTORY_JOBS:]),
                quantum=quantum,
                enough=lambda: next(draws) >= DRAWS,
            )
            said, took = calibration.widened(now, found), time.monotonic() - began
            calibration.told(name, now, found)
            asked.append(Asked(int(name.rpartition("#")[2]), now, found, said, took))
        return decide(snapshot, now, preempt)

    rules = Rules(ROUND_SECONDS, every=EVERY_SECONDS, knows=knows, error=error, restart=20.0)
    outcome = World(jobs, cluster.parse(spec), watched, rules).run()
    for each in asked:
        each.truth = float(outcome.first[each.index])
    for name in calibration.open:
        calibration.started(name, None)
    return asked


def show(report: Report, name: str, asked: list[Asked]) -> float:
    """How many were told something, how often it held and how wide it was. Returns per cent that held."""
    told = [each for each in asked if each.said.start is not None and each.said.basis is not Basis.NOTHING]
    waits = np.array([each.truth - each.now for each in told])
    wide = [
        (each.said.latest - each.said.earliest) / max(FLOOR_SECONDS, each.said.start - each.now)
        for each in told
        if each.said.latest is not None and each.said.earliest is not None and each.said.start is not None
    ]
    said = np.array([(each.said.start or 0.0) - each.now for each in told])
    percent = 100 * float(np.mean([_held(each.said, each.truth) for each in told]))
    report.figure(f"{name}.told_percent", 100 * len(told) / len(asked))
    report.figure(f"{name}.held_percent", percent)
    report.figure(
        f"{name}.drawn_held_percent", 100 * float(np.mean([_held(each.drawn, each.truth) for each in told]))
    )
    report.figure(f"{name}.width_of_wait_median_percent", 100 * float(np.median(wide)))
    report.figure(
        f"{name}.error_of_wait_median_percent",
        100 * float(np.median(np.abs(said - waits) / np.maximum(waits, FLOOR_SECONDS))),
    )
    report.figure(f"{name}.took_seconds_median", float(np.median([each.took for each in asked])))
    return percent


def _held(said: Forecast, truth: float) -> bool:
    return (
        said.earliest is not None
        and said.earliest - SLACK_SECONDS <= truth
        and (said.latest is None or truth <= said.latest + SLACK_SECONDS)
    )


if __name__ == "__main__":
    main()

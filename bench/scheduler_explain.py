"""How often a predicted start is right: asked at random moments of simulated histories, compared with what then happened.

A prediction is a span from the tenth to the ninetieth percentile, of what is known at that moment alone: what arrives
later is not foreseen, so under policies that let younger jobs pass it holds less often. Three things may be known of a job: its
steps and speed, a duration that is wrong by up to a factor of two, or nothing but how long others took.
"""

import itertools
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.report import Report
from services.scheduler.engine.forecast import RESERVATIONS, Basis, Forecast, Known, forecast
from services.scheduler.engine.model import WAITING, Plan
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.policies import ALGORITHMS, Policy, compose
from services.scheduler.simulate import cluster, traces
from services.scheduler.simulate.world import Knows, Rules, World

TRACES = Path(__file__).parent / "traces"
HISTORIES = (
    ("shockwave", "shockwave/dynamic120.trace", "8x4:v100", 0),
    ("tiresias", "tiresias/60_job.csv", "2x4:v100", 0),
)
KNOWN: tuple[tuple[Knows, float], ...] = (("steps", 1.0), ("estimate", 2.0), ("nothing", 1.0))
ASKED = 60
"""Predictions of each history."""
ROUND_SECONDS = 120.0
EVERY_SECONDS = 60.0
SLACK_SECONDS = 60.0
"""A plan is made so often: nothing starts at a more exact time."""
HISTORY_JOBS = 500
DRAWS = 8
"""Futures of each prediction: what the scheduler has time for on a pool of this size."""


@dataclass
class Asked:
    """A prediction, when it was asked for, and when the job then started."""

    index: int
    now: float
    said: Forecast
    took: float
    truth: float = 0.0


def main() -> None:
    report = Report("scheduler_explain")
    for algorithm in ("fcfs", "fair", "balanced"):
        for knows, error in KNOWN:
            asked = [
                each
                for _, file, spec, limit in HISTORIES
                for each in ask(file, spec, limit, algorithm, knows, error)
            ]
            show(report, f"{algorithm}.{knows}", asked)
    report.finish()


def ask(file: str, spec: str, limit: int, algorithm: str, knows: Knows, error: float) -> list[Asked]:
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
            asked.append(Asked(int(name.rpartition("#")[2]), now, found, time.monotonic() - began))
        return decide(snapshot, now, preempt)

    rules = Rules(ROUND_SECONDS, every=EVERY_SECONDS, knows=knows, error=error, restart=20.0)
    outcome = World(jobs, cluster.parse(spec), watched, rules).run()
    for each in asked:
        each.truth = float(outcome.first[each.index])
    return asked


def show(report: Report, name: str, asked: list[Asked]) -> None:
    """How many were told something, how often it held, and how far off the likely time was."""
    told = [each for each in asked if each.said.start is not None and each.said.basis is not Basis.NOTHING]
    if not told:
        return
    held = [
        each.said.earliest is not None
        and each.said.earliest - SLACK_SECONDS <= each.truth
        and (each.said.latest is None or each.truth <= each.said.latest + SLACK_SECONDS)
        for each in told
    ]
    waits = np.array([each.truth - each.now for each in told])
    said = np.array([(each.said.start or 0.0) - each.now for each in told])
    report.figure(f"{name}.told_percent", 100 * len(told) / len(asked))
    report.figure(f"{name}.held_percent", 100 * float(np.mean(held)))
    report.figure(
        f"{name}.error_of_wait_median_percent",
        100 * float(np.median(np.abs(said - waits) / np.maximum(waits, 60.0))),
    )
    report.figure(f"{name}.took_seconds_median", float(np.median([each.took for each in asked])))


if __name__ == "__main__":
    main()

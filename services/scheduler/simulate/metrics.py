"""Figures of a simulation: what people wait, what is fair, what of the devices is used."""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.snapshot import Floats
from services.scheduler.simulate.cluster import amount, counted, devices
from services.scheduler.simulate.world import Outcome, Run

FAIR_RHO = 1.05
"""Above it a job counts as treated unfairly (Shockwave, NSDI 2023)."""


@dataclass(frozen=True)
class QueueShare:
    """What one queue got."""

    name: str
    jobs: int
    device_share: float
    """Of all device time that was used."""
    mean_wait: float
    mean_jct: float


@dataclass(frozen=True)
class Figures:
    """Seconds, unless a name says otherwise.

    Attributes:
        jct: From arrival to end (job completion time): mean, and quantiles by name.
        wait: Of that, without devices.
        rho: Finish-time fairness: a job's completion time over what it would take with its part of the cluster.
        unfair: Part of the jobs with a rho above 1.05.
        utilisation: Device time used over all that there was from the first arrival to the last end.
        restarts: Starts of jobs that had started before.
    """

    jobs: int
    jct_mean: float
    jct_p50: float
    jct_p90: float
    jct_p99: float
    jct_max: float
    makespan: float
    wait_mean: float
    wait_max: float
    rho_mean: float
    rho_max: float
    unfair: float
    utilisation: float
    restarts: int
    queues: tuple[QueueShare, ...]


def completion(outcome: Outcome) -> Floats:
    """Seconds from arrival to end of each job."""
    times: Floats = outcome.ends - np.array([job.arrival for job in outcome.jobs])
    return times


def waits(outcome: Outcome) -> Floats:
    """Seconds that each job had no devices."""
    found: Floats = np.maximum(0.0, completion(outcome) - outcome.held)
    return found


def rhos(outcome: Outcome) -> Floats:
    """Finish-time fairness of each job, with the contention of the whole trace: Shockwave's definition."""
    contention = max(1.0, len(outcome.jobs) / devices(outcome.nodes))
    alone = np.array([job.exclusive for job in outcome.jobs])
    found: Floats = completion(outcome) / (alone * contention)
    return found


def figures(outcome: Outcome) -> Figures:
    """All of them."""
    jct, wait, rho = completion(outcome), waits(outcome), rhos(outcome)
    makespan = float(outcome.ends.max()) - min(job.arrival for job in outcome.jobs)
    used = np.zeros(len(jct))
    for run in outcome.runs:
        used[run.job] += (run.stop - run.start) * gang_devices(outcome, run)
    return Figures(
        jobs=len(jct),
        jct_mean=float(jct.mean()),
        jct_p50=quantile(jct, 0.50),
        jct_p90=quantile(jct, 0.90),
        jct_p99=quantile(jct, 0.99),
        jct_max=float(jct.max()),
        makespan=makespan,
        wait_mean=float(wait.mean()),
        wait_max=float(wait.max()),
        rho_mean=float(rho.mean()),
        rho_max=float(rho.max()),
        unfair=float((rho > FAIR_RHO).mean()),
        utilisation=_used(outcome) / (devices(outcome.nodes) * makespan),
        restarts=int(outcome.starts.sum() - len(jct)),
        queues=_queues(outcome, used, jct, wait),
    )


def quantile(samples: Floats, share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed."""
    return float(np.sort(samples)[max(0, math.ceil(share * len(samples)) - 1)])


def gang_devices(outcome: Outcome, run: Run) -> float:
    """What a run held of that which the pool is measured by."""
    return run.placement.replicas * amount(outcome.jobs[run.job].replica, counted(outcome.nodes))


def _used(outcome: Outcome) -> float:
    """Device-seconds of all runs."""
    return sum((run.stop - run.start) * gang_devices(outcome, run) for run in outcome.runs)


def _queues(outcome: Outcome, used: Floats, jct: Floats, wait: Floats) -> tuple[QueueShare, ...]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, job in enumerate(outcome.jobs):
        members[job.queue].append(index)
    if len(members) < 2:
        return ()
    total = max(1.0, float(used.sum()))
    return tuple(
        QueueShare(
            name,
            len(rows),
            float(used[rows].sum()) / total,
            float(wait[rows].mean()),
            float(jct[rows].mean()),
        )
        for name, rows in sorted(members.items())
    )

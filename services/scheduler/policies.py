"""Which policy is in force, and what may be chosen. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from aios.errors import InvalidArgument
from services.scheduler.engine.balanced import balanced
from services.scheduler.engine.fair import fair
from services.scheduler.engine.order import Order, edf, fcfs, las, priority, sjf
from services.scheduler.engine.plan import Decide, plan
from services.scheduler.engine.plan import Policy as EnginePolicy

PREEMPT_INTERVAL = timedelta(seconds=60)
"""Longer than a start takes, so that no job is stopped before it has done something."""
PREEMPT_INTERVAL_MAX = timedelta(days=1)
USAGE_HALF_LIFE_MAX = timedelta(days=90)
RESERVATIONS = 8
RESERVATIONS_MAX = 64
DEFAULT = "balanced"


@dataclass(frozen=True)
class Policy:
    """How the pool is shared now."""

    algorithm: str = DEFAULT
    preempt_interval: timedelta = PREEMPT_INTERVAL
    reservations: int = RESERVATIONS
    usage_half_life: timedelta = timedelta()
    """After this time what a queue used counts half; zero: only what it uses now counts."""


@dataclass(frozen=True)
class Algorithm:
    """What a policy may be.

    Attributes:
        line: For people.
        preempts: Whether what runs is stopped for the sake of others.
        make: A policy of it, and the seconds that a job runs at least before it is stopped, to one that decides. It may
            remember what it did: one for each pool.
    """

    line: str
    preempts: bool
    make: Callable[[Policy, float], Decide]


def check(policy: Policy) -> Policy:
    """Return the policy if it can be put in force.

    Raises:
        InvalidArgument: with every wrong field and what to change.
    """
    wrong = {}
    if policy.algorithm not in ALGORITHMS:
        wrong["policy.algorithm"] = f"must be one of {', '.join(ALGORITHMS)}"
    if not timedelta(seconds=1) <= policy.preempt_interval <= PREEMPT_INTERVAL_MAX:
        wrong["policy.preempt_interval"] = "must be 1 s to 1 day"
    if not timedelta() <= policy.usage_half_life <= USAGE_HALF_LIFE_MAX:
        wrong["policy.usage_half_life"] = "must be 0 to 90 days"
    if not 0 < policy.reservations <= RESERVATIONS_MAX:
        wrong["policy.reservations"] = f"must be 1 to {RESERVATIONS_MAX}"
    if wrong:
        path, problem = next(iter(wrong.items()))
        raise InvalidArgument(f"{path}: {problem}", fields=wrong)
    return policy


def compose(policy: Policy) -> Decide:
    """A policy of the pool as what decides: no job is stopped before it has run for the policy's interval."""
    return ALGORITHMS[policy.algorithm].make(policy, policy.preempt_interval.total_seconds())


def _ordered(
    line: str, name: str, order: Order, *, preempts: bool = False, spares: bool = False
) -> Algorithm:
    def make(policy: Policy, quantum: float) -> Decide:
        made = EnginePolicy(name, order, preempts, quantum, policy.reservations, spares)
        return lambda snapshot, now, preempt: plan(snapshot, made, now, preempt=preempt)

    return Algorithm(line, preempts, make)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "balanced": _ordered(
            "Fair finishes, short waits and a full pool together",
            "balanced",
            balanced,
            preempts=True,
            spares=True,
        ),
        "fcfs": _ordered("First come, first served, with backfill", "fcfs", fcfs),
        "sjf": _ordered("Shortest remaining device time next", "sjf", sjf),
        "srtf": _ordered(
            "Shortest remaining device time, preempting", "srtf", sjf, preempts=True, spares=True
        ),
        "edf": _ordered("Earliest deadline next, preempting", "edf", edf, preempts=True, spares=True),
        "priority": _ordered("Highest priority, ageing", "priority", priority),
        "fair": _ordered("Dominant-resource fairness of queues, preempting", "fair", fair, preempts=True),
        "las": _ordered("Least attained service, preempting", "las", las, preempts=True),
    }
)

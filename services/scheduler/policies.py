"""Which policy is in force, and what may be chosen. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from aios.errors import InvalidArgument
from services.scheduler.engine import shares
from services.scheduler.engine.balanced import balanced
from services.scheduler.engine.dynamic import dynamic
from services.scheduler.engine.fair import fair
from services.scheduler.engine.model import Plan
from services.scheduler.engine.order import Order, edf, fcfs, las, priority, sjf
from services.scheduler.engine.plan import Decide, plan
from services.scheduler.engine.plan import Policy as EnginePolicy
from services.scheduler.engine.rounds import Allocate, Rounds
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.engine.types import balanced_shares, tells_types_apart
from services.scheduler.engine.utility import Curve, Lines, Log

PREEMPT_INTERVAL = timedelta(seconds=60)
"""Longer than a start takes, so that no job is stopped before it has done something."""
PREEMPT_INTERVAL_MAX = timedelta(days=1)
USAGE_HALF_LIFE_MAX = timedelta(days=90)
RESERVATIONS = 8
RESERVATIONS_MAX = 64
DEFAULT = "balanced"
ELASTIC = "dynamic"
"""The one that gives gangs fewer replicas than they ask for."""
ROUND_SECONDS = 300.0
"""Of policies that share devices by time: long beside a restart, so that turns cost little."""
SHARE_SECONDS = 60.0
"""Who comes or goes changes shares this late, so that programs are few; what is free is given at once."""
UTILITY_POINTS_MAX = 16


@dataclass(frozen=True)
class Policy:
    """How the pool is shared now."""

    algorithm: str = DEFAULT
    preempt_interval: timedelta = PREEMPT_INTERVAL
    reservations: int = RESERVATIONS
    usage_half_life: timedelta = timedelta()
    """After this time what a queue used counts half; zero: only what it uses now counts."""
    utility: Sequence[tuple[float, float]] = ()
    """What `utility` maximises: points of a concave function from (0, 0); none for the logarithm."""


@dataclass(frozen=True)
class Terms:
    """How a policy is carried out.

    Attributes:
        quantum: Seconds for which what has started is not stopped.
        round_seconds: Between two rounds at least, of policies that share devices by time.
        share_seconds: Between two computations of shares at least.
    """

    quantum: float
    reservations: int
    round_seconds: float
    share_seconds: float
    head_start: float


@dataclass(frozen=True)
class Algorithm:
    """What a policy may be.

    Attributes:
        line: For people.
        preempts: Whether what runs is stopped for the sake of others.
        make: A policy of it to one that decides on these terms. It may remember what it did: one for each pool.
    """

    line: str
    preempts: bool
    make: Callable[[Policy, Terms], Decide]


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
    if not _concave(policy.utility) or len(policy.utility) > UTILITY_POINTS_MAX:
        wrong["policy.utility"] = (
            f"must be at most {UTILITY_POINTS_MAX} points, times rising from 0 to 1, worth too, and ever more slowly"
        )
    if wrong:
        raise InvalidArgument.of_all(wrong)
    return policy


def compose(policy: Policy) -> Decide:
    """A policy of the pool as what decides: no job is stopped before it has run for the policy's interval."""
    seconds = policy.preempt_interval.total_seconds()
    rounds = max(seconds, ROUND_SECONDS)
    terms = Terms(seconds, policy.reservations, rounds, SHARE_SECONDS, rounds / 2)
    return ALGORITHMS[policy.algorithm].make(policy, terms)


def _ordered(
    line: str, name: str, order: Order, *, preempts: bool = False, spares: bool = False
) -> Algorithm:
    def make(policy: Policy, terms: Terms) -> Decide:
        made = EnginePolicy(name, order, preempts, terms.quantum, terms.reservations, spares)
        return lambda snapshot, now, preempt: plan(snapshot, made, now, preempt=preempt)

    return Algorithm(line, preempts, make)


def _shared(line: str, allocation: Callable[[Policy], Allocate], *, credit: bool = False) -> Algorithm:
    def make(policy: Policy, terms: Terms) -> Decide:
        rounds = Rounds(
            shares.able(allocation(policy)),
            interval=terms.share_seconds,
            head_start=terms.head_start,
            own_first=True,
            credit=credit,
            seconds=terms.round_seconds,
            quantum=terms.quantum,
            spares=True,
        )
        return lambda snapshot, now, preempt: rounds.plan(snapshot, now, preempt=preempt)

    return Algorithm(line, True, make)


def _balanced(policy: Policy, terms: Terms) -> Decide:
    """By rank where there is one type of accelerator, by shares of time where jobs tell several apart."""
    ranked, shared = (
        algorithm.make(policy, terms)
        for algorithm in (
            _ordered("", "balanced", balanced, preempts=True, spares=True),
            _shared("", lambda _: balanced_shares),
        )
    )

    def decide(snapshot: Snapshot, now: float, preempt: bool) -> Plan:
        return (shared if tells_types_apart(snapshot) else ranked)(snapshot, now, preempt)

    return decide


def _resized(policy: Policy, terms: Terms) -> Decide:
    return lambda snapshot, now, preempt: dynamic(
        snapshot, now, preempt=preempt, quantum=terms.quantum, spares=True
    )


def _useful(policy: Policy) -> Allocate:
    curve: Curve = Lines(policy.utility) if policy.utility else Log()
    return lambda snapshot, slots, now: shares.most_useful(snapshot, slots, now, curve)


def _concave(points: Sequence[tuple[float, float]]) -> bool:
    """Whether these are points of a function from (0, 0) to time 1 that grows, ever more slowly."""
    slopes, last = [], (0.0, 0.0)
    for time, worth in points:
        if not (last[0] < time <= 1 and last[1] < worth < math.inf):
            return False
        slopes.append((worth - last[1]) / (time - last[0]))
        last = time, worth
    return slopes == sorted(slopes, reverse=True)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "balanced": Algorithm("Fair finishes, short waits and a full pool together", True, _balanced),
        "fcfs": _ordered("First come, first served, with backfill", "fcfs", fcfs),
        "sjf": _ordered("Shortest remaining device time next", "sjf", sjf),
        "srtf": _ordered(
            "Shortest remaining device time, preempting", "srtf", sjf, preempts=True, spares=True
        ),
        "edf": _ordered("Earliest deadline next, preempting", "edf", edf, preempts=True, spares=True),
        "priority": _ordered("Highest priority, ageing", "priority", priority),
        "fair": _ordered("Dominant-resource fairness of queues, preempting", "fair", fair, preempts=True),
        "las": _ordered("Least attained service, preempting", "las", las, preempts=True),
        "proportional": _shared(
            "Devices in proportion to weight and priority", lambda _: shares.proportional, credit=True
        ),
        "utility": _shared("Largest sum of utilities", _useful, credit=True),
        "max-min": _shared("Max-min fair throughput over types of device", lambda _: shares.max_min),
        "makespan": _shared("Soonest last end over types of device", lambda _: shares.makespan),
        "finish-time-fair": _shared("Least worst finish-time ratio", lambda _: shares.finish_time_fair),
        "soonest": _shared("Soonest ends over types of device", lambda _: shares.soonest),
        "dynamic": Algorithm("Shortest first, elastic jobs resized by what they gain", True, _resized),
    }
)

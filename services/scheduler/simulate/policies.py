"""The policies that a simulation may be asked for, by name: each is what production would run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.scheduler.engine import balanced, fair, order, shares
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.rounds import Allocate
from services.scheduler.simulate import anchors
from services.scheduler.simulate.world import Decide

ROUND_SECONDS = 300.0
"""Between two steps that may preempt, unless it is said: short beside jobs, long beside their restarts."""


@dataclass(frozen=True)
class Choice:
    """A policy by name.

    Attributes:
        line: What it is, for people.
        make: The policy as a simulation of such rounds asks it.
        preempts: Whether it needs rounds.
    """

    line: str
    make: Callable[[float], Decide]
    preempts: bool


def _planned(policy: Policy) -> Callable[[float], Decide]:
    return lambda seconds: lambda snapshot, now, preempt: plan(snapshot, policy, now, preempt=preempt)


def _shared(allocation: Allocate) -> Callable[[float], Decide]:
    # Shares change with who is there; a quarter of an hour keeps the programs few.
    return lambda seconds: anchors.rounds(
        allocation, interval=max(900.0, 2 * seconds), seconds=seconds, aware=True
    )


POLICIES: Mapping[str, Choice] = {
    "fcfs": Choice("First come, first served, with backfill", _planned(Policy("fcfs", order.fcfs)), False),
    "sjf": Choice("Shortest remaining device time next", _planned(Policy("sjf", order.sjf)), False),
    "srtf": Choice(
        "Shortest remaining device time, preempting", _planned(Policy("srtf", order.sjf, preempt=True)), True
    ),
    "priority": Choice(
        "Highest priority, ageing, preempting",
        _planned(Policy("priority", order.priority, preempt=True)),
        True,
    ),
    "las": Choice(
        "Least attained service, preempting", _planned(Policy("las", order.las, preempt=True)), True
    ),
    "fair": Choice(
        "Dominant-resource fairness of queues, preempting",
        _planned(Policy("fair", fair.fair, preempt=True)),
        True,
    ),
    "balanced": Choice(
        "Fair finishes, short waits and a full pool together",
        _planned(Policy("balanced", balanced.balanced, preempt=True)),
        True,
    ),
    "max-min": Choice("Max-min fair throughput over types of device", _shared(shares.max_min), True),
    "makespan": Choice("Soonest last end over types of device", _shared(shares.makespan), True),
    "finish-time-fair": Choice("Least worst finish-time ratio", _shared(shares.finish_time_fair), True),
    "soonest": Choice("Soonest ends over types of device", _shared(shares.soonest), True),
}

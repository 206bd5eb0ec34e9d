"""The policies that a simulation may be asked for, by name: those of the pool as they are there, and those to come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.scheduler.engine import shares
from services.scheduler.engine.balanced import balanced
from services.scheduler.engine.order import Order, sjf
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.rounds import Allocate
from services.scheduler.policies import ALGORITHMS
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


def _ordered(line: str, name: str, order: Order, preempts: bool) -> Choice:
    policy = Policy(name, order, preempts)
    return Choice(
        line,
        lambda seconds: lambda snapshot, now, preempt: plan(snapshot, policy, now, preempt=preempt),
        preempts,
    )


def _offered(line: str, name: str) -> Choice:
    """One that the pool may be given."""
    return _ordered(line, name, *ALGORITHMS[name])


def _shared(allocation: Allocate) -> Callable[[float], Decide]:
    # Shares change with who is there; a quarter of an hour keeps the programs few.
    return lambda seconds: anchors.rounds(
        allocation, interval=max(900.0, 2 * seconds), seconds=seconds, aware=True
    )


POLICIES: Mapping[str, Choice] = {
    "fcfs": _offered("First come, first served, with backfill", "fcfs"),
    "sjf": _ordered("Shortest remaining device time next", "sjf", sjf, preempts=False),
    "srtf": _ordered("Shortest remaining device time, preempting", "srtf", sjf, preempts=True),
    "priority": _offered("Highest priority, ageing", "priority"),
    "las": _offered("Least attained service, preempting", "las"),
    "fair": _offered("Dominant-resource fairness of queues, preempting", "fair"),
    "balanced": _ordered(
        "Fair finishes, short waits and a full pool together", "balanced", balanced, preempts=True
    ),
    "max-min": Choice("Max-min fair throughput over types of device", _shared(shares.max_min), True),
    "makespan": Choice("Soonest last end over types of device", _shared(shares.makespan), True),
    "finish-time-fair": Choice("Least worst finish-time ratio", _shared(shares.finish_time_fair), True),
    "soonest": Choice("Soonest ends over types of device", _shared(shares.soonest), True),
}

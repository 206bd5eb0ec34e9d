"""The policies that a simulation may be asked for, by name: those of the pool as they are there, and those to come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from services.scheduler.engine import shares
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.rounds import Allocate
from services.scheduler.policies import ALGORITHMS, Policy
from services.scheduler.simulate import anchors

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


def _offered(name: str) -> Choice:
    """One that the pool may be given. Rounds alone say when it may stop jobs; room is kept for one job (EASY)."""
    algorithm = ALGORITHMS[name]

    def make(seconds: float) -> Decide:
        return algorithm.make(Policy(name, timedelta(seconds=seconds), reservations=1), 0.0)

    return Choice(algorithm.line, make, algorithm.preempts)


def _shared(allocation: Allocate) -> Callable[[float], Decide]:
    # Shares change with who is there; a quarter of an hour keeps the programs few.
    return lambda seconds: anchors.rounds(
        allocation, interval=max(900.0, 2 * seconds), seconds=seconds, aware=True
    )


POLICIES: Mapping[str, Choice] = {
    **{name: _offered(name) for name in ALGORITHMS},
    "max-min": Choice("Max-min fair throughput over types of device", _shared(shares.max_min), True),
    "makespan": Choice("Soonest last end over types of device", _shared(shares.makespan), True),
    "finish-time-fair": Choice("Least worst finish-time ratio", _shared(shares.finish_time_fair), True),
    "soonest": Choice("Soonest ends over types of device", _shared(shares.soonest), True),
}

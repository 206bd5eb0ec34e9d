"""The policies that a simulation may be asked for, by name: those of the pool."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.scheduler.engine.plan import Decide
from services.scheduler.policies import ALGORITHMS, Policy, Terms

ROUND_SECONDS = 300.0
"""Between two steps that may preempt, unless it is said: short beside jobs, long beside their restarts."""
SHARE_SECONDS = 900.0
"""Between two computations of shares, which change with who is there: a history has many of these moments."""


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
        terms = Terms(0.0, 1, 0.0, max(SHARE_SECONDS, 2 * seconds), seconds / 2)
        return algorithm.make(Policy(name), terms)

    return Choice(algorithm.line, make, algorithm.preempts)


POLICIES: Mapping[str, Choice] = {name: _offered(name) for name in ALGORITHMS}

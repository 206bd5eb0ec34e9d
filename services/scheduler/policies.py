"""Which policy is in force, and what may be chosen. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from aios.errors import InvalidArgument
from services.scheduler.engine.fair import fair
from services.scheduler.engine.order import Order, fcfs, las, priority
from services.scheduler.engine.plan import Policy as EnginePolicy

PREEMPT_INTERVAL = timedelta(seconds=60)
"""Longer than a start takes, so that no job is stopped before it has done something."""
PREEMPT_INTERVAL_MAX = timedelta(days=1)
RESERVATIONS = 8
RESERVATIONS_MAX = 64

ALGORITHMS: Mapping[str, tuple[Order, bool]] = MappingProxyType(
    {"fcfs": (fcfs, False), "priority": (priority, False), "fair": (fair, True), "las": (las, True)}
)
"""By name: who comes first, and whether what runs is stopped for its sake. None of these needs to know how long jobs
take."""


@dataclass(frozen=True)
class Policy:
    """How the pool is shared now."""

    algorithm: str = "fcfs"
    preempt_interval: timedelta = PREEMPT_INTERVAL
    reservations: int = RESERVATIONS


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
    if not 0 < policy.reservations <= RESERVATIONS_MAX:
        wrong["policy.reservations"] = f"must be 1 to {RESERVATIONS_MAX}"
    if wrong:
        path, problem = next(iter(wrong.items()))
        raise InvalidArgument(f"{path}: {problem}", fields=wrong)
    return policy


def compose(policy: Policy) -> EnginePolicy:
    """The same for the engine."""
    order, preempts = ALGORITHMS[policy.algorithm]
    return EnginePolicy(
        policy.algorithm,
        order,
        preempts,
        quantum=policy.preempt_interval.total_seconds(),
        reservations=policy.reservations,
    )

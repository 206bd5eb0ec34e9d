"""How many replicas there should be, by what there was to do. Pure.

Up at once, down slowly: the answer for now is what the last seconds ask for, but no less than anything that was asked
for within the last minute. So a pause between two bursts costs nothing, and no figure of one second decides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.policies import Scaling

UP_SECONDS = 5.0
"""Over which the load is averaged: a burst that is over before a replica could start asks for none."""
DOWN_SECONDS = 60.0
"""How long a lower load must last before a replica goes."""
STEP_FACTOR = 2
"""At most so many times as many at once: what the next ones are for is seen once these work."""


@dataclass(frozen=True)
class Load:
    """What a revision had to do at one moment of the monotonic clock."""

    at: float
    in_flight: int
    """Requests under way."""
    p99_millis: float
    """Of the last while; NaN without requests."""


def replicas(policy: Scaling, have: int, loads: Sequence[Load], idle_seconds: float, now: float) -> int:
    """How many replicas there should be.

    Args:
        have: How many there should be so far.
        loads: In order, at least those of the last DOWN_SECONDS that are known.
        idle_seconds: Since the last request.
    """
    if not policy.maximum:
        return have
    floor = max(1, policy.minimum)
    if have == 0:
        return 0  # it is a request that wakes it
    if policy.minimum == 0 and idle_seconds >= policy.idle_seconds:
        return 0
    asked = [_asked(policy, have, loads, each.at) for each in loads if now - each.at <= DOWN_SECONDS]
    if not asked:
        return _within(have, floor, policy.maximum)
    current = _asked(policy, have, loads, now)
    if current > have:
        return _within(min(current, have * STEP_FACTOR), floor, policy.maximum)
    known_for = now - loads[0].at
    if known_for < DOWN_SECONDS:
        return _within(have, floor, policy.maximum)
    return _within(min(have, max(asked)), floor, policy.maximum)


def _asked(policy: Scaling, have: int, loads: Sequence[Load], at: float) -> int:
    """What the load of the seconds before `at` asks for."""
    recent = [each for each in loads if at - UP_SECONDS < each.at <= at]
    if not recent:
        return 0
    asked = math.ceil(sum(each.in_flight for each in recent) / len(recent) / policy.concurrency)
    slow = policy.p99_millis and recent[-1].p99_millis > policy.p99_millis
    return max(asked, have + 1) if slow else asked


def _within(count: int, least: int, most: int) -> int:
    return max(least, min(count, most))

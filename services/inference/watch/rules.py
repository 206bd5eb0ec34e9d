"""Whether an alert fires: from a figure, a bound and the clock to the next state. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

FIRING, RESOLVED = "firing", "resolved"


class Metric(StrEnum):
    """What is watched."""

    ERRORS = "ERRORS"
    P99 = "P99"
    DRIFT = "DRIFT"
    LIVE_ACCURACY = "LIVE_ACCURACY"
    NO_REPLICA = "NO_REPLICA"


@dataclass(frozen=True)
class Rule:
    """What must hold."""

    metric: Metric
    threshold: float
    for_seconds: int


@dataclass(frozen=True)
class Standing:
    """Where an alert stands, and since when what is seen speaks against that."""

    firing: bool = False
    doubted_since: datetime | None = None


def step(before: Standing, rule: Rule, value: float | None, now: datetime) -> Standing:
    """The next state. A figure that nobody knows changes nothing."""
    if value is None or is_broken(rule, value) == before.firing:
        return replace(before, doubted_since=None)
    since = before.doubted_since or now
    if (now - since).total_seconds() >= rule.for_seconds:
        return Standing(not before.firing)
    return replace(before, doubted_since=since)


def is_broken(rule: Rule, value: float) -> bool:
    """Whether a figure breaks the rule. Without replicas, the figure is how many answer."""
    if rule.metric is Metric.NO_REPLICA:
        return value < 1
    if rule.metric is Metric.LIVE_ACCURACY:
        return value < rule.threshold
    return value > rule.threshold


def told(rule: Rule, value: float) -> str:
    """The figure and its bound, in words."""
    if rule.metric is Metric.NO_REPLICA:
        return "no replica answers" if value < 1 else f"{value:g} replicas answer"
    way = "above" if value > rule.threshold else "below" if value < rule.threshold else "at"
    match rule.metric:
        case Metric.ERRORS:
            return f"{value:.1f}% of the last minute's requests failed, {way} {rule.threshold:g}%"
        case Metric.P99:
            return f"the 99th percentile is {value:.3g} ms, {way} {rule.threshold:g} ms"
        case Metric.DRIFT:
            return f"the largest PSI is {value:.3g}, {way} {rule.threshold:g}"
        case _:
            return f"{100 * value:.1f}% of the newest answers were right, {way} {100 * rule.threshold:g}%"

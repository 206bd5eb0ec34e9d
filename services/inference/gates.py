"""Whether a revision on trial goes on, comes back or waits: from figures and the clock to the next step. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from services.inference.policies import Gates, Stage

CERTAIN = 1.645
"""Standard deviations that a share of errors must be off before it is no accident: 95%, one-sided."""
LATENCY_REQUESTS_MIN = 100
"""Below this the 99th percentile is the slowest request, which says nothing."""


@dataclass(frozen=True)
class Figures:
    """What one revision did in a stretch of time."""

    requests: int = 0
    errors: int = 0
    p99_millis: float = math.nan
    """NaN where nothing was measured."""

    @property
    def errors_percent(self) -> float:
        """Share of failed requests; 0 where there were none."""
        return 100 * self.errors / self.requests if self.requests else 0.0


class Step(Enum):
    """What becomes of a trial."""

    WAIT = auto()
    NEXT = auto()
    BACK = auto()


@dataclass(frozen=True)
class Decision:
    """What becomes of a trial, of which revision and stage that is said, and why."""

    step: Step
    revision: int
    stage: int
    reason: str


@dataclass(frozen=True)
class Trial:
    """A trial as it stands."""

    revision: int
    stage: int
    plan: Stage
    since: datetime
    """When the stage came into force."""
    candidate: Figures
    """Of the stage alone."""
    live: Figures
    """Of the live revision in the same time."""
    quality: Mapping[str, float]


def decide(trial: Trial, gates: Gates, now: datetime, *, paused: bool) -> Decision:
    """The next step of a trial. A gate that fails decides at once; all that hold decide once the stage's time is up."""

    def decision(step: Step, reason: str) -> Decision:
        return Decision(step, trial.revision, trial.stage, reason)

    if broken := _broken(trial, gates):
        return decision(Step.BACK, broken)
    if paused:
        return decision(Step.WAIT, "paused")
    if not trial.plan.seconds:
        return decision(Step.WAIT, "waits to be promoted")
    lasted = (now - trial.since).total_seconds()
    if lasted < trial.plan.seconds:
        return decision(Step.WAIT, f"lasts {trial.plan.seconds} s")
    sees_requests = trial.plan.percent or trial.plan.mirror_percent
    if sees_requests and trial.candidate.requests < gates.requests_min:
        return decision(
            Step.WAIT, f"has answered {trial.candidate.requests} of {gates.requests_min} requests"
        )
    if unknown := sorted(set(gates.quality_min) - set(trial.quality)):
        return decision(Step.WAIT, f"waits for reports of {', '.join(unknown)}")
    return decision(Step.NEXT, f"its gates held for {lasted:.0f} s: {told(trial.candidate)}")


def told(figures: Figures) -> str:
    """Figures in words."""
    p99 = "" if math.isnan(figures.p99_millis) else f", 99% within {figures.p99_millis:.3g} ms"
    return f"{figures.requests} requests, {figures.errors} failed{p99}"


def _broken(trial: Trial, gates: Gates) -> str:
    """The first gate that fails, in words; empty where all hold so far."""
    candidate, live = trial.candidate, trial.live
    allowed = live.errors_percent + gates.errors_percent_max
    if certainly_above(candidate.errors, candidate.requests, allowed / 100):
        return (
            f"{candidate.errors_percent:.1f}% of {candidate.requests} requests failed; "
            f"of the live revision's {live.errors_percent:.1f}%, and {gates.errors_percent_max:g} more are allowed"
        )
    for name, least in sorted(gates.quality_min.items()):
        found = trial.quality.get(name)
        if found is not None and not found >= least:
            return f"{name} is {found:g}, below {least:g}"
    if candidate.requests < LATENCY_REQUESTS_MIN:
        return ""
    if gates.p99_millis_max and candidate.p99_millis > gates.p99_millis_max:
        return f"its 99th percentile is {candidate.p99_millis:.3g} ms, above {gates.p99_millis_max:g}"
    comparable = gates.slowdown_max and live.requests >= LATENCY_REQUESTS_MIN
    if comparable and candidate.p99_millis > gates.slowdown_max * live.p99_millis:
        return (
            f"its 99th percentile is {candidate.p99_millis:.3g} ms, "
            f"above {gates.slowdown_max:g} times the live revision's {live.p99_millis:.3g}"
        )
    return ""


def certainly_above(hits: int, tries: int, share: float) -> bool:
    """Whether the share behind `hits` of `tries` is above `share`, with 95% certainty.

    Source: the lower end of Wilson's score interval, which holds for few tries too.
    """
    if not tries or share >= 1:
        return False
    found, squared = hits / tries, CERTAIN**2
    middle = found + squared / (2 * tries)
    margin = CERTAIN * math.sqrt(found * (1 - found) / tries + squared / (4 * tries**2))
    return (middle - margin) / (1 + squared / tries) > share

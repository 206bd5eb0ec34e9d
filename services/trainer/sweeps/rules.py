"""A sweep and its trials: what they are, and what may be asked for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from aios.errors import AlreadyExists, InvalidArgument, NotFound
from aios.names import RunName, SweepName
from services.trainer.sweeps import space
from services.trainer.sweeps.space import Space, Values

SWEEP_ID_LENGTH_MAX = 28  # its runs are named after it, with two numbers
TRIALS, TRIALS_MAX = 20, 2_000
FIRST_MAX = 100
PARALLELISM, PARALLELISM_MAX = 2, 100
FAILURES_MAX = 4  # trials that fail before any has given a value: more would fail too
SAMPLERS = ("random", "grid", "tpe", "cmaes", "gp", "nsga2", "population")
PRUNERS = ("none", "asha", "hyperband", "median")
SINGLE = ("cmaes", "gp", "population")
"""Samplers that know one objective."""
NUMBERS = ("cmaes", "gp")
"""Samplers that need at least one range."""


class SweepNotFound(NotFound):
    """The project has no such sweep. Retrying cannot help."""

    reason = "SWEEP_NOT_FOUND"


class SweepExists(AlreadyExists):
    """The project has a sweep of this name."""

    reason = "SWEEP_EXISTS"


class State(StrEnum):
    """Where a sweep stands."""

    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    FINISHING = "FINISHING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TrialState(StrEnum):
    """Where a trial stands."""

    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
TRIAL_FINAL = frozenset({TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELLED})
UNDER_WAY = frozenset({TrialState.RUNNING, TrialState.STOPPING})


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better."""

    metric: str
    maximize: bool = True

    def better(self, value: float) -> float:
        """The value as a number of which more is better."""
        return value if self.maximize else -value


@dataclass(frozen=True)
class Sampler:
    """How the next trial is chosen."""

    kind: str = "tpe"
    seed: int = 0
    startup: int = 10
    interval: int = 5
    quantile: float = 0.25


@dataclass(frozen=True)
class Pruner:
    """Which trials are not worth going on with. Counts reports of the first objective."""

    kind: str = "none"
    first: int = 1
    reduction: int = 3
    last: int = 0
    startup: int = 5


@dataclass(frozen=True)
class Budget:
    """When a sweep ends: 0 and None are no limit."""

    trials: int = TRIALS
    steps: int = 0
    time: timedelta | None = None


@dataclass(frozen=True)
class SweepSpec:
    """What is searched and how. The run itself is the caller's affair."""

    space: Space
    objectives: Sequence[Objective]
    sampler: Sampler = field(default_factory=Sampler)
    pruner: Pruner = field(default_factory=Pruner)
    parallelism: int = PARALLELISM
    budget: Budget = field(default_factory=Budget)
    first: Sequence[Values] = ()
    """Tried first, in this order."""


@dataclass(frozen=True)
class Proposal:
    """What a new trial tries, and what its sampler must know of it again."""

    values: Values
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Trial:
    """One choice of hyperparameters and what became of it."""

    number: int
    values: Values
    """The hyperparameters that are searched."""
    state: TrialState
    create_time: datetime
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What the sampler must know of it again, as JSON."""
    runs: int = 1
    """How many runs it has had; the last one is its own now."""
    then: TrialState | None = None
    """What it becomes when its run has stopped."""
    scores: Sequence[float] = ()
    """Newest value of each objective."""
    reports: int = 0
    looks: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """The first objective at each number of reports at which a pruner looked, as it came."""
    level: int = 0
    """How many of the pruner's looks it has passed."""
    steps: int = 0
    message: str = ""
    end_time: datetime | None = None


@dataclass(frozen=True)
class Sweep:
    """One search."""

    name: SweepName
    spec: SweepSpec
    state: State
    create_time: datetime
    update_time: datetime
    asked: bytes = b""
    """The serialised SweepSpec, with the versions that it meant when it was made."""
    version: int = 0
    """Of its trials and itself together: a decision is applied only to what it was made from."""
    creator: str = ""
    traceparent: str = ""
    reason: str = ""
    message: str = ""
    last: bool = False
    """A run is wanted after all trials."""
    last_created: bool = False
    end_time: datetime | None = None

    def run_of(self, trial: int, segment: int) -> RunName:
        """The name of a trial's run; segments count from 1."""
        tail = f"-{segment}" if segment > 1 else ""
        return RunName(self.name.project, f"{self.name.sweep}-t{trial}{tail}")

    @property
    def last_run(self) -> RunName:
        """The name of the run after all trials."""
        return RunName(self.name.project, f"{self.name.sweep}-last")


def check(spec: SweepSpec, path: str = "sweep.spec") -> None:
    """Refuse a search that cannot be made.

    Raises:
        InvalidArgument: naming the field.
    """
    space.check(spec.space, f"{path}.parameters")
    if not 1 <= len(spec.objectives) <= 5:
        raise InvalidArgument.of(f"{path}.objectives", "must be 1 to 5")
    for index, objective in enumerate(spec.objectives):
        if not objective.metric:
            raise InvalidArgument.of(f"{path}.objectives[{index}].metric", "must not be empty")
    sampler, pruner, budget = spec.sampler, spec.pruner, spec.budget
    if sampler.kind not in SAMPLERS:
        raise InvalidArgument.of(f"{path}.sampler.kind", f"must be one of {', '.join(SAMPLERS)}")
    if pruner.kind not in PRUNERS:
        raise InvalidArgument.of(f"{path}.pruner.kind", f"must be one of {', '.join(PRUNERS)}")
    if sampler.kind in SINGLE and len(spec.objectives) > 1:
        raise InvalidArgument.of(
            f"{path}.sampler.kind", f"{sampler.kind} knows one objective: tpe and nsga2 know more"
        )
    if sampler.kind in NUMBERS and not any(isinstance(each.domain, space.Range) for each in spec.space):
        raise InvalidArgument.of(f"{path}.sampler.kind", f"{sampler.kind} searches ranges, and there is none")
    if sampler.kind == "population" and pruner.kind != "none":
        raise InvalidArgument.of(
            f"{path}.pruner.kind", "must be none: a population replaces its worst by itself"
        )
    positive = {
        "sampler.startup": sampler.startup,
        "sampler.interval": sampler.interval,
        "pruner.first": pruner.first,
        "pruner.startup": pruner.startup,
    }
    for name, value in positive.items():
        if value < 1:
            raise InvalidArgument.of(f"{path}.{name}", "must be 1 or more")
    if not 0 < sampler.quantile <= 0.5:
        raise InvalidArgument.of(f"{path}.sampler.quantile", "must be above 0 and at most 0.5")
    if pruner.reduction < 2:
        raise InvalidArgument.of(f"{path}.pruner.reduction", "must be 2 or more")
    if pruner.kind == "hyperband" and pruner.last <= pruner.first:
        raise InvalidArgument.of(f"{path}.pruner.last", "must be the reports of a whole run, more than first")
    if pruner.last < 0:
        raise InvalidArgument.of(f"{path}.pruner.last", "must not be negative")
    if len(spec.first) > FIRST_MAX:
        raise InvalidArgument.of(f"{path}.first", f"at most {FIRST_MAX}")
    for index, values in enumerate(spec.first):
        for name, chosen in values.items():
            domains = [parameter.domain for parameter in spec.space if parameter.name == name]
            if not domains or not domains[0].has(chosen):
                raise InvalidArgument.of(f"{path}.first[{index}].{name}", f"{chosen!r} is not in the space")
    if not 1 <= spec.parallelism <= PARALLELISM_MAX:
        raise InvalidArgument.of(f"{path}.parallelism", f"must be 1 to {PARALLELISM_MAX}")
    if not 1 <= budget.trials <= TRIALS_MAX:
        raise InvalidArgument.of(f"{path}.budget.trials", f"must be 1 to {TRIALS_MAX}")
    if budget.steps < 0 or (budget.time is not None and budget.time <= timedelta(0)):
        raise InvalidArgument.of(f"{path}.budget", "must not be negative")


def refused(trial: Trial, why: str, now: datetime) -> Trial:
    """The trial whose run cannot be made."""
    return replace(trial, state=TrialState.FAILED, then=None, message=why, end_time=now)


def without_last(sweep: Sweep, why: str, now: datetime) -> Sweep:
    """The sweep whose last run cannot be made."""
    return replace(sweep, state=State.FAILED, message=why, last_created=False, end_time=now)


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Trials by state."""
    return {state.value: found for state in TrialState if (found := sum(t.state is state for t in trials))}


def best(spec: SweepSpec, trials: Sequence[Trial], limit: int = 50) -> list[Trial]:
    """The best trial; with several objectives those that no other beats in all of them, best first by the first.

    A trial that ended early counts with what it had, but one that ran to its end is preferred at equal values.
    """
    scored = [
        trial
        for trial in trials
        if len(trial.scores) == len(spec.objectives) and trial.state is not TrialState.FAILED
    ]
    points = {trial.number: _point(spec, trial) for trial in scored}

    def order(trial: Trial) -> tuple[Any, ...]:
        whole = trial.state is TrialState.SUCCEEDED
        return tuple(-value for value in points[trial.number]), not whole, trial.number

    scored.sort(key=order)
    if len(spec.objectives) == 1:
        return scored[:1]
    front = [
        trial
        for trial in scored
        if not any(_beats(points[other.number], points[trial.number]) for other in scored)
    ]
    return front[:limit]


def ranked(spec: SweepSpec, trials: Sequence[Trial]) -> list[Trial]:
    """Trials that ran to their end, best first by the first objective."""
    done = [trial for trial in trials if trial.state is TrialState.SUCCEEDED and trial.scores]
    return sorted(done, key=lambda trial: (-spec.objectives[0].better(trial.scores[0]), trial.number))


def _point(spec: SweepSpec, trial: Trial) -> tuple[float, ...]:
    return tuple(o.better(score) for o, score in zip(spec.objectives, trial.scores, strict=True))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))

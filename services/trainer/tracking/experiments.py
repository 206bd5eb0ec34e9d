"""Experiments and tracked runs, and what may be said of them. Pure. Source: mlflow.org/docs, REST API."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from aios.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.trainer.metrics import Point
from services.trainer.runs import State
from services.trainer.tracking import filters
from services.trainer.tracking.filters import Condition, Order

DEFAULT, DEFAULT_NAME = "0", "Default"
"""The experiment of runs that were given none; it is there always."""
NAME_MAX, KEY_MAX, PARAM_MAX, TAG_MAX = 500, 250, 6_000, 8_000  # characters, as MLflow's own server takes
PARAMS_AT_ONCE, TAGS_AT_ONCE = 100, 100
ODD = "aios.metric."
"""Tags that keep a metric's last value where it is no finite number."""
STATUS: Mapping[State, str] = MappingProxyType(
    {
        State.QUEUED: "SCHEDULED",
        State.STARTING: "SCHEDULED",
        State.RUNNING: "RUNNING",
        State.STOPPING: "RUNNING",
        State.SUCCEEDED: "FINISHED",
        State.FAILED: "FAILED",
        State.CANCELLED: "KILLED",
    }
)
"""What MLflow calls where a run stands."""
STATE: Mapping[str, State] = MappingProxyType(
    {
        "RUNNING": State.RUNNING,
        "SCHEDULED": State.QUEUED,
        "FINISHED": State.SUCCEEDED,
        "FAILED": State.FAILED,
        "KILLED": State.CANCELLED,
    }
)
TIMES = ("creation_time", "last_update_time")
"""What of an experiment is milliseconds since 1970."""
VIEWS = ("ACTIVE_ONLY", "DELETED_ONLY", "ALL")


class ExperimentNotFound(NotFound):
    """The project has no such experiment."""

    reason = "EXPERIMENT_NOT_FOUND"


class ExperimentExists(AlreadyExists):
    """The project has an experiment of this name, perhaps a deleted one."""

    reason = "EXPERIMENT_EXISTS"


class TagNotFound(NotFound):
    """The run has no such tag."""

    reason = "TAG_NOT_FOUND"


class NotTracked(FailedPrecondition):
    """The platform runs this run, and says itself how it goes."""

    reason = "RUN_NOT_TRACKED"


class ParamChanged(InvalidArgument):
    """The run has another value of this parameter: parameters do not change."""

    reason = "PARAM_CHANGED"


@dataclass(frozen=True)
class Experiment:
    """What gathers runs."""

    id: str
    name: str
    create_time: datetime
    update_time: datetime
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    deleted: bool = False


@dataclass(frozen=True)
class Said:
    """What one call says of a run: checked, and no key twice."""

    points: Sequence[Point] = ()
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def default(now: datetime) -> Experiment:
    """The experiment that nobody made."""
    return Experiment(DEFAULT, DEFAULT_NAME, now, now)


def check_name(name: str, field: str = "name") -> str:
    """An experiment's name.

    Raises:
        InvalidArgument: it is empty or too long.
    """
    if not name.strip() or len(name) > NAME_MAX:
        raise InvalidArgument.of(field, f"must have 1 to {NAME_MAX} characters")
    return name


def check_view(view: str, field: str) -> str:
    """Which of the deleted are looked at.

    Raises:
        InvalidArgument: it is none that there is.
    """
    if view and view not in VIEWS:
        raise InvalidArgument.of(field, f"must be one of {', '.join(VIEWS)}")
    return view or VIEWS[0]


def said(
    points: Iterable[Point] = (),
    params: Iterable[tuple[str, str]] = (),
    tags: Iterable[tuple[str, str]] = (),
) -> Said:
    """What a call says, with metrics that are no numbers among the tags.

    Raises:
        InvalidArgument: naming what is too long, too much or said twice.
    """
    finite, odd = [], {}
    for point in points:
        if math.isfinite(point.value):
            finite.append(point)
        else:
            odd[f"{ODD}{point.key}"] = f"{point.value} at step {point.step}"
    asked = _pairs("params", params, PARAM_MAX, PARAMS_AT_ONCE)
    return Said(finite, asked, _pairs("tags", tags, TAG_MAX, TAGS_AT_ONCE) | odd)


def _pairs(name: str, pairs: Iterable[tuple[str, str]], length: int, count: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, (key, value) in enumerate(pairs):
        if not key or len(key) > KEY_MAX:
            raise InvalidArgument.of(f"{name}[{index}].key", f"must have 1 to {KEY_MAX} characters")
        if len(value) > length:
            raise InvalidArgument.of(f"{name}[{index}].value", f"must have at most {length} characters")
        if name == "params" and found.get(key, value) != value:
            raise ParamChanged.of(f"{name}[{index}].value", f"{key} is said twice with different values")
        found[key] = value
    if len(found) > count:
        raise InvalidArgument.of(name, f"at most {count} in one call, not {len(found)}")
    return found


def moment(millis: int) -> datetime:
    """Milliseconds since 1970 as a time.

    Raises:
        InvalidArgument: they are of no time that there is.
    """
    try:
        return datetime.fromtimestamp(millis / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        raise InvalidArgument.of("timestamp", f"must be milliseconds since 1970, not {millis}") from None


def millis(moment: datetime) -> int:
    """A time as MLflow says it."""
    return round(moment.timestamp() * 1000)


def matching(
    found: Iterable[Experiment], asked: Sequence[Condition], order: Sequence[Order], view: str
) -> list[Experiment]:
    """Those that every comparison holds for, in order.

    Raises:
        InvalidArgument: a comparison is of something that experiments have not.
    """
    kept = [each for each in found if view == "ALL" or each.deleted == (view == "DELETED_ONLY")]
    return filters.matching(kept, asked, order, _value)


def _value(each: Experiment, kind: str, key: str) -> str | float | None:
    if kind == "tag":
        return each.tags.get(key)
    known: Mapping[str, str | float] = {
        "name": each.name,
        "experiment_id": each.id,
        "creation_time": float(millis(each.create_time)),
        "last_update_time": float(millis(each.update_time)),
    }
    if kind != "attribute" or key not in known:
        raise InvalidArgument.of("filter", f"experiments have no {kind} {key!r}: {', '.join(known)} and tags")
    return known[key]

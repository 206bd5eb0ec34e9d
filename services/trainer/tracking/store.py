"""Experiments, and what MLflow knows of runs, in SQL."""

import base64
import binascii
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, false, func, insert, or_, select, update

from aios.errors import InvalidArgument
from aios.names import RunName
from aios.records import Tx
from aios.records.pages import PageTokenInvalid
from services.trainer import store
from services.trainer.metrics import Point
from services.trainer.runs import Run
from services.trainer.tables import experiments, metric_points, run_params, run_tags, runs, tracked_runs
from services.trainer.tracking.experiments import (
    DEFAULT,
    STATE,
    Experiment,
    ExperimentExists,
    ExperimentNotFound,
    ParamChanged,
    TagNotFound,
    default,
    moment,
)
from services.trainer.tracking.filters import Condition, Order

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "=": operator.eq,
        "!=": operator.ne,
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
    }
)
TIMES = ("start_time", "end_time", "creation_time", "last_update_time", "created", "updated")
"""Attributes that are milliseconds since 1970."""


@dataclass(frozen=True)
class Tracked:
    """A run, and what lies beside it."""

    run: Run
    experiment: str = DEFAULT
    title: str = ""
    user: str = ""
    deleted: bool = False
    ours: bool = True
    """The platform runs it."""
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def add_experiment(tx: Tx, project: str, made: Experiment) -> None:
    """Store a new experiment.

    Raises:
        ExperimentExists: the name is taken.
    """
    _refuse_taken(tx, project, made.name)
    tx.execute(insert(experiments).values(project=project, **_columns(made)))


def experiment(tx: Tx, project: str, experiment_id: str, now: datetime) -> Experiment:
    """One experiment.

    Raises:
        ExperimentNotFound: there is none of this id.
    """
    query = select(experiments).where(experiments.c.project == project, experiments.c.id == experiment_id)
    row = tx.execute(query).one_or_none()
    if row is not None:
        return _experiment(row)
    if experiment_id == DEFAULT:
        return default(now)
    raise ExperimentNotFound(
        f"No experiment {experiment_id!r} in this project.", experiment=experiment_id[:63]
    )


def experiment_named(tx: Tx, project: str, name: str, now: datetime) -> Experiment:
    """One experiment by its name.

    Raises:
        ExperimentNotFound: there is none of this name.
    """
    query = select(experiments).where(experiments.c.project == project, experiments.c.name == name)
    row = tx.execute(query).one_or_none()
    if row is not None:
        return _experiment(row)
    made = experiment(tx, project, DEFAULT, now)
    if made.name == name:
        return made
    raise ExperimentNotFound(f"No experiment is named {name!r} in this project.")


def save_experiment(tx: Tx, project: str, before: Experiment, after: Experiment) -> None:
    """Store what an experiment became.

    Raises:
        ExperimentExists: another one has its new name.
    """
    if after.name != before.name:
        _refuse_taken(tx, project, after.name)
    mine = (experiments.c.project == project) & (experiments.c.id == before.id)
    if tx.execute(update(experiments).where(mine).values(_columns(after))).rowcount == 0:
        tx.execute(insert(experiments).values(project=project, **_columns(after)))


def all_experiments(tx: Tx, project: str, now: datetime) -> list[Experiment]:
    """Every experiment, newest first."""
    query = select(experiments).where(experiments.c.project == project)
    query = query.order_by(experiments.c.create_time.desc(), experiments.c.id)
    found = [_experiment(row) for row in tx.execute(query)]
    return found if any(each.id == DEFAULT for each in found) else [*found, default(now)]


def add(tx: Tx, tracked: Tracked) -> None:
    """Store a run that somebody else runs."""
    name = tracked.run.name
    store.add(tx, tracked.run)
    place(tx, name, tracked.experiment, tracked.title, tracked.user)
    put_tags(tx, name, tracked.tags)


def placed(tx: Tx, name: RunName) -> bool:
    """Whether a run was put into an experiment."""
    return tx.execute(select(tracked_runs.c.run).where(*_of(tracked_runs, name))).first() is not None


def place(tx: Tx, name: RunName, experiment: str, title: str, user: str) -> None:
    """Put a run of the platform into an experiment, under a title."""
    tx.execute(delete(tracked_runs).where(*_of(tracked_runs, name)))
    tx.execute(
        insert(tracked_runs).values(
            project=name.project, run=name.run, experiment=experiment, title=title, user=user, deleted=False
        )
    )


def get(tx: Tx, name: RunName) -> Tracked:
    """One run, a deleted one too.

    Raises:
        RunNotFound: there is none of this name.
    """
    return _with_words(tx, [store.get(tx, name)])[0]


def change(tx: Tx, name: RunName, **values: Any) -> None:
    """Store what of a tracked run is not the run's own: title, deleted."""
    mine = (tracked_runs.c.project == name.project) & (tracked_runs.c.run == name.run)
    tx.execute(update(tracked_runs).where(mine).values(values))


def put_params(tx: Tx, name: RunName, params: Mapping[str, str]) -> None:
    """Store parameters.

    Raises:
        ParamChanged: one has another value already.
    """
    known = _words(tx, run_params, [name], list(params))[name]
    for key, value in params.items():
        if known.get(key, value) != value:
            raise ParamChanged(
                f"Parameter {key!r} is {known[key]!r} already, and cannot become {value[:100]!r}: "
                "log it as another one, or as a tag.",
                fields={"key": "a parameter that was logged stays as it is"},
            )
    _put(tx, run_params, name, {key: value for key, value in params.items() if key not in known})


def put_tags(tx: Tx, name: RunName, tags: Mapping[str, str]) -> None:
    """Store tags over those that are there."""
    if tags:
        tx.execute(delete(run_tags).where(*_of(run_tags, name), run_tags.c.key.in_(tags)))
        _put(tx, run_tags, name, tags)


def remove_tag(tx: Tx, name: RunName, key: str) -> None:
    """Remove a tag.

    Raises:
        TagNotFound: the run has none of this key.
    """
    if tx.execute(delete(run_tags).where(*_of(run_tags, name), run_tags.c.key == key)).rowcount == 0:
        raise TagNotFound(f"{name} has no tag {key!r}.")


def search(
    tx: Tx,
    project: str,
    experiment_ids: Sequence[str],
    asked: Sequence[Condition],
    order: Sequence[Order],
    view: str,
    size: int,
    token: str,
) -> tuple[list[Tracked], str]:
    """A page of runs, and the next page's token."""
    placed = func.coalesce(tracked_runs.c.experiment, DEFAULT)
    gone = func.coalesce(tracked_runs.c.deleted, false())
    joined = runs.outerjoin(
        tracked_runs, and_(tracked_runs.c.project == runs.c.project, tracked_runs.c.run == runs.c.run)
    )
    query: Select[Any] = select(runs).select_from(joined).where(runs.c.project == project)
    query = query.where(placed.in_(experiment_ids))
    if view != "ALL":
        query = query.where(gone if view == "DELETED_ONLY" else ~gone)
    for condition in asked:
        query = query.where(_holds(condition))
    for each in order:
        value = _value(each.kind, each.key)
        query = query.order_by(value.is_(None), value.desc() if each.descending else value.asc())
    start = page_start(token)
    query = query.order_by(runs.c.create_time.desc(), runs.c.run).offset(start).limit(size + 1)
    found = [store.run_of(row) for row in tx.execute(query)]
    more = page_token(start + size) if len(found) > size else ""
    return _with_words(tx, found[:size]), more


def history(tx: Tx, name: RunName, key: str, size: int, token: str) -> tuple[list[Point], str]:
    """A page of one metric's points, by step, and the next page's token."""
    start = page_start(token)
    query = select(metric_points).where(*_of(metric_points, name), metric_points.c.key == key)
    rows = tx.execute(query.order_by(metric_points.c.step).offset(start).limit(size + 1)).all()
    points = [Point(row.key, row.value, row.step, row.time, row.epoch) for row in rows[:size]]
    return points, page_token(start + size) if len(rows) > size else ""


def newest(tx: Tx, name: RunName, keys: Iterable[str]) -> dict[str, float]:
    """The value of each metric at its greatest step."""
    found = {}
    for key in keys:
        query = select(metric_points.c.value).where(*_of(metric_points, name), metric_points.c.key == key)
        found[key] = tx.execute(query.order_by(metric_points.c.step.desc()).limit(1)).scalar_one()
    return found


def steps(tx: Tx, found: Sequence[Run]) -> dict[tuple[RunName, str], tuple[int, datetime]]:
    """Where each run's newest value of each metric was measured: step and time."""
    names = [run.name for run in found if run.metrics]
    if not names:
        return {}
    point = metric_points.c
    last = (
        select(point.project, point.run, point.key, func.max(point.step).label("step"))
        .where(_among(metric_points, names))
        .group_by(point.project, point.run, point.key)
        .subquery()
    )
    query = select(point.project, point.run, point.key, point.step, point.time).join(
        last,
        and_(
            point.project == last.c.project,
            point.run == last.c.run,
            point.key == last.c.key,
            point.step == last.c.step,
        ),
    )
    return {(RunName(row.project, row.run), row.key): (row.step, row.time) for row in tx.execute(query)}


def _holds(condition: Condition) -> ColumnElement[bool]:
    value = _value(condition.kind, condition.key)
    given = [_given(condition.kind, condition.key, one) for one in condition.values]
    first = given[0]
    match condition.operator:
        case "LIKE":
            # SQLite's LIKE minds no case.
            return and_(value.like(first), _same_case(value, first))
        case "ILIKE":
            return value.ilike(first)
        case "IN":
            return value.in_(given)
        case "NOT IN":
            return value.not_in(given)
        case sign:
            holds: ColumnElement[bool] = _COMPARE[sign](value, first)
            return holds


def _same_case(value: ColumnElement[Any], pattern: Any) -> ColumnElement[bool]:
    """Every part of a pattern between wildcards occurs as it is written."""
    parts = [part for part in str(pattern).replace("_", "%").split("%") if part]
    return and_(*(func.replace(value, part, "") != value for part in parts)) if parts else ~false()


def _value(kind: str, key: str) -> ColumnElement[Any]:
    if kind == "metric":
        points = metric_points.c
        same = (points.project == runs.c.project) & (points.run == runs.c.run) & (points.key == key)
        newest = select(points.value).where(same).order_by(points.step.desc()).limit(1)
        return newest.correlate(runs).scalar_subquery()
    if kind in ("param", "tag"):
        if (kind, key) == ("tag", "mlflow.runName"):
            return _title()
        words = run_params if kind == "param" else run_tags
        same = (words.c.project == runs.c.project) & (words.c.run == runs.c.run) & (words.c.key == key)
        return select(words.c.value).where(same).correlate(runs).scalar_subquery()
    column: ColumnElement[Any] | None = {
        "run_id": runs.c.run,
        "run_uuid": runs.c.run,
        "run_name": _title(),
        "status": runs.c.state,
        "start_time": runs.c.create_time,
        "created": runs.c.create_time,
        "end_time": runs.c.end_time,
        "user_id": func.coalesce(tracked_runs.c.user, runs.c.creator),
    }.get(key)
    if column is None:
        known = "run_id, run_name, status, start_time, end_time, user_id"
        raise InvalidArgument.of("filter", f"runs have no attribute {key!r}: {known}")
    return column


def _given(kind: str, key: str, value: str | float) -> Any:
    if kind != "attribute":
        return value
    if key == "status":
        return STATE.get(str(value).upper(), value)
    if key in TIMES and isinstance(value, float):
        return moment(int(value))
    return value


def _title() -> ColumnElement[Any]:
    return func.coalesce(tracked_runs.c.title, runs.c.run)


def _with_words(tx: Tx, found: Sequence[Run]) -> list[Tracked]:
    names = [run.name for run in found]
    if not names:
        return []
    about = {
        RunName(row.project, row.run): row
        for row in tx.execute(select(tracked_runs).where(_among(tracked_runs, names)))
    }
    params, tags = _words(tx, run_params, names), _words(tx, run_tags, names)
    return [_tracked(run, about.get(run.name), params[run.name], tags[run.name]) for run in found]


def _tracked(run: Run, row: Row[Any] | None, params: dict[str, str], tags: dict[str, str]) -> Tracked:
    params = {key: _text(value) for key, value in run.spec.hyperparameters.items()} | params
    if row is None:
        return Tracked(run, title=run.name.run, user=run.creator, params=params, tags=tags)
    ours = bool(run.spec.recipe or run.spec.command)
    return Tracked(run, row.experiment, row.title, row.user, row.deleted, ours, params, tags)


def _text(value: Any) -> str:
    return str(value) if not isinstance(value, float) or value != int(value) else str(int(value))


def _words(
    tx: Tx, table: Any, names: Sequence[RunName], keys: Sequence[str] | None = None
) -> dict[RunName, dict[str, str]]:
    found: dict[RunName, dict[str, str]] = {name: {} for name in names}
    query = select(table).where(_among(table, names))
    if keys is not None:
        query = query.where(table.c.key.in_(keys))
    for row in tx.execute(query):
        found[RunName(row.project, row.run)][row.key] = row.value
    return found


def _put(tx: Tx, table: Any, name: RunName, words: Mapping[str, str]) -> None:
    if words:
        rows = [{"project": name.project, "run": name.run, "key": k, "value": v} for k, v in words.items()]
        tx.execute(insert(table), rows)


def _among(table: Any, names: Sequence[RunName]) -> ColumnElement[bool]:
    by_project: dict[str, list[str]] = {}
    for name in names:
        by_project.setdefault(name.project, []).append(name.run)
    return or_(*((table.c.project == project) & table.c.run.in_(ids) for project, ids in by_project.items()))


def _of(table: Any, name: RunName) -> tuple[ColumnElement[bool], ...]:
    return table.c.project == name.project, table.c.run == name.run


def _refuse_taken(tx: Tx, project: str, name: str) -> None:
    query = select(experiments.c.id).where(experiments.c.project == project, experiments.c.name == name)
    if tx.execute(query).first() is not None or name == "Default":
        raise ExperimentExists(f"An experiment is named {name!r} already.", experiment=name[:63])


def _columns(made: Experiment) -> dict[str, Any]:
    return {
        "id": made.id,
        "name": made.name,
        "tags": dict(made.tags),
        "deleted": made.deleted,
        "create_time": made.create_time,
        "update_time": made.update_time,
    }


def _experiment(row: Row[Any]) -> Experiment:
    return Experiment(
        row.id, row.name, row.create_time, row.update_time, MappingProxyType(row.tags), row.deleted
    )


def page_token(offset: int) -> str:
    """The token of the page that begins at a row."""
    return base64.urlsafe_b64encode(str(offset).encode()).decode()


def page_start(token: str) -> int:
    """The row that a page begins at.

    Raises:
        PageTokenInvalid
    """
    try:
        offset = int(base64.urlsafe_b64decode(token)) if token else 0
    except (ValueError, binascii.Error):
        offset = -1
    if not 0 <= offset < 2**31:
        raise PageTokenInvalid("The page_token is none that a search gave: start again without one.")
    return offset

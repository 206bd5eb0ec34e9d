"""Runs and their metrics in SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select, update

from aios.names import JobName, RunName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.trainer import mapping
from services.trainer.metrics import Point
from services.trainer.runs import EVENT, FINAL, Progress, Run, RunExists, RunNotFound, RunSpec, State
from services.trainer.tables import metadata as metadata
from services.trainer.tables import metric_points, runs, tracked_runs

METRICS_PAGE, METRICS_PAGE_MAX = 1_000, 10_000  # a point is about 60 bytes on the wire


def add(tx: Tx, run: Run) -> None:
    """Store a new run and tell of it.

    Raises:
        RunExists: the name is taken.
    """
    if tx.execute(select(runs.c.run).where(_is(run.name))).first() is not None:
        raise RunExists(f"{run.name} exists: choose another run_id, or leave it empty.", run=str(run.name))
    tx.execute(insert(runs).values(project=run.name.project, run=run.name.run, **_columns(run)))
    tx.emit("run", run.name.project, run.name.run, "created", mapping.run_to_proto(run))


def get(tx: Tx, name: RunName) -> Run:
    """One run.

    Raises:
        RunNotFound: there is none of this name.
    """
    row = tx.execute(select(runs).where(_is(name))).one_or_none()
    if row is None:
        raise RunNotFound(f"{name} does not exist.", run=str(name))
    return run_of(row)


def of_job(tx: Tx, job: JobName) -> Run | None:
    """The run that a job works for, if it is one of ours."""
    row = tx.execute(select(runs).where(_is(RunName(job.project, job.job)))).one_or_none()
    return None if row is None else run_of(row)


def page(tx: Tx, project: str, request: ListRequest) -> tuple[list[Run], str]:
    """The runs of a project, newest first, and the next page's token."""
    query = select(runs).where(runs.c.project == project)
    rows, token = Page.of(request).fetch(tx, query, by=(runs.c.create_time, runs.c.run), descending=True)
    return [run_of(row) for row in rows], token


def under_way(tx: Tx) -> list[Run]:
    """Every run of the platform that has not ended."""
    tracked = select(tracked_runs.c.run).where(
        tracked_runs.c.project == runs.c.project, tracked_runs.c.run == runs.c.run
    )
    query = select(runs).where(runs.c.state.not_in(FINAL), ~tracked.exists())
    return [run_of(row) for row in tx.execute(query)]


def save(tx: Tx, before: Run, after: Run) -> Run:
    """Store what a run became, and tell of it when its state changed."""
    if after == before:
        return after
    tx.execute(update(runs).where(_is(after.name)).values(_columns(after)))
    if after.state is not before.state:
        tx.emit("run", after.name.project, after.name.run, EVENT[after.state], mapping.run_to_proto(after))
    return after


def add_points(tx: Tx, name: RunName, points: Iterable[Point]) -> None:
    """Store metric points; one that is there already is replaced."""
    # The last of those that a report names twice; a new row each, so that a watcher sees it.
    newest = {(point.key, point.step): point for point in points}
    if not newest:
        return
    gone = delete(metric_points).where(
        *_points_of(name),
        metric_points.c.key == bindparam("old_key"),
        metric_points.c.step == bindparam("old_step"),
    )
    tx.execute(gone, [{"old_key": key, "old_step": step} for key, step in newest])
    tx.execute(
        insert(metric_points),
        [{"project": name.project, "run": name.run, **asdict(point)} for point in newest.values()],
    )


def rewind(tx: Tx, name: RunName, step: int) -> dict[str, float]:
    """Forget the points after `step`: they will be measured again. Returns the newest value of each that stays."""
    tx.execute(delete(metric_points).where(*_points_of(name), metric_points.c.step > step))
    newest = (
        select(metric_points.c.key, func.max(metric_points.c.step).label("step"))
        .where(*_points_of(name))
        .group_by(metric_points.c.key)
        .subquery()
    )
    found = select(metric_points.c.key, metric_points.c.value).where(
        *_points_of(name), metric_points.c.key == newest.c.key, metric_points.c.step == newest.c.step
    )
    return {row.key: row.value for row in tx.execute(found)}


def curve(tx: Tx, name: RunName, key: str) -> dict[int, float]:
    """The values of one metric by step."""
    found = select(metric_points.c.step, metric_points.c.value).where(
        *_points_of(name), metric_points.c.key == key
    )
    return {row.step: row.value for row in tx.execute(found)}


def points_after(tx: Tx, name: RunName, after: int, limit: int = METRICS_PAGE) -> tuple[list[Point], int]:
    """Points that arrived after cursor `after`, and the new cursor."""
    rows = tx.execute(
        select(metric_points)
        .where(*_points_of(name), metric_points.c.id > after)
        .order_by(metric_points.c.id)
        .limit(limit)
    ).all()
    return [_point(row) for row in rows], rows[-1].id if rows else after


def points_page(tx: Tx, name: RunName, key: str, request: ListRequest) -> tuple[list[Point], str]:
    """Points of a run by step, of one metric or of all."""
    query = select(metric_points).where(*_points_of(name))
    if key:
        query = query.where(metric_points.c.key == key)
    page = Page.of(request, METRICS_PAGE, METRICS_PAGE_MAX)
    rows, token = page.fetch(tx, query, by=(metric_points.c.step, metric_points.c.key))
    return [_point(row) for row in rows], token


def count_points(tx: Tx, name: RunName) -> int:
    """How many points a run has."""
    count: int = tx.execute(
        select(func.count()).select_from(metric_points).where(*_points_of(name))
    ).scalar_one()
    return count


def _is(name: RunName) -> Any:
    return (runs.c.project == name.project) & (runs.c.run == name.run)


def _points_of(name: RunName) -> Sequence[Any]:
    return metric_points.c.project == name.project, metric_points.c.run == name.run


def _columns(run: Run) -> Mapping[str, Any]:
    return {
        "spec": {
            **vars(run.spec),
            "hyperparameters": dict(run.spec.hyperparameters),
            "accelerators": dict(run.spec.accelerators),
            "accelerator_millis": dict(run.spec.accelerator_millis),
            "accelerator_memory_bytes": dict(run.spec.accelerator_memory_bytes),
            "budgets": dict(run.spec.budgets),
            "command": list(run.spec.command),
            "dataset_versions": dict(run.spec.dataset_versions),
            "environment": dict(run.spec.environment),
            "scheduling": dict(run.spec.scheduling),
        },
        "state": run.state.value,
        "progress": asdict(run.progress),
        "metrics": dict(run.metrics),
        **{
            field: getattr(run, field)
            for field in (
                "reason",
                "message",
                "creator",
                "traceparent",
                "epoch",
                "job_epoch",
                "job_version",
                "job_created",
                "completed",
                "output",
                "model_version",
                "outputs_version",
                "exit_code",
                "create_time",
                "update_time",
                "end_time",
                "trial",
                "source",
            )
        },
    }


def run_of(row: Row[Any]) -> Run:
    """The run in a row of the table."""
    values = dict(row._mapping)
    return Run(
        name=RunName(values.pop("project"), values.pop("run")),
        spec=_spec(values.pop("spec")),
        state=State(values.pop("state")),
        progress=Progress(**values.pop("progress")),
        metrics=MappingProxyType(values.pop("metrics")),
        **values,
    )


def _spec(stored: dict[str, Any]) -> RunSpec:
    return RunSpec(**{**stored, "command": tuple(stored.get("command", ()))})


def _point(row: Row[Any]) -> Point:
    return Point(row.key, row.value, row.step, row.time, row.epoch)

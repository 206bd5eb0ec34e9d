"""Logged models, and what runs were given and made, in SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from aios.names import RunName
from aios.records import Tx
from services.trainer.tables import logged_models, run_links
from services.trainer.tracking.logged import Logged, LoggedModelNotFound

DATASET, GIVEN, MADE = "dataset", "model_input", "model_output"
"""Kinds of links."""
LOOKED_AT_MAX = 10_000  # logged models of one search: newer ones first


def add(tx: Tx, project: str, made: Logged) -> None:
    """Store a new one."""
    tx.execute(insert(logged_models).values(project=project, deleted=False, **_columns(made)))


def get(tx: Tx, project: str, model_id: str) -> Logged:
    """One logged model.

    Raises:
        LoggedModelNotFound: there is none, or it was deleted.
    """
    query = select(logged_models).where(*_is(project, model_id), logged_models.c.deleted.is_(False))
    row = tx.execute(query).one_or_none()
    if row is None:
        raise LoggedModelNotFound(f"No logged model {model_id[:63]!r} in this project.", model=model_id[:63])
    return _logged(row)


def save(tx: Tx, project: str, after: Logged) -> None:
    """Store what one became."""
    tx.execute(update(logged_models).where(*_is(project, after.id)).values(_columns(after)))


def hide(tx: Tx, project: str, model_id: str) -> None:
    """Hide one."""
    tx.execute(update(logged_models).where(*_is(project, model_id)).values(deleted=True))


def of_experiments(tx: Tx, project: str, experiments: Sequence[str]) -> list[Logged]:
    """Those of some experiments, newest first."""
    query = select(logged_models).where(
        logged_models.c.project == project,
        logged_models.c.experiment.in_(experiments),
        logged_models.c.deleted.is_(False),
    )
    query = query.order_by(logged_models.c.create_time.desc(), logged_models.c.id).limit(LOOKED_AT_MAX)
    return [_logged(row) for row in tx.execute(query)]


def measure(tx: Tx, project: str, metrics: Iterable[Mapping[str, Any]], now: datetime) -> None:
    """Store metrics of logged models, each with its `model_id`.

    Raises:
        LoggedModelNotFound
    """
    for metric in metrics:
        found = get(tx, project, metric["model_id"])
        key = "|".join((metric["key"], metric["dataset_name"], metric["dataset_digest"]))
        known = found.metrics.get(key)
        if known is None or (known["step"], known["timestamp"]) <= (metric["step"], metric["timestamp"]):
            newer = MappingProxyType({**found.metrics, key: dict(metric)})
            save(tx, project, replace(found, metrics=newer, update_time=now))


def link(tx: Tx, name: RunName, kind: str, bodies: Mapping[str, Mapping[str, Any]]) -> None:
    """Store what a run was given or made, by a key of each; what was said of it before is replaced."""
    if not bodies:
        return
    mine = (run_links.c.project == name.project) & (run_links.c.run == name.run) & (run_links.c.kind == kind)
    tx.execute(delete(run_links).where(mine, run_links.c.key.in_(bodies)))
    tx.execute(
        insert(run_links),
        [
            {"project": name.project, "run": name.run, "kind": kind, "key": key, "body": dict(body)}
            for key, body in bodies.items()
        ],
    )


def links(tx: Tx, names: Sequence[RunName]) -> dict[tuple[RunName, str], list[dict[str, Any]]]:
    """What some runs of one project were given and made, by run and kind."""
    if not names:
        return {}
    query = select(run_links).where(
        run_links.c.project == names[0].project, run_links.c.run.in_([name.run for name in names])
    )
    found: dict[tuple[RunName, str], list[dict[str, Any]]] = {}
    for row in tx.execute(query.order_by(run_links.c.key)):
        found.setdefault((RunName(row.project, row.run), row.kind), []).append(row.body)
    return found


def _is(project: str, model_id: str) -> tuple[Any, ...]:
    return logged_models.c.project == project, logged_models.c.id == model_id


def _columns(made: Logged) -> dict[str, Any]:
    return {
        "id": made.id,
        "experiment": made.experiment,
        "name": made.name,
        "model_type": made.model_type,
        "run": made.run,
        "status": made.status,
        "params": dict(made.params),
        "tags": dict(made.tags),
        "metrics": {key: dict(value) for key, value in made.metrics.items()},
        "create_time": made.create_time,
        "update_time": made.update_time,
    }


def _logged(row: Row[Any]) -> Logged:
    values = dict(row._mapping)
    del values["project"], values["deleted"]
    return Logged(**values)

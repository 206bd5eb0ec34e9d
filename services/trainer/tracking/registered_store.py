"""What MLflow says of models and versions, in SQL."""

from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from aios.records import Tx
from services.trainer.tables import registered
from services.trainer.tracking.registered import Words


def words(tx: Tx, project: str, model: str, version: int = 0) -> Words:
    """What was said of a model, or of a version of it; nothing where nothing was."""
    row = tx.execute(select(registered).where(*_is(project, model, version))).one_or_none()
    return Words() if row is None else _words(row)


def of_model(tx: Tx, project: str, model: str) -> dict[int, Words]:
    """What was said of a model (0) and of its versions."""
    query = select(registered).where(registered.c.project == project, registered.c.model == model)
    return {row.version: _words(row) for row in tx.execute(query)}


def save(tx: Tx, project: str, model: str, version: int, said: Words) -> None:
    """Store what is said now."""
    columns = {
        "title": said.title,
        "description": said.description,
        "source": said.source,
        "run": said.run,
        "logged_model": said.logged_model,
        "user": said.user,
        "tags": dict(said.tags),
    }
    if tx.execute(update(registered).where(*_is(project, model, version)).values(columns)).rowcount == 0:
        key = {"project": project, "model": model, "version": version}
        tx.execute(insert(registered).values(**key, **columns))


def forget(tx: Tx, project: str, model: str, version: int) -> None:
    """Forget what was said of a version."""
    tx.execute(delete(registered).where(*_is(project, model, version)))


def forget_model(tx: Tx, project: str, model: str) -> None:
    """Forget what was said of a model and of all its versions."""
    tx.execute(delete(registered).where(registered.c.project == project, registered.c.model == model))


def retitle(tx: Tx, project: str, model: str, title: str) -> None:
    """Its versions are named as it is now."""
    mine = (registered.c.project == project, registered.c.model == model)
    tx.execute(update(registered).where(*mine).values(title=title))


def titled(tx: Tx, project: str, title: str) -> str:
    """The id of the model that was made with a title; empty where none was."""
    query = select(registered.c.model).where(
        registered.c.project == project, registered.c.title == title, registered.c.version == 0
    )
    return tx.execute(query.limit(1)).scalar_one_or_none() or ""


def of_logged(tx: Tx, project: str, logged_models: list[str]) -> dict[str, list[tuple[str, int]]]:
    """Title and number of the versions that logged models were registered as."""
    query = select(registered).where(
        registered.c.project == project,
        registered.c.logged_model.in_(logged_models),
        registered.c.version > 0,
    )
    found: dict[str, list[tuple[str, int]]] = {}
    for row in tx.execute(query.order_by(registered.c.version)):
        found.setdefault(row.logged_model, []).append((row.title or row.model, row.version))
    return found


def _is(project: str, model: str, version: int) -> tuple[Any, ...]:
    return (
        registered.c.project == project,
        registered.c.model == model,
        registered.c.version == version,
    )


def _words(row: Row[Any]) -> Words:
    return Words(row.title, row.description, row.source, row.run, row.logged_model, row.user, row.tags)

"""Rows of models, their versions and aliases."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from aios.names import ModelName, ModelVersionName, RunName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data import entry_store, mapping
from services.data.datasets import LATEST
from services.data.logs import Change, Log
from services.data.models import (
    ALIAS_MARK,
    Candidate,
    Model,
    ModelExists,
    ModelNotFound,
    ModelVersion,
    ModelVersionNotFound,
    version_number,
)
from services.data.store import Content, add_manifest
from services.data.tables import aliases, manifests, model_versions, models

_VERSIONS = select(model_versions, manifests.c.size_bytes).join(
    manifests,
    (manifests.c.project == model_versions.c.project) & (manifests.c.sha256 == model_versions.c.manifest),
)


def add_model(tx: Tx, model: Model) -> None:
    """Fold: a model is made. One that had its name before leaves it the numbers that come next."""
    tx.execute(
        insert(models).values(
            project=model.name.project,
            id=model.name.model,
            description=model.description,
            latest=model.latest,
            numbered=_numbered_before(tx, model.name),
            create_time=model.create_time,
        )
    )


def has_model(tx: Tx, name: ModelName) -> bool:
    """Whether the name is taken."""
    query = select(models.c.id).filter_by(project=name.project, id=name.model)
    return tx.execute(query).one_or_none() is not None


def require_no_model(tx: Tx, name: ModelName) -> None:
    """Refuse a name that is taken.

    Raises:
        ModelExists
    """
    if has_model(tx, name):
        raise ModelExists(f"{name} exists: choose another model_id.", name=str(name))


def get_model(tx: Tx, name: ModelName) -> Model:
    """A model with its aliases.

    Raises:
        ModelNotFound: the project has none of this name.
    """
    row = tx.execute(select(models).filter_by(project=name.project, id=name.model)).one_or_none()
    if row is None:
        raise ModelNotFound(f"{name} does not exist: see `aios model list`.", name=str(name))
    return _models(tx, name.project, [row])[0]


def models_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[Model], str]:
    """One page of a project's models by name, and the token of the next."""
    rows, token = Page.of(request).fetch(tx, select(models).filter_by(project=project), by=(models.c.id,))
    return _models(tx, project, rows), token


def next_number(tx: Tx, name: ModelName) -> int:
    """Of the version that comes next."""
    query = select(models.c.numbered).filter_by(project=name.project, id=name.model)
    numbered = tx.execute(query).scalar_one_or_none()
    return (_numbered_before(tx, name) if numbered is None else numbered) + 1


def registered_by(tx: Tx, name: ModelName, run: RunName) -> ModelVersion | None:
    """The version that a run registered, or None."""
    query = select(model_versions.c.number).filter_by(project=name.project, model=name.model, run=run.run)
    number = tx.execute(query).scalar_one_or_none()
    return get_version(tx, ModelVersionName(name.project, name.model, str(number))) if number else None


def register(tx: Tx, name: ModelName, number: int, content: Content, candidate: Candidate) -> ModelVersion:
    """Fold: a model has a next version."""
    add_manifest(tx, name.project, content)
    mine = update(models).filter_by(project=name.project, id=name.model)
    newest = {} if candidate.rejected else {"latest": number}
    tx.execute(mine.values(numbered=number, **newest))
    row = {
        "project": name.project,
        "model": name.model,
        "number": number,
        "manifest": content.manifest.sha256,
        "signature": mapping.signature_to_proto(candidate.signature),
        "metrics": dict(candidate.metrics),
        "card": candidate.card,
        "rejected": candidate.rejected,
        "run": candidate.run.run if candidate.run else None,
        "creator": candidate.creator,
        "create_time": candidate.create_time,
    }
    tx.execute(insert(model_versions).values(row))
    return get_version(tx, ModelVersionName(name.project, name.model, str(number)))


def skip_number(tx: Tx, name: ModelName, number: int) -> None:
    """Fold: a version had this number, and is no more."""
    tx.execute(update(models).filter_by(project=name.project, id=name.model).values(numbered=number))


def get_version(tx: Tx, name: ModelVersionName) -> ModelVersion:
    """A version by number, `latest` or `@alias`.

    Raises:
        ModelNotFound, ModelVersionNotFound
    """
    model = get_model(tx, ModelName(name.project, name.model))
    if name.version == LATEST:
        number: int | None = model.latest
    elif name.version.startswith(ALIAS_MARK):
        number = model.aliases.get(name.version.removeprefix(ALIAS_MARK))
    else:
        number = version_number(name.version)
    query = _VERSIONS.where(
        model_versions.c.project == name.project,
        model_versions.c.model == name.model,
        model_versions.c.number == number,
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise ModelVersionNotFound(f"{name} does not exist: see `aios model versions`.", name=str(name))
    return _version(row)


def versions_page(tx: Tx, request: ListRequest, name: ModelName) -> tuple[list[ModelVersion], str]:
    """One page of a model's versions, newest first, and the token of the next."""
    get_model(tx, name)
    query = _VERSIONS.where(model_versions.c.project == name.project, model_versions.c.model == name.model)
    rows, token = Page.of(request).fetch(tx, query, by=(model_versions.c.number,), descending=True)
    return [_version(row) for row in rows], token


def set_alias(tx: Tx, name: ModelName, alias: str, number: int) -> None:
    """Fold: an alias points at a version. Nothing where a later entry deletes the version, and moves the alias before."""
    version = select(model_versions.c.number).filter_by(project=name.project, model=name.model, number=number)
    if tx.execute(version).one_or_none() is None:
        return
    key = {"project": name.project, "model": name.model, "alias": alias}
    if tx.execute(update(aliases).filter_by(**key).values(number=number)).rowcount == 0:
        tx.execute(insert(aliases).values(key | {"number": number}))


def delete_alias(tx: Tx, name: ModelName, alias: str) -> None:
    """Fold: an alias is gone."""
    tx.execute(delete(aliases).filter_by(project=name.project, model=name.model, alias=alias))


def delete_version(tx: Tx, name: ModelName, number: int) -> None:
    """Fold: a version is gone. Its manifest is released by the caller."""
    mine = {"project": name.project, "model": name.model}
    tx.execute(delete(model_versions).filter_by(**mine, number=number))
    newest = tx.execute(select(func.max(model_versions.c.number)).filter_by(**mine, rejected="")).scalar_one()
    tx.execute(update(models).filter_by(project=name.project, id=name.model).values(latest=newest or 0))


def delete_model(tx: Tx, name: ModelName) -> None:
    """Fold: a model is gone. Its manifests are released by the caller."""
    for table in (aliases, model_versions):
        tx.execute(delete(table).filter_by(project=name.project, model=name.model))
    tx.execute(delete(models).filter_by(project=name.project, id=name.model))


def version_names(tx: Tx, name: ModelName) -> list[ModelVersionName]:
    """Every version of a model.

    Raises:
        ModelNotFound
    """
    get_model(tx, name)
    query = select(model_versions.c.number).filter_by(project=name.project, model=name.model)
    return [ModelVersionName(name.project, name.model, str(number)) for number in tx.execute(query).scalars()]


def manifests_of(tx: Tx, name: ModelName) -> list[str]:
    """What the versions of a model hold.

    Raises:
        ModelNotFound
    """
    get_model(tx, name)
    query = select(model_versions.c.manifest).filter_by(project=name.project, model=name.model).distinct()
    return list(tx.execute(query).scalars())


def _numbered_before(tx: Tx, name: ModelName) -> int:
    """The highest number that a deleted model of this name gave."""
    gone = entry_store.newest(tx, Log.of(name), Change.DELETED)
    return int(gone.body["numbered"]) if gone else 0


def _models(tx: Tx, project: str, rows: Sequence[Row[Any]]) -> list[Model]:
    query = select(aliases).where(aliases.c.project == project, aliases.c.model.in_([row.id for row in rows]))
    named: dict[str, dict[str, int]] = {}
    for row in tx.execute(query):
        named.setdefault(row.model, {})[row.alias] = row.number
    return [
        Model(ModelName(project, row.id), row.description, row.latest, row.create_time, named.get(row.id, {}))
        for row in rows
    ]


def _version(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        name=ModelVersionName(row.project, row.model, str(row.number)),
        manifest_sha256=row.manifest,
        size_bytes=row.size_bytes,
        signature=mapping.signature_from_proto(row.signature),
        metrics=row.metrics,
        run=RunName(row.project, row.run) if row.run else None,
        creator=row.creator,
        create_time=row.create_time,
        card=row.card,
        rejected=row.rejected,
    )

"""The index of what the bucket holds, in SQL. Plain functions of a transaction; protos stay outside, except in events."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Row, Select, delete, func, insert, select, update

from aios.names import CheckpointName, DatasetName, DatasetVersionName, ModelName, ModelVersionName, RunName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data import mapping
from services.data.checkpoints import Checkpoint, CheckpointExists, CheckpointNotFound, check_fence, position
from services.data.datasets import (
    LATEST,
    Dataset,
    DatasetExists,
    DatasetNotFound,
    DatasetVersion,
    DatasetVersionNotFound,
)
from services.data.lineage import Direction, Edge, Relation
from services.data.manifests import File, Manifest
from services.data.models import (
    ALIAS_MARK,
    Candidate,
    Model,
    ModelExists,
    ModelNotFound,
    ModelVersion,
    ModelVersionNotFound,
    RunRegistered,
    version_number,
)
from services.data.tables import (
    aliases,
    blobs,
    checkpoints,
    dataset_versions,
    datasets,
    files,
    lineage,
    manifests,
    model_versions,
    models,
    uploads,
)
from services.data.tables import metadata as metadata
from services.data.uploads import BlobsMissing, Upload

NAMES_AT_ONCE = 500  # placeholders in one statement: far below what any database takes


def blob_size(tx: Tx, project: str, sha256: str) -> int | None:
    """Size of a usable blob; None when the project has none of this digest."""
    query = select(blobs.c.size_bytes).filter_by(project=project, sha256=sha256)
    found: int | None = tx.execute(query).scalar_one_or_none()
    return found


def begin_upload(tx: Tx, upload: Upload) -> None:
    """Remember an upload, or that it began again."""
    row = {"size_bytes": upload.size_bytes, "begin_time": upload.begin_time}
    key = {"project": upload.project, "sha256": upload.sha256}
    if tx.execute(update(uploads).filter_by(**key).values(row)).rowcount == 0:
        tx.execute(insert(uploads).values(key | row))


def upload(tx: Tx, project: str, sha256: str) -> Upload | None:
    """An upload under way, or None."""
    row = tx.execute(select(uploads).filter_by(project=project, sha256=sha256)).one_or_none()
    return Upload(**row._mapping) if row else None


def uploads_before(tx: Tx, time: datetime, limit: int) -> list[Upload]:
    """The oldest uploads that began before a time."""
    query = select(uploads).where(uploads.c.begin_time < time).order_by(uploads.c.begin_time).limit(limit)
    return [Upload(**row._mapping) for row in tx.execute(query)]


def forget_upload(tx: Tx, project: str, sha256: str, began_before: datetime) -> bool:
    """Forget an upload unless it began again meanwhile."""
    stale = (
        delete(uploads).filter_by(project=project, sha256=sha256).where(uploads.c.begin_time < began_before)
    )
    return tx.execute(stale).rowcount == 1


def commit_blob(tx: Tx, upload: Upload, now: datetime) -> None:
    """Make checked content usable, and announce it."""
    key = {"project": upload.project, "sha256": upload.sha256}
    tx.execute(delete(uploads).filter_by(**key))
    if blob_size(tx, **key) is None:
        tx.execute(insert(blobs).values(key | {"size_bytes": upload.size_bytes, "create_time": now}))
        tx.emit("blob", upload.project, upload.sha256, "committed", mapping.blob_to_event(upload))


def require_blobs(tx: Tx, project: str, manifest: Manifest) -> None:
    """Refuse a manifest that names content the project does not have.

    Raises:
        BlobsMissing: naming the files.
    """
    digests = sorted({file.sha256 for file in manifest.files})
    sizes: dict[str, int] = {}
    for start in range(0, len(digests), NAMES_AT_ONCE):
        some = digests[start : start + NAMES_AT_ONCE]
        query = select(blobs.c.sha256, blobs.c.size_bytes).where(
            blobs.c.project == project, blobs.c.sha256.in_(some)
        )
        sizes |= {row.sha256: row.size_bytes for row in tx.execute(query)}
    missing = [file for file in manifest.files if sizes.get(file.sha256) != file.size_bytes]
    if missing:
        raise BlobsMissing.of(missing)


def add_manifest(tx: Tx, project: str, manifest: Manifest) -> None:
    """Index a manifest that the bucket has. One that is indexed already is left alone."""
    key = {"project": project, "sha256": manifest.sha256}
    if tx.execute(select(manifests.c.sha256).filter_by(**key)).one_or_none():
        return
    require_blobs(tx, project, manifest)
    tx.execute(
        insert(manifests).values(key | {"file_count": len(manifest.files), "size_bytes": manifest.size_bytes})
    )
    rows = [
        {
            "project": project,
            "manifest": manifest.sha256,
            "path": file.path,
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
        }
        for file in manifest.files
    ]
    tx.execute(insert(files), rows)


def files_of(tx: Tx, project: str, manifest: str) -> list[File]:
    """All files of a manifest, by path."""
    query = select(files).filter_by(project=project, manifest=manifest).order_by(files.c.path)
    return [_file(row) for row in tx.execute(query)]


def files_page(tx: Tx, project: str, manifest: str, page: Page) -> tuple[list[File], str]:
    """One page of the files of a manifest, and the token of the next."""
    query = select(files).filter_by(project=project, manifest=manifest)
    rows, token = page.fetch(tx, query, by=(files.c.manifest, files.c.path))
    return [_file(row) for row in rows], token


def add_dataset(tx: Tx, dataset: Dataset) -> Dataset:
    """Make a dataset and announce it.

    Raises:
        DatasetExists: the project has used this name.
    """
    name = dataset.name
    if tx.execute(select(datasets.c.id).filter_by(project=name.project, id=name.dataset)).one_or_none():
        raise DatasetExists(f"{name} exists: choose another dataset_id.", name=str(name))
    tx.execute(
        insert(datasets).values(
            project=name.project,
            id=name.dataset,
            description=dataset.description,
            latest=dataset.latest,
            create_time=dataset.create_time,
        )
    )
    tx.emit("dataset", name.project, name.dataset, "created", mapping.dataset_to_proto(dataset))
    return dataset


def get_dataset(tx: Tx, name: DatasetName) -> Dataset:
    """A dataset.

    Raises:
        DatasetNotFound: the project has none of this name.
    """
    row = tx.execute(select(datasets).filter_by(project=name.project, id=name.dataset)).one_or_none()
    if row is None:
        raise DatasetNotFound(f"{name} does not exist: see `aios dataset list`.", name=str(name))
    return _dataset(row)


def datasets_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[Dataset], str]:
    """One page of a project's datasets by name, and the token of the next."""
    rows, token = Page.of(request).fetch(tx, select(datasets).filter_by(project=project), by=(datasets.c.id,))
    return [_dataset(row) for row in rows], token


_DATASET_VERSIONS = select(dataset_versions, manifests.c.file_count, manifests.c.size_bytes).join(
    manifests,
    (manifests.c.project == dataset_versions.c.project) & (manifests.c.sha256 == dataset_versions.c.manifest),
)


def commit_dataset_version(
    tx: Tx, name: DatasetName, manifest: Manifest, message: str, creator: str, now: datetime
) -> DatasetVersion:
    """Make `manifest` the dataset's latest version. Content that it has had before makes no new one.

    Raises:
        DatasetNotFound, BlobsMissing
    """
    dataset = get_dataset(tx, name)
    add_manifest(tx, name.project, manifest)
    mine = {"project": name.project, "dataset": name.dataset}
    version = DatasetVersionName(name.project, name.dataset, manifest.version_id)
    known = tx.execute(
        select(dataset_versions.c.manifest).filter_by(**mine, id=version.version)
    ).scalar_one_or_none()
    if known is not None and known != manifest.sha256:
        raise DatasetExists(f"{version} has other content with the same short id.", name=str(version))
    if dataset.latest != version.version:
        tx.execute(
            update(datasets).filter_by(project=name.project, id=name.dataset).values(latest=version.version)
        )
    if known is None:
        number = tx.execute(_newest(dataset_versions.c.number, **mine)).scalar_one()
        row = {
            "number": (number or 0) + 1,
            "id": version.version,
            "manifest": manifest.sha256,
            "message": message,
            "parent": dataset.latest,
            "creator": creator,
            "create_time": now,
        }
        tx.execute(insert(dataset_versions).values(mine | row))
    made = get_dataset_version(tx, version)
    if known is None:
        resource = f"{name.dataset}/{version.version}"
        tx.emit("dataset_version", name.project, resource, "created", mapping.dataset_version_to_proto(made))
    return made


def get_dataset_version(tx: Tx, name: DatasetVersionName) -> DatasetVersion:
    """A version by id, or the one that `latest` means.

    Raises:
        DatasetNotFound, DatasetVersionNotFound
    """
    dataset = get_dataset(tx, DatasetName(name.project, name.dataset))
    version = dataset.latest if name.version == LATEST else name.version
    query = _DATASET_VERSIONS.where(
        dataset_versions.c.project == name.project,
        dataset_versions.c.dataset == name.dataset,
        dataset_versions.c.id == version,
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise DatasetVersionNotFound(f"{name} does not exist: see `aios dataset versions`.", name=str(name))
    return _dataset_version(row)


def dataset_versions_page(
    tx: Tx, request: ListRequest, name: DatasetName
) -> tuple[list[DatasetVersion], str]:
    """One page of a dataset's versions, newest first, and the token of the next."""
    get_dataset(tx, name)
    query = _DATASET_VERSIONS.where(
        dataset_versions.c.project == name.project, dataset_versions.c.dataset == name.dataset
    )
    rows, token = Page.of(request).fetch(tx, query, by=(dataset_versions.c.number,), descending=True)
    return [_dataset_version(row) for row in rows], token


def add_model(tx: Tx, model: Model) -> Model:
    """Make a model and announce it.

    Raises:
        ModelExists: the project has used this name.
    """
    name = model.name
    if _has_model(tx, name):
        raise ModelExists(f"{name} exists: choose another model_id.", name=str(name))
    tx.execute(
        insert(models).values(
            project=name.project,
            id=name.model,
            description=model.description,
            latest=model.latest,
            create_time=model.create_time,
        )
    )
    tx.emit("model", name.project, name.model, "created", mapping.model_to_proto(model))
    return model


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


_MODEL_VERSIONS = select(model_versions, manifests.c.size_bytes).join(
    manifests,
    (manifests.c.project == model_versions.c.project) & (manifests.c.sha256 == model_versions.c.manifest),
)


def register_model_version(tx: Tx, name: ModelName, manifest: Manifest, candidate: Candidate) -> ModelVersion:
    """Add the next version of a model, making the model when it is new. A run that did so already gets its version.

    Raises:
        BlobsMissing: content is not uploaded.
        RunRegistered: the run registered other content.
    """
    if not _has_model(tx, name):
        add_model(tx, Model(name, "", 0, candidate.create_time))
    mine, run = {"project": name.project, "model": name.model}, candidate.run
    if run is not None:
        earlier = tx.execute(select(model_versions).filter_by(**mine, run=run.run)).one_or_none()
        if earlier is not None:
            made = get_model_version(tx, ModelVersionName(name.project, name.model, str(earlier.number)))
            if earlier.manifest != manifest.sha256:
                raise RunRegistered(f"{run} has registered {made.name}.", run=str(run), name=str(made.name))
            return made
    add_manifest(tx, name.project, manifest)
    advance = update(models).filter_by(project=name.project, id=name.model).values(latest=models.c.latest + 1)
    number = tx.execute(advance.returning(models.c.latest)).scalar_one()
    row = {
        "number": number,
        "manifest": manifest.sha256,
        "signature": mapping.signature_to_proto(candidate.signature),
        "metrics": dict(candidate.metrics),
        "run": run.run if run else None,
        "creator": candidate.creator,
        "create_time": candidate.create_time,
    }
    tx.execute(insert(model_versions).values(mine | row))
    made = get_model_version(tx, ModelVersionName(name.project, name.model, str(number)))
    if run is not None:
        add_edges(tx, name.project, [Edge(str(run), str(made.name), Relation.PRODUCED)])
    event = mapping.model_version_to_proto(made)
    tx.emit("model_version", name.project, f"{name.model}/{number}", "registered", event)
    return made


def get_model_version(tx: Tx, name: ModelVersionName) -> ModelVersion:
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
    query = _MODEL_VERSIONS.where(
        model_versions.c.project == name.project,
        model_versions.c.model == name.model,
        model_versions.c.number == number,
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise ModelVersionNotFound(f"{name} does not exist: see `aios model versions`.", name=str(name))
    return _model_version(row)


def model_versions_page(tx: Tx, request: ListRequest, name: ModelName) -> tuple[list[ModelVersion], str]:
    """One page of a model's versions, newest first, and the token of the next."""
    get_model(tx, name)
    query = _MODEL_VERSIONS.where(
        model_versions.c.project == name.project, model_versions.c.model == name.model
    )
    rows, token = Page.of(request).fetch(tx, query, by=(model_versions.c.number,), descending=True)
    return [_model_version(row) for row in rows], token


def set_alias(tx: Tx, name: ModelName, alias: str, version: ModelVersionName) -> Model:
    """Point an alias at a version, and announce it.

    Raises:
        ModelNotFound, ModelVersionNotFound
    """
    number = int(get_model_version(tx, version).name.version)
    key = {"project": name.project, "model": name.model, "alias": alias}
    if tx.execute(update(aliases).filter_by(**key).values(number=number)).rowcount == 0:
        tx.execute(insert(aliases).values(key | {"number": number}))
    model = get_model(tx, name)
    tx.emit("model", name.project, name.model, "alias_set", mapping.model_to_proto(model))
    return model


def add_checkpoint(tx: Tx, checkpoint: Checkpoint, manifest: Manifest) -> Checkpoint:
    """Make a checkpoint visible and announce it. The same one again is no error.

    Raises:
        StaleEpoch: a newer attempt has written one.
        CheckpointExists: this attempt has stored something else at this step.
        BlobsMissing: content is not uploaded.
    """
    run = checkpoint.run
    mine = {"project": run.project, "run": run.run}
    newest = tx.execute(_newest(checkpoints.c.epoch, **mine)).scalar_one()
    check_fence(run, checkpoint.epoch, newest or 0)
    key = mine | {"epoch": checkpoint.epoch, "step": checkpoint.step}
    known = tx.execute(select(checkpoints).filter_by(**key)).one_or_none()
    if known is not None:
        if known.manifest != manifest.sha256:
            raise CheckpointExists(f"{checkpoint.name} holds other files.", name=str(checkpoint.name))
        return _checkpoint(known)
    add_manifest(tx, run.project, manifest)
    row = {
        "manifest": manifest.sha256,
        "metrics": dict(checkpoint.metrics),
        "create_time": checkpoint.create_time,
    }
    tx.execute(insert(checkpoints).values(key | row))
    add_edges(tx, run.project, [Edge(str(run), str(checkpoint.name), Relation.PRODUCED)])
    event = mapping.checkpoint_to_proto(checkpoint)
    tx.emit("checkpoint", run.project, f"{run.run}/{checkpoint.name.id}", "created", event)
    return checkpoint


def get_checkpoint(tx: Tx, name: CheckpointName) -> Checkpoint:
    """A checkpoint.

    Raises:
        CheckpointNotFound: the run has none of this name.
    """
    epoch, step = position(name)
    query = select(checkpoints).filter_by(project=name.project, run=name.run, epoch=epoch, step=step)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise CheckpointNotFound(f"{name} does not exist.", name=str(name))
    return _checkpoint(row)


def checkpoints_page(tx: Tx, request: ListRequest, run: RunName) -> tuple[list[Checkpoint], str]:
    """One page of a run's checkpoints, newest step first, and the token of the next."""
    query = select(checkpoints).filter_by(project=run.project, run=run.run)
    by = (checkpoints.c.step, checkpoints.c.epoch)
    rows, token = Page.of(request).fetch(tx, query, by=by, descending=True)
    return [_checkpoint(row) for row in rows], token


def add_edges(tx: Tx, project: str, edges: Iterable[Edge]) -> None:
    """Add what the graph lacks."""
    for edge in edges:
        row = {
            "project": project,
            "source": edge.source,
            "target": edge.target,
            "relation": edge.relation.value,
        }
        if tx.execute(select(lineage.c.source).filter_by(**row)).one_or_none() is None:
            tx.execute(insert(lineage).values(row))


def edges_at(tx: Tx, project: str, names: Iterable[str], way: Direction) -> list[Edge]:
    """The edges into (UP) or out of (DOWN) some resources."""
    column = lineage.c.target if way is Direction.UP else lineage.c.source
    query = select(lineage).where(lineage.c.project == project, column.in_(list(names)))
    return [Edge(row.source, row.target, Relation(row.relation)) for row in tx.execute(query)]


def _newest(column: Column[int], **key: str) -> Select[Any]:
    return select(func.max(column)).where(*(column.table.c[name] == value for name, value in key.items()))


def _has_model(tx: Tx, name: ModelName) -> bool:
    query = select(models.c.id).filter_by(project=name.project, id=name.model)
    return tx.execute(query).one_or_none() is not None


def _file(row: Row[Any]) -> File:
    return File(row.path, row.sha256, row.size_bytes)


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(DatasetName(row.project, row.id), row.description, row.latest, row.create_time)


def _dataset_version(row: Row[Any]) -> DatasetVersion:
    return DatasetVersion(
        name=DatasetVersionName(row.project, row.dataset, row.id),
        manifest_sha256=row.manifest,
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        message=row.message,
        parent=row.parent,
        creator=row.creator,
        create_time=row.create_time,
    )


def _models(tx: Tx, project: str, rows: Sequence[Row[Any]]) -> list[Model]:
    query = select(aliases).where(aliases.c.project == project, aliases.c.model.in_([row.id for row in rows]))
    named: dict[str, dict[str, int]] = {}
    for row in tx.execute(query):
        named.setdefault(row.model, {})[row.alias] = row.number
    return [
        Model(ModelName(project, row.id), row.description, row.latest, row.create_time, named.get(row.id, {}))
        for row in rows
    ]


def _model_version(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        name=ModelVersionName(row.project, row.model, str(row.number)),
        manifest_sha256=row.manifest,
        size_bytes=row.size_bytes,
        signature=mapping.signature_from_proto(row.signature),
        metrics=row.metrics,
        run=RunName(row.project, row.run) if row.run else None,
        creator=row.creator,
        create_time=row.create_time,
    )


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        run=RunName(row.project, row.run),
        epoch=row.epoch,
        step=row.step,
        manifest_sha256=row.manifest,
        metrics=row.metrics,
        create_time=row.create_time,
    )

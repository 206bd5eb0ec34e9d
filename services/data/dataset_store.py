"""Rows of datasets, their versions, branches and tags."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from aios.names import DatasetName, DatasetVersionName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data import blob_store
from services.data.datasets import (
    LATEST,
    MAIN,
    REF_MARK,
    Dataset,
    DatasetExists,
    DatasetNotFound,
    DatasetVersion,
    DatasetVersionNotFound,
)
from services.data.store import Content, add_manifest
from services.data.tables import dataset_versions, datasets, manifests, refs

_VERSIONS = select(
    dataset_versions,
    manifests.c.file_count,
    manifests.c.size_bytes,
    manifests.c.index_sha256,
    manifests.c.meaning,
).join(
    manifests,
    (manifests.c.project == dataset_versions.c.project) & (manifests.c.sha256 == dataset_versions.c.manifest),
)


def add_dataset(tx: Tx, dataset: Dataset) -> None:
    """Fold: a dataset is made."""
    tx.execute(
        insert(datasets).values(
            project=dataset.name.project,
            id=dataset.name.dataset,
            description=dataset.description,
            latest=dataset.latest,
            create_time=dataset.create_time,
        )
    )


def require_no_dataset(tx: Tx, name: DatasetName) -> None:
    """Refuse a name that is taken.

    Raises:
        DatasetExists
    """
    if tx.execute(select(datasets.c.id).filter_by(project=name.project, id=name.dataset)).one_or_none():
        raise DatasetExists(f"{name} exists: choose another dataset_id.", name=str(name))


def get_dataset(tx: Tx, name: DatasetName) -> Dataset:
    """A dataset with its branches and tags.

    Raises:
        DatasetNotFound: the project has none of this name.
    """
    row = tx.execute(select(datasets).filter_by(project=name.project, id=name.dataset)).one_or_none()
    if row is None:
        raise DatasetNotFound(f"{name} does not exist: see `aios dataset list`.", name=str(name))
    return _datasets(tx, name.project, [row])[0]


def datasets_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[Dataset], str]:
    """One page of a project's datasets by name, and the token of the next."""
    rows, token = Page.of(request).fetch(tx, select(datasets).filter_by(project=project), by=(datasets.c.id,))
    return _datasets(tx, project, rows), token


def find_meaning(tx: Tx, name: DatasetName, meaning: str) -> DatasetVersion | None:
    """The newest version of the dataset that has this content and origin, whatever it follows."""
    query = _VERSIONS.where(
        dataset_versions.c.project == name.project,
        dataset_versions.c.dataset == name.dataset,
        manifests.c.meaning == meaning,
    ).order_by(dataset_versions.c.number.desc())
    row = tx.execute(query.limit(1)).one_or_none()
    return _version(row) if row else None


def commit(
    tx: Tx, name: DatasetName, content: Content, branch: str, message: str, creator: str, time: datetime
) -> tuple[DatasetVersion, bool]:
    """Fold: a branch moves to a version, which may be one that the dataset has had. Says whether it is new."""
    project, mine = name.project, {"project": name.project, "dataset": name.dataset}
    version = DatasetVersionName(project, name.dataset, content.manifest.version_id)
    new = (
        tx.execute(select(dataset_versions.c.id).filter_by(**mine, id=version.version)).one_or_none() is None
    )
    if new:
        add_manifest(tx, project, content)
        newest = select(func.max(dataset_versions.c.number)).filter_by(**mine)
        parents = content.manifest.parents
        row = {
            "number": (tx.execute(newest).scalar_one() or 0) + 1,
            "id": version.version,
            "manifest": content.manifest.sha256,
            "message": message,
            "parent": parents[0][: len(version.version)] if parents else "",
            "creator": creator,
            "create_time": time,
        }
        tx.execute(insert(dataset_versions).values(mine | row))
    set_ref(tx, name, branch, version.version, tag=False)
    return get_version(tx, version), new


def set_ref(tx: Tx, name: DatasetName, ref: str, version: str, *, tag: bool) -> None:
    """Fold: a branch or tag points at a version."""
    key = {"project": name.project, "dataset": name.dataset, "ref": ref}
    if tx.execute(update(refs).filter_by(**key).values(version=version, tag=tag)).rowcount == 0:
        tx.execute(insert(refs).values(key | {"version": version, "tag": tag}))
    if ref == MAIN:
        tx.execute(update(datasets).filter_by(project=name.project, id=name.dataset).values(latest=version))


def delete_ref(tx: Tx, name: DatasetName, ref: str) -> None:
    """Fold: a branch or tag is gone."""
    tx.execute(delete(refs).filter_by(project=name.project, dataset=name.dataset, ref=ref))


def delete_version(tx: Tx, name: DatasetVersionName) -> None:
    """Fold: a version is gone. Its manifest is released by the caller."""
    key = {"project": name.project, "dataset": name.dataset, "id": name.version}
    tx.execute(delete(dataset_versions).filter_by(**key))


def delete_dataset(tx: Tx, name: DatasetName) -> None:
    """Fold: a dataset is gone, with all that is in it."""
    for table in (refs, dataset_versions):
        tx.execute(delete(table).filter_by(project=name.project, dataset=name.dataset))
    tx.execute(delete(datasets).filter_by(project=name.project, id=name.dataset))


def manifests_of(tx: Tx, name: DatasetName) -> list[str]:
    """Digests of the manifests of all versions."""
    query = select(dataset_versions.c.manifest).filter_by(project=name.project, dataset=name.dataset)
    return list(tx.execute(query).scalars())


def needing(tx: Tx, name: DatasetName, blobs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ids and manifests of the versions that need any of some blobs."""
    found = blob_store.manifests_with(tx, name.project, blobs)
    query = select(dataset_versions).filter_by(project=name.project, dataset=name.dataset)
    rows = [row for row in tx.execute(query.order_by(dataset_versions.c.number)) if row.manifest in found]
    return [row.id for row in rows], [row.manifest for row in rows]


def version_names(tx: Tx, name: DatasetName) -> list[DatasetVersionName]:
    """All versions of a dataset."""
    query = select(dataset_versions.c.id).filter_by(project=name.project, dataset=name.dataset)
    return [DatasetVersionName(name.project, name.dataset, each) for each in tx.execute(query).scalars()]


def get_version(tx: Tx, name: DatasetVersionName) -> DatasetVersion:
    """A version by id, by `@ref`, or the one that `latest` means.

    Raises:
        DatasetNotFound, DatasetVersionNotFound
    """
    dataset = get_dataset(tx, DatasetName(name.project, name.dataset))
    version = name.version
    if version == LATEST:
        version = dataset.latest
    elif version.startswith(REF_MARK):
        ref = version.removeprefix(REF_MARK)
        version = dataset.branches.get(ref) or dataset.tags.get(ref, "")
    query = _VERSIONS.where(
        dataset_versions.c.project == name.project,
        dataset_versions.c.dataset == name.dataset,
        dataset_versions.c.id == version,
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise DatasetVersionNotFound(f"{name} does not exist: see `aios dataset versions`.", name=str(name))
    return _version(row)


def versions_page(tx: Tx, request: ListRequest, name: DatasetName) -> tuple[list[DatasetVersion], str]:
    """One page of a dataset's versions, newest first, and the token of the next."""
    get_dataset(tx, name)
    query = _VERSIONS.where(
        dataset_versions.c.project == name.project, dataset_versions.c.dataset == name.dataset
    )
    rows, token = Page.of(request).fetch(tx, query, by=(dataset_versions.c.number,), descending=True)
    return [_version(row) for row in rows], token


def _datasets(tx: Tx, project: str, rows: Sequence[Row[Any]]) -> list[Dataset]:
    query = select(refs).where(refs.c.project == project, refs.c.dataset.in_([row.id for row in rows]))
    named: dict[tuple[str, bool], dict[str, str]] = {}
    for row in tx.execute(query):
        named.setdefault((row.dataset, row.tag), {})[row.ref] = row.version
    return [
        Dataset(
            DatasetName(project, row.id),
            row.description,
            row.latest,
            row.create_time,
            named.get((row.id, False), {}),
            named.get((row.id, True), {}),
        )
        for row in rows
    ]


def _version(row: Row[Any]) -> DatasetVersion:
    return DatasetVersion(
        name=DatasetVersionName(row.project, row.dataset, row.id),
        manifest_sha256=row.manifest,
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        message=row.message,
        parent=row.parent,
        creator=row.creator,
        create_time=row.create_time,
        index_sha256=row.index_sha256,
    )

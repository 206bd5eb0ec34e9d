"""Rows of blobs, uploads under way, and what pins a blob."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, insert, select, update

from aios.names import CheckpointName, DatasetVersionName, ModelVersionName
from aios.records import Tx
from services.data import mapping
from services.data.checkpoints import id_of
from services.data.tables import (
    blobs,
    checkpoints,
    dataset_versions,
    manifests,
    model_versions,
    pins,
    uploads,
)
from services.data.uploads import Upload

NAMES_AT_ONCE = 500  # placeholders in one statement: far below what any database takes


@dataclass(frozen=True)
class Freed:
    """What a deletion leaves without a version, and what it shares with others."""

    freed_bytes: int
    freed_blobs: int
    shared_bytes: int


def blob_size(tx: Tx, project: str, sha256: str) -> int | None:
    """Size of a usable blob; None when the project has none of this digest."""
    query = select(blobs.c.size_bytes).filter_by(project=project, sha256=sha256)
    found: int | None = tx.execute(query).scalar_one_or_none()
    return found


def blob_sizes(tx: Tx, project: str, digests: Iterable[str]) -> Mapping[str, int]:
    """Sizes of those that the project has."""
    sizes: dict[str, int] = {}
    for some in _batches(sorted(set(digests))):
        query = select(blobs.c.sha256, blobs.c.size_bytes).where(
            blobs.c.project == project, blobs.c.sha256.in_(some)
        )
        sizes |= {row.sha256: row.size_bytes for row in tx.execute(query)}
    return sizes


def touch_blob(tx: Tx, project: str, sha256: str, now: datetime) -> None:
    """Begin the grace of an unpinned blob anew: somebody is about to use it."""
    mine = update(blobs).filter_by(project=project, sha256=sha256).where(blobs.c.unpinned_time.is_not(None))
    tx.execute(mine.values(unpinned_time=now))


def begin_upload(tx: Tx, upload: Upload) -> None:
    """Remember an upload, or that it began again."""
    row = {
        "size_bytes": upload.size_bytes,
        "begin_time": upload.begin_time,
        "multipart": upload.multipart,
    }
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
        row = {"size_bytes": upload.size_bytes, "create_time": now, "unpinned_time": now}
        tx.execute(insert(blobs).values(key | row))
        tx.emit("blob", upload.project, upload.sha256, "committed", mapping.blob_to_event(upload))


def restore_blobs(tx: Tx, project: str, sizes: Mapping[str, int], now: datetime) -> None:
    """Rows of blobs that the bucket has."""
    rows = [
        {"project": project, "sha256": sha256, "size_bytes": size, "create_time": now, "unpinned_time": now}
        for sha256, size in sizes.items()
    ]
    if rows:
        tx.execute(insert(blobs), rows)


def keep_blobs(tx: Tx, project: str, needed: Mapping[str, int], there: Collection[str]) -> None:
    """Make the rows of a project's blobs agree with the bucket: those that versions need, and those known before."""
    query = select(blobs.c.sha256).filter_by(project=project)
    known = set(tx.execute(query).scalars())
    for some in _batches(sorted(known - set(there))):
        tx.execute(delete(blobs).where(blobs.c.project == project, blobs.c.sha256.in_(some)))
    loose = update(blobs).where(blobs.c.project == project, blobs.c.unpinned_time.is_(None))
    tx.execute(loose.values(unpinned_time=tx.now()))
    new = {sha256: size for sha256, size in needed.items() if sha256 not in known}
    restore_blobs(tx, project, new, tx.now())


def pin(tx: Tx, project: str, manifest: str, digests: Collection[str]) -> None:
    """Keep blobs for a version. All of them are there."""
    tx.execute(
        insert(pins), [{"project": project, "manifest": manifest, "sha256": sha256} for sha256 in digests]
    )
    for some in _batches(list(digests)):
        mine = update(blobs).where(blobs.c.project == project, blobs.c.sha256.in_(some))
        tx.execute(mine.where(blobs.c.unpinned_time.is_not(None)).values(unpinned_time=None))


def freed_by(tx: Tx, project: str, going: Iterable[str]) -> Freed:
    """What goes with some versions, models or checkpoints. Call it while they are there.

    Args:
        going: The manifest of each.
    """
    times = Counter(going)
    # A manifest that others refer to stays, and its blobs with it.
    gone = {each for each, count in times.items() if _uses(tx, project, each) <= count}
    mine: set[str] = set()
    for some in _batches(list(times)):
        query = select(pins.c.sha256).where(pins.c.project == project, pins.c.manifest.in_(some))
        mine.update(tx.execute(query).scalars())
    sizes, shared = blob_sizes(tx, project, mine), set[str]()
    for some in _batches(list(mine)):
        query2 = select(pins.c.sha256, pins.c.manifest).where(
            pins.c.project == project, pins.c.sha256.in_(some)
        )
        shared.update(row.sha256 for row in tx.execute(query2) if row.manifest not in gone)
    freed = mine - shared
    return Freed(sum(sizes[each] for each in freed), len(freed), sum(sizes[each] for each in shared))


def manifests_with(tx: Tx, project: str, digests: Sequence[str]) -> set[str]:
    """The manifests that need any of some blobs."""
    found: set[str] = set()
    for some in _batches(digests):
        query = select(pins.c.manifest).where(pins.c.project == project, pins.c.sha256.in_(some))
        found.update(tx.execute(query).scalars())
    return found


def holders(tx: Tx, project: str, digests: Sequence[str], but: Collection[str]) -> list[str]:
    """Names of the versions and checkpoints that need any of some blobs, without those of some manifests."""
    names: list[object] = []
    for some in _batches(sorted(manifests_with(tx, project, digests) - set(but))):
        rows = {
            table: tx.execute(select(table).where(table.c.project == project, table.c.manifest.in_(some)))
            for table in (dataset_versions, model_versions, checkpoints)
        }
        names += [DatasetVersionName(project, row.dataset, row.id) for row in rows[dataset_versions]]
        names += [ModelVersionName(project, row.model, str(row.number)) for row in rows[model_versions]]
        names += [CheckpointName(project, row.run, id_of(row.epoch, row.step)) for row in rows[checkpoints]]
    return sorted(map(str, names))


def release(tx: Tx, project: str, manifest: str, now: datetime) -> None:
    """Forget a manifest that nothing refers to any more, and let its blobs go where nothing else holds them."""
    if _uses(tx, project, manifest):
        return
    held = list(tx.execute(select(pins.c.sha256).filter_by(project=project, manifest=manifest)).scalars())
    tx.execute(delete(pins).filter_by(project=project, manifest=manifest))
    tx.execute(delete(manifests).filter_by(project=project, sha256=manifest))
    still = exists().where(pins.c.project == blobs.c.project, pins.c.sha256 == blobs.c.sha256)
    for some in _batches(held):
        loose = update(blobs).where(blobs.c.project == project, blobs.c.sha256.in_(some), ~still)
        tx.execute(loose.values(unpinned_time=now))


def unpinned_before(tx: Tx, time: datetime, limit: int) -> list[tuple[str, str]]:
    """Project and digest of blobs that nothing has needed since a time, longest first."""
    query = select(blobs.c.project, blobs.c.sha256).where(blobs.c.unpinned_time < time)
    return [
        (row.project, row.sha256) for row in tx.execute(query.order_by(blobs.c.unpinned_time).limit(limit))
    ]


def forget_blob(tx: Tx, project: str, sha256: str, unpinned_before: datetime) -> bool:
    """Forget a blob unless it came into use meanwhile."""
    loose = delete(blobs).filter_by(project=project, sha256=sha256)
    return tx.execute(loose.where(blobs.c.unpinned_time < unpinned_before)).rowcount == 1


def _uses(tx: Tx, project: str, manifest: str) -> int:
    total = 0
    for table in (dataset_versions, model_versions, checkpoints):
        query = select(func.count()).where(table.c.project == project, table.c.manifest == manifest)
        total += tx.execute(query).scalar_one()
    return total


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + NAMES_AT_ONCE] for start in range(0, len(items), NAMES_AT_ONCE))

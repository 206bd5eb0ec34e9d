"""What was stored before there were logs gets one: the same entries as if each change had been made with them."""

import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from sqlalchemy import select, update

from aios.blobs import BlobMissing
from aios.errors import DataLoss
from aios.records import Tx
from services.data import entry_store, layout, tables
from services.data.datasets import MAIN
from services.data.logs import Change, Entry, Log
from services.data.rpcs import Parts

_log = logging.getLogger(__name__)
NOBODY = "aios"  # who made what no row names a creator of


async def adopt(parts: Parts) -> None:
    """Write the logs that are missing. It can be repeated: an entry that is there is the same one."""
    for project, digest in await parts.db.read(_unread):
        try:
            manifest = await parts.contents.manifest(project, digest)
        except (BlobMissing, DataLoss) as error:
            _log.error("a version of %s is lost: manifest %s: %s", project, digest, error)
            continue
        await parts.db.write(
            lambda tx, project=project, digest=digest, meaning=manifest.meaning: tx.execute(  # type: ignore[misc]
                update(tables.manifests).filter_by(project=project, sha256=digest).values(meaning=meaning)
            )
        )
    for log, entries in await parts.db.read(lambda tx: list(_histories(tx))):
        for entry in entries:
            key = layout.entry(log.project, log.path, entry.sequence)
            await parts.blobs.put_if_absent(key, entry.encoded)
        await parts.db.write(lambda tx, log=log, entries=entries: _remember(tx, log, entries))  # type: ignore[misc]
        _log.info("wrote the log of %s in %s: %d entries", log.path, log.project, len(entries))


def _unread(tx: Tx) -> list[tuple[str, str]]:
    query = select(tables.manifests.c.project, tables.manifests.c.sha256).filter_by(meaning="")
    return [(row.project, row.sha256) for row in tx.execute(query)]


def _remember(tx: Tx, log: Log, entries: Iterable[Entry]) -> None:
    for entry in entries:
        entry_store.add_entry(tx, log, entry)


def _histories(tx: Tx) -> Iterable[tuple[Log, list[Entry]]]:
    for row in tx.execute(select(tables.datasets)).all():
        yield from _new(tx, Log(row.project, f"datasets/{row.id}"), _dataset(tx, row))
    for row in tx.execute(select(tables.models)).all():
        yield from _new(tx, Log(row.project, f"models/{row.id}"), _model(tx, row))
    runs = select(tables.checkpoints.c.project, tables.checkpoints.c.run).distinct()
    for row in tx.execute(runs).all():
        yield from _new(tx, Log(row.project, f"runs/{row.run}"), _run(tx, row))
    for project in tx.execute(select(tables.lineage.c.project).distinct()).scalars().all():
        yield from _new(tx, Log.lineage(project), _lineage(tx, project))


def _new(
    tx: Tx, log: Log, lines: Iterable[tuple[Change, datetime, str, dict[str, Any]]]
) -> Iterable[tuple[Log, list[Entry]]]:
    if entry_store.has_entries(tx, log):
        return
    entries = []
    for sequence, (change, time, creator, body) in enumerate(lines, 1):
        # The same at each try: a crash half-way leaves entries that the next start finds to be its own.
        nonce = hashlib.sha256(f"{log.project}/{log.path}/{sequence}".encode()).hexdigest()[:16]
        entries.append(Entry(sequence, change, time, creator, nonce, body))
    yield log, entries


def _dataset(tx: Tx, row: Any) -> Iterable[tuple[Change, datetime, str, dict[str, Any]]]:
    yield Change.CREATED, row.create_time, NOBODY, {"description": row.description}
    table = tables.dataset_versions
    versions = select(table).filter_by(project=row.project, dataset=row.id).order_by(table.c.number)
    newest, last, when = "", "", row.create_time
    for version in tx.execute(versions):
        body = {"branch": MAIN, "manifest": version.manifest, "message": version.message}
        yield Change.COMMITTED, version.create_time, version.creator, body
        last, when = version.id, version.create_time
        newest = version.manifest if version.id == row.latest else newest
    if newest and last != row.latest:
        yield Change.COMMITTED, when, NOBODY, {"branch": MAIN, "manifest": newest, "message": ""}


def _model(tx: Tx, row: Any) -> Iterable[tuple[Change, datetime, str, dict[str, Any]]]:
    yield Change.CREATED, row.create_time, NOBODY, {"description": row.description}
    table, mine = tables.model_versions, {"project": row.project, "model": row.id}
    for version in tx.execute(select(table).filter_by(**mine).order_by(table.c.number)):
        body = {
            "manifest": version.manifest,
            "signature": MessageToDict(version.signature),
            "metrics": version.metrics,
            "run": version.run or "",
            "card": version.card,
            "rejected": version.rejected,
            "number": version.number,
        }
        yield Change.REGISTERED, version.create_time, version.creator, body
    for alias in tx.execute(select(tables.aliases).filter_by(**mine).order_by(tables.aliases.c.alias)):
        body = {"alias": alias.alias, "number": alias.number, "before": 0}
        yield Change.ALIAS_SET, row.create_time, NOBODY, body


def _run(tx: Tx, row: Any) -> Iterable[tuple[Change, datetime, str, dict[str, Any]]]:
    table = tables.checkpoints
    stored = select(table).filter_by(project=row.project, run=row.run)
    for one in tx.execute(stored.order_by(table.c.epoch, table.c.step)):
        body = {"epoch": one.epoch, "step": one.step, "metrics": one.metrics, "manifest": one.manifest}
        yield Change.STORED, one.create_time, NOBODY, body


def _lineage(tx: Tx, project: str) -> Iterable[tuple[Change, datetime, str, dict[str, Any]]]:
    table = tables.lineage
    query = select(table).filter_by(project=project)
    query = query.order_by(table.c.source, table.c.target, table.c.relation)
    edges = [[row.source, row.target, row.relation] for row in tx.execute(query)]
    # No row says when: the time of an epoch is the same at each try.
    yield Change.RECORDED, datetime.fromtimestamp(0, UTC), NOBODY, {"edges": edges}

"""The index made again from the bucket: every log read from its first entry, and folded as when it was written."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from aios.blobs import BlobMissing, Blobs
from aios.data.v1 import data_service_pb2 as pb
from aios.errors import DataLoss
from aios.records import Tx
from services.data import blob_store, folds, layout, tables
from services.data.checkpoints import id_of
from services.data.contents import Contents
from services.data.logs import Change, Entry, Log
from services.data.manifests import VERSION_ID_CHARS
from services.data.rpcs import Parts
from services.data.store import Content

AT_ONCE = 8
_log = logging.getLogger(__name__)

# Children before parents.
_REBUILT = (
    tables.lineage,
    tables.checkpoints,
    tables.aliases,
    tables.model_versions,
    tables.models,
    tables.refs,
    tables.dataset_versions,
    tables.datasets,
    tables.pins,
    tables.manifests,
    tables.entries,
    tables.open_logs,
)


@dataclass(frozen=True)
class History:
    """One log, whole, with the content of the versions that it leaves."""

    log: Log
    entries: Sequence[Entry]
    contents: Mapping[str, Content]
    """By digest of the manifest."""


async def rebuild(parts: Parts) -> pb.ReindexResponse:
    """Make the index again. Readers see the old one until the new one is whole."""
    async with parts.ledger.alone():
        projects = await parts.blobs.folders(layout.PROJECTS)
        histories: list[History] = []
        sizes: dict[str, Mapping[str, int]] = {}
        for project in projects:
            histories += await _histories(parts.blobs, parts.contents, project)
            sizes[project] = await _sizes(parts.blobs, project)
        blobs = await parts.db.write(lambda tx: _write(tx, histories, sizes))
    await parts.audit.restore()
    return pb.ReindexResponse(
        projects=len(projects),
        logs=len(histories),
        entries=sum(len(history.entries) for history in histories),
        blobs=blobs,
    )


async def rebuild_if_lost(parts: Parts) -> None:
    """Make the index again where it is new and the bucket is not: its database was lost."""
    if not await parts.db.read(_empty) or not await parts.blobs.folders(layout.PROJECTS):
        return
    made = await rebuild(parts)
    if made.entries:
        _log.warning("the index was empty: made again from %d entries of %d logs", made.entries, made.logs)


def live(entries: Sequence[Entry]) -> set[str]:
    """Digests of the manifests that the versions of a log still have, after all of its entries."""
    held: dict[str, str] = {}
    for entry in entries:
        match entry.change:
            case Change.COMMITTED | Change.REGISTERED | Change.STORED:
                held[_version(entry)] = entry.manifest
            case Change.VERSION_DELETED:
                held.pop(_version(entry), None)
            case Change.ERASED:
                for version in entry.body["versions"]:
                    held.pop(version, None)
            case Change.PRUNED:
                for checkpoint in entry.body["checkpoints"]:
                    held.pop(checkpoint, None)
            case Change.DELETED:
                held.clear()
    return set(held.values())


def _empty(tx: Tx) -> bool:
    return all(tx.execute(select(table).limit(1)).first() is None for table in (tables.blobs, *_REBUILT))


def _version(entry: Entry) -> str:
    body = entry.body
    if entry.change is Change.STORED:
        return id_of(body["epoch"], body["step"])
    return str(body.get("number") or body.get("version") or entry.manifest[:VERSION_ID_CHARS])


async def _histories(blobs: Blobs, contents: Contents, project: str) -> list[History]:
    keys: dict[str, list[int]] = defaultdict(list)
    for listed in await blobs.entries(layout.logs(project)):
        _, path, sequence = layout.entry_of(listed.key)
        keys[path].append(sequence)
    gate = asyncio.Semaphore(AT_ONCE)

    async def read(path: str, sequence: int) -> Entry:
        async with gate:
            return Entry.decode(await blobs.get(layout.entry(project, path, sequence)))

    async def content(digest: str) -> Content | None:
        async with gate:
            try:
                return await contents.load(project, digest)
            except (BlobMissing, DataLoss) as error:
                _log.error("a version of %s is lost: manifest %s: %s", project, digest, error)
                return None

    histories = []
    for path, sequences in sorted(keys.items()):
        numbers = _unbroken(sorted(sequences), project, path)
        entries = await asyncio.gather(*(read(path, number) for number in numbers))
        digests = sorted(live(entries))
        found = await asyncio.gather(*map(content, digests))
        whole = {digest: one for digest, one in zip(digests, found, strict=True) if one is not None}
        histories.append(History(Log(project, path), entries, whole))
    return histories


def _unbroken(numbers: Sequence[int], project: str, path: str) -> Sequence[int]:
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            _log.error("entry %d of %s in %s is lost: what follows is left out", expected, path, project)
            return numbers[: expected - 1]
    return numbers


async def _sizes(blobs: Blobs, project: str) -> Mapping[str, int]:
    listed = await blobs.entries(layout.blobs(project))
    return {entry.key.rpartition("/")[2]: entry.size_bytes for entry in listed}


def _write(tx: Tx, histories: Sequence[History], sizes: Mapping[str, Mapping[str, int]]) -> int:
    for table in _REBUILT:
        tx.execute(delete(table))
    total = 0
    for project, there in sizes.items():
        needed = {
            digest
            for history in histories
            if history.log.project == project
            for content in history.contents.values()
            for digest in content.pins
        }
        # Of the others, only those that this index knew were ever checked.
        blob_store.keep_blobs(
            tx, project, {each: there[each] for each in needed if each in there}, set(there)
        )
        total += len(needed)
    for history in histories:
        for entry in history.entries:
            folds.fold(tx, history.log, entry, _complete(history, entry, sizes))
    return total


def _complete(history: History, entry: Entry, sizes: Mapping[str, Mapping[str, int]]) -> Content | None:
    content = history.contents.get(entry.manifest)
    if content is None:
        return None
    if lost := content.pins - set(sizes[history.log.project]):
        _log.error("manifest %s lacks %d blobs: its version is left out", entry.manifest, len(lost))
        return None
    return content

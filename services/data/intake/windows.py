"""From rows into versions: closed parts of windows are committed, each once.

A part has a random name, which names its file too: after a crash, a head that has the file has the part.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aios.data.v1 import data_service_pb2
from aios.errors import AiosError, NotFound
from aios.names import DatasetName, DatasetVersionName, new_id
from aios.runtime.context import Call, Principal, current_call
from services.data import dataset_store
from services.data.datasets import LATEST, MAIN, DatasetVersion
from services.data.intake import store
from services.data.intake.sources import Row, Source, Type
from services.data.intake.store import Held, Part
from services.data.manifests import Index, Kind, Manifest, Origin
from services.data.rpcs import Rpcs

if TYPE_CHECKING:
    from aios.trees.tree import Tree

LOOK_SECONDS = 1.0
PARTS_AT_ONCE = 16
DEAD_LOOK_SECONDS = 600.0
TRANSFORM = "ingest/1"

_log = logging.getLogger(__name__)


class Windows(Rpcs):
    """Commits what is due."""

    async def run(self) -> None:
        """Close and commit windows until cancelled."""
        cleaned = float("-inf")
        while True:
            await self.commit_once()
            if asyncio.get_running_loop().time() - cleaned > DEAD_LOOK_SECONDS:
                cleaned, now = asyncio.get_running_loop().time(), self._now()
                await self._db.write(lambda tx, now=now: store.forget_dead(tx, now))  # type: ignore[misc]
            await asyncio.sleep(LOOK_SECONDS)

    async def commit_once(self) -> None:
        """One round of `run`."""
        now, ids = self._now(), [new_id() for _ in range(PARTS_AT_ONCE)]
        if await self._db.read(store.has_rows):
            await self._db.write(lambda tx: store.close_windows(tx, now, ids))
        for part in await self._db.read(store.parts):
            try:
                await self._ledger.whole(self._commit(part))
            except AiosError as error:
                _log.warning("a window of %s waits: %s", part.source.name, error)

    async def _commit(self, part: Part) -> None:
        source = part.source
        caller = Principal(subject=str(source.name), project=source.name.project, role="service")
        current_call.set(Call(method=TRANSFORM, principal=caller))
        rows = await self._db.read(lambda tx: store.rows_of(tx, part))
        if rows and not await self._has(source.dataset, _path(part)):
            encoded = await asyncio.to_thread(
                _arrow, source, [row.content for row in rows], [row.device for row in rows]
            )
            sha256 = await self._contents.store(source.name.project, encoded)
            await self._commit_file(part, rows, sha256, len(encoded))
        await self._db.write(lambda tx: store.committed(tx, part))

    async def _commit_file(self, part: Part, rows: Sequence[Held], sha256: str, size: int) -> None:
        from aios.trees.tree import Leaf, Tree

        source, project = part.source, part.source.name.project
        await self._make_dataset(source.dataset)
        head = await self._head(source.dataset)
        leaves = [Leaf(_path(part), sha256, size, rows=len(rows))]
        if head is not None:
            leaves += (await self._tree(project, head)).leaves()
        tree = Tree.of(leaves)
        index = Index(
            await self._contents.store_index(project, tree), len(tree), tree.size_bytes, tree.content
        )
        manifest = Manifest(Kind.DATASET, index=index, origin=_origin(part, rows))
        message = f"{len(rows)} rows of {source.name.ingest_source}, window of {part.start.isoformat()}"
        base = str(head.name.version) if head else ""
        request = data_service_pb2.CreateDatasetVersionRequest(parent=str(source.dataset))
        await self._commits.commit(source.dataset, manifest, MAIN, message, base, request)

    async def _has(self, dataset: DatasetName, path: str) -> bool:
        head = await self._head(dataset)
        if head is None:
            return False
        return path in {leaf.path for leaf in (await self._tree(dataset.project, head)).leaves()}

    async def _head(self, dataset: DatasetName) -> DatasetVersion | None:
        latest = DatasetVersionName(dataset.project, dataset.dataset, LATEST)
        try:
            return await self._db.read(lambda tx: dataset_store.get_version(tx, latest))
        except NotFound:
            return None

    async def _tree(self, project: str, version: DatasetVersion) -> "Tree":
        return await self._contents.tree(
            project, await self._contents.manifest(project, version.manifest_sha256)
        )


def _path(part: Part) -> str:
    return f"{part.source.name.ingest_source}/{part.start:%Y-%m-%d/%H%M%S}-{part.id}.arrow"


def _origin(part: Part, rows: Sequence[Held]) -> Origin:
    """Which messages these rows were: no two versions have the same."""
    source = part.source
    [stream] = {row.stream for row in rows}  # a part is of one stream
    sequences = [row.sequence for row in rows]
    said: Mapping[str, Any] = {
        "source": str(source.name),
        "part": part.id,
        "window_start": part.start.isoformat(),
        "window_end": (part.start + source.window).isoformat(),
        "stream": stream,
        "first_sequence": sequences[0],
        "last_sequence": sequences[-1],
        "rows": len(rows),
    }
    schema = json.dumps({column.name: column.type.value for column in source.columns})
    return Origin(transform=TRANSFORM, parameters=said, schema=schema)


def _arrow(source: Source, rows: Sequence[Row], devices: Sequence[str]) -> bytes:
    """One batch in an Arrow file, as shards of records are. The same rows have the same bytes."""
    import pyarrow as pa

    kinds = {
        Type.DOUBLE: pa.float64(),
        Type.INT64: pa.int64(),
        Type.STRING: pa.string(),
        Type.BOOL: pa.bool_(),
        Type.TIMESTAMP: pa.timestamp("us", "UTC"),
    }
    fields = [pa.field(each.name, kinds[each.type], nullable=not each.required) for each in source.columns]
    arrays = [
        pa.array([row.get(column.name) for row in rows], field.type)
        for column, field in zip(source.columns, fields, strict=True)
    ]
    if all(column.name != "device" for column in source.columns):
        fields.append(pa.field("device", pa.string(), nullable=False))
        arrays.append(pa.array(devices))
    batch = pa.record_batch(arrays, schema=pa.schema(fields))
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(out.getvalue())

"""Windows of rows become versions, each once, on a real S3 server."""

import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import insert, select

from aios.data.v1 import data_service_pb2 as pb
from aios.names import DatasetName, DeviceName, IngestSourceName
from aios.records import Tx
from services.data.intake import store
from services.data.intake.sources import Column, Source, Type
from services.data.intake.store import Message
from services.data.intake.tables import ingest_parts, ingest_rows
from services.data.intake.windows import Windows
from tests.servers import s3_server
from tests.service.data_service import Platform, running, settings_at

SOURCE = Source(
    IngestSourceName("demo", "weather"),
    DatasetName("demo", "rows"),
    (Column("n", Type.INT64, required=True), Column("at", Type.TIMESTAMP)),
    window=timedelta(seconds=60),
    rows=20,
)
ROOF = DeviceName("demo", "weather", "roof")
STREAM = "2026-01-01T00:00:00+00:00"
LATEST = f"{SOURCE.dataset}/versions/latest"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    with s3_server(tmp_path / "s3") as server:
        settings = server.settings(settings_at(tmp_path / "home"), bucket=f"t{os.urandom(6).hex()}")
        async with running(settings) as started:
            await started.parts.db.write(lambda tx: store.add_source(tx, SOURCE, "alice"))
            await started.parts.db.write(lambda tx: store.add_device(tx, ROOF, "secret"))
            yield started


async def say(platform: Platform, first: int, last: int) -> bool:
    """Messages `first` to `last`, as the stream has them."""
    now = platform.clock.now()
    said = [
        Message(STREAM, n, ROOF, json.dumps({"n": n, "at": 1.5}).encode(), now)
        for n in range(first, last + 1)
    ]
    return await platform.parts.db.write(lambda tx: store.take_in(tx, STREAM, first - 1, said, last))


async def rows(platform: Platform) -> list[int]:
    """What `latest` holds."""
    files = await platform.caller().read(LATEST)
    tables = [pa.ipc.open_file(pa.BufferReader(content)).read_all() for content in files.values()]
    return sorted(n for table in tables for n in table["n"].to_pylist())


async def test_a_window_is_one_version_however_its_commit_was_cut_off(platform: Platform) -> None:
    windows = Windows(platform.parts)
    assert await say(platform, 1, 30)
    assert not await say(platform, 1, 30)  # somebody else has read them

    await windows.commit_once()
    assert await rows(platform) == list(range(1, 21))  # a part is full, the rest waits for the window's end

    platform.clock.offset = 2 * SOURCE.window
    await platform.parts.db.write(lambda tx: store.close_windows(tx, platform.clock.now(), ["part"]))

    def snapshot(tx: Tx) -> list[tuple[Any, list[dict[str, Any]]]]:
        kept = (ingest_rows, ingest_parts)
        return [(table, [dict(row._mapping) for row in tx.execute(select(table))]) for table in kept]

    def put_back(tx: Tx) -> None:
        for table, each in before:
            tx.execute(insert(table), each)

    before = await platform.parts.db.read(snapshot)
    await windows.commit_once()
    await platform.parts.db.write(put_back)  # killed after the commit, before its rows were forgotten
    await windows.commit_once()

    assert await rows(platform) == list(range(1, 31))
    versions = (
        await platform.caller().api.ListDatasetVersions(
            pb.ListDatasetVersionsRequest(parent=str(SOURCE.dataset))
        )
    ).dataset_versions
    assert len(versions) == 2
    version = await platform.caller().api.GetDatasetVersion(pb.GetDatasetVersionRequest(name=LATEST))
    said = dict(version.origin.parameters)
    assert (said["source"], said["first_sequence"], said["last_sequence"]) == (str(SOURCE.name), 21, 30)
    shown = await platform.parts.db.read(lambda tx: store.show_source(tx, SOURCE.name))
    assert (shown.accepted_count, shown.open_count) == (30, 0)

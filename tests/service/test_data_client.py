"""Folders pushed and pulled by the client as people use it: real gRPC, real S3."""

import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import func, select

from aios.client import AsyncClient
from aios.client.credentials import Credentials
from aios.data.v1 import data_service_pb2 as pb
from aios.errors import Aborted, DataLoss, FailedPrecondition, NotFound
from services.data import layout, tables
from tests.servers import S3Server, s3_server
from tests.service.data_service import Platform, digest, running, settings_at, token_of


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def platform(s3: S3Server, tmp_path: Path) -> AsyncIterator[Platform]:
    settings = s3.settings(settings_at(tmp_path / "home"), bucket=f"t{os.urandom(6).hex()}")
    async with running(settings) as started:
        yield started


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[AsyncClient]:
    credentials = Credentials(f"http://{platform.address}", "demo", token_of("editor"))
    async with AsyncClient(credentials=credentials) as opened:
        yield opened


async def stored(platform: Platform) -> tuple[int, int]:
    """Blobs and their bytes."""
    query = select(func.coalesce(func.sum(tables.blobs.c.size_bytes), 0))
    count = select(func.count()).select_from(tables.blobs)
    return await platform.db.read(lambda tx: (tx.execute(count).scalar_one(), tx.execute(query).scalar_one()))


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".aios-dataset.json"}


async def test_small_files_share_packs_and_come_back_one_by_one(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number in range(200):
        path = source / f"class{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number))
    (source / "readme").write_bytes(b"one")

    first = await client.datasets.push("d", source)
    blobs, _ = await stored(platform)
    (source / "class0" / "0.txt").write_bytes(b"changed")
    (source / "class1" / "1.txt").unlink()
    second = await client.datasets.push("d", source)

    assert (first.file_count, blobs) == (201, 3)  # the pack, the empty file, the index
    assert second.file_count == 200
    changes = [each async for each in client.datasets.diff("d")]
    assert [each.path for each in changes] == ["class0/0.txt", "class1/1.txt"]
    await client.datasets.pull("d", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


async def test_a_pull_that_was_cut_off_fetches_what_is_missing(client: AsyncClient, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(100):
        (source / str(number)).write_bytes(os.urandom(100))
    await client.datasets.push("d", source)
    out = tmp_path / "out"
    await client.datasets.pull("d", out)
    kept = (out / "7").stat().st_mtime_ns
    (out / "8").unlink()
    (out / "9").write_bytes(b"damaged")

    await client.datasets.pull("d", out)

    assert contents(out) == contents(source)
    assert (out / "7").stat().st_mtime_ns == kept


async def test_an_edit_of_a_large_table_sends_little(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    random.seed(1)
    file = tmp_path / "docs.jsonl"
    rows = [json.dumps({"id": number, "text": random.randbytes(200).hex()}) for number in range(10_000)]
    file.write_text("\n".join(rows))
    size = file.stat().st_size
    await client.datasets.push("d", file)
    before = await stored(platform)
    rows[5000:5000] = [json.dumps({"id": -number, "text": "new"}) for number in range(100)]
    del rows[7000:7050]
    file.write_text("\n".join(rows))

    await client.datasets.push("d", file)

    sent = (await stored(platform))[1] - before[1]
    assert sent < 0.05 * size
    await client.datasets.pull("d", tmp_path / "out")
    assert (tmp_path / "out" / "docs.jsonl").read_bytes() == file.read_bytes()


async def test_shards_say_how_many_records_they_hold(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    table = pa.table({"x": list(range(10))})
    with pa.OSFile(str(tmp_path / "0.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    version = await client.datasets.push("d", tmp_path / "0.arrow")

    listed = await platform.caller().api.ListDownloads(pb.ListDownloadsRequest(parent=version.name))
    assert [(each.file.path, each.row_count) for each in listed.downloads] == [("0.arrow", 10)]


async def test_what_others_changed_meanwhile_stays(client: AsyncClient, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_text("1")
    await client.datasets.push("d", source)
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    await client.datasets.checkout("d", mine)
    await client.datasets.checkout("d", theirs)

    (theirs / "a").write_text("theirs")
    (theirs / "c").unlink()
    await client.datasets.push("d", theirs)
    (mine / "b").write_text("mine")
    await client.datasets.push("d", mine)
    (mine / "b").write_text("mine again")
    await client.datasets.push("d", mine)
    await client.datasets.pull("d", tmp_path / "out")
    assert contents(mine) == contents(tmp_path / "out") == {"a": b"theirs", "b": b"mine again"}
    (theirs / "a").write_text("theirs again")
    await client.datasets.push("d", theirs)
    (mine / "a").write_text("mine too")
    with pytest.raises(Aborted, match="'a'"):
        await client.datasets.push("d", mine)
    (mine / "new").write_text("mine")
    with pytest.raises(FailedPrecondition, match=r"~ a, \+ new"):
        await client.datasets.checkout("d", mine)
    assert (mine / "a").read_text() == "mine too"
    await client.datasets.checkout("d", mine, force=True)

    assert contents(mine) == contents(theirs) == {"a": b"theirs again", "b": b"mine again"}
    with pytest.raises(FailedPrecondition, match="no checkout"):
        await client.datasets.checkout("d", source)


async def test_a_flipped_bit_is_noticed(platform: Platform, client: AsyncClient, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(100):
        (source / str(number)).write_bytes(b"%03d" % number)
    await client.datasets.push("d", source)
    pack = b"".join(b"%03d" % number for number in sorted(range(100), key=str))
    key = layout.blob("demo", digest(pack))
    assert await platform.blobs.get(key) == pack
    await platform.blobs.delete(key)
    await platform.blobs.put_if_absent(key, b"\x01" + pack[1:])

    with pytest.raises(DataLoss, match="SHA-256 differs"):
        await client.datasets.pull("d", tmp_path / "out")
    assert "0" not in contents(tmp_path / "out")


async def test_branches_tags_and_deletion(client: AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    first = await client.datasets.push("d", file)
    await client.datasets.set_ref("d", "v1", tag=True)
    file.write_text("2")
    await client.datasets.push("d", file, branch="try")
    file.write_text("3")
    await client.datasets.push("d", file)

    assert (await client.datasets.version("d/@v1")).name == first.name
    assert [each.type async for each in client.datasets.log("d")][:2] == ["committed", "committed"]
    found = await client.datasets.delete_ref("d", "v1")
    assert (set(found.branches), set(found.tags)) == ({"main", "try"}, set())
    short = first.name.rpartition("/")[2]
    assert (await client.datasets.delete(f"d/{short}", dry_run=True)).freed_bytes == 1
    await client.datasets.delete(f"d/{short}")
    await client.datasets.delete("d")
    with pytest.raises(NotFound):
        await client.datasets.get("d")

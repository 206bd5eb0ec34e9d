"""Erasure, the account of who did what, and encryption: real gRPC, real S3."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minio import Minio

from aios.blobs import Blobs
from aios.blobs.blobs import URL_LIFETIME
from aios.client import AsyncClient
from aios.client.credentials import Credentials
from aios.config import Settings
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import privacy_service_pb2 as privacy_pb
from aios.errors import DataLoss, FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from services.data import layout, reindex
from tests.servers import S3Server, s3_server
from tests.service.data_service import Platform, running, settings_at, token_of
from tests.service.neighbours import until

ADA = "ada@example.org"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def settings(s3: S3Server, tmp_path: Path) -> Settings:
    made = s3.settings(settings_at(tmp_path / "home"), bucket=f"t{os.urandom(6).hex()}")
    made.secret("data.key").parent.mkdir(parents=True, exist_ok=True)
    made.secret("data.key").write_text(os.urandom(32).hex())
    return made


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with running(settings) as started:
        yield started


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[AsyncClient]:
    credentials = Credentials(f"http://{platform.address}", "demo", token_of("admin"))
    async with AsyncClient(credentials=credentials) as opened:
        yield opened


def people(folder: Path, extra: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "people.csv").write_text(f'email,note\n{ADA},"a, quoted\nnote"\nbob@example.org,b{extra}\n')
    rows = [{"email": ADA, "age": 36}, {"email": "bob@example.org", "age": 1}]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "people.parquet")
    for number in range(70):
        (folder / f"{number:03}.txt").write_text(f"file {number}{extra}")
    return folder


async def held(platform: Platform) -> bytes:
    """Everything that the bucket holds of the project's data."""
    keys = [each.key for each in await platform.blobs.entries(layout.blobs("demo"))]
    return b"".join([await platform.blobs.get(key, 1 << 26) for key in keys])


async def test_what_was_erased_is_in_no_version_and_no_object(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    first = await client.datasets.push("people", people(tmp_path / "one"))
    await client.datasets.set_ref(f"people/{first.name.rpartition('/')[2]}", "v1", tag=True)
    await client.datasets.push("people", people(tmp_path / "two", "!"))
    newest = await client.datasets.push("people", people(tmp_path / "three", "?"))
    derived = pb.LineageEdge(source=newest.name, target="projects/demo/runs/r", relation="input")
    record = pb.RecordLineageRequest(parent="projects/demo", edges=[derived])
    await platform.caller("service").api.RecordLineage(record)

    erased = await client.datasets.erase("people", {"email": {ADA}}, reason="asked for")

    # Three versions of the CSV; the other two files are the same in each of them.
    assert erased.rows == 5
    assert len(erased.erasure.versions) == 3
    assert list(erased.erasure.derived) == ["projects/demo/runs/r"]
    dataset = await client.datasets.get("people")
    assert set(dataset.branches) == {"main"}
    await client.datasets.pull("people", tmp_path / "out")
    assert (tmp_path / "out/people.csv").read_text() == "email,note\nbob@example.org,b?\n"
    assert (tmp_path / "out/069.txt").read_text() == "file 69?"
    await client.datasets.pull("people/@v1", tmp_path / "tagged")
    assert (tmp_path / "tagged/people.csv").read_text() == "email,note\nbob@example.org,b\n"
    assert pq.read_table(tmp_path / "out/people.parquet")["email"].to_pylist() == ["bob@example.org"]
    with pytest.raises(NotFound):
        await client.datasets.version(f"people/{first.name.rpartition('/')[2]}")
    assert ADA.encode() in await held(platform)
    platform.clock.offset = timedelta(days=1, minutes=1)
    await platform.ingest.collect_once()
    assert ADA.encode() not in await held(platform)
    platform.clock.offset = timedelta()
    await reindex.rebuild(platform.parts)
    assert {each.name async for each in client.datasets.versions("people")} == {*erased.replacements.values()}
    entry = await anext(aiter(client.datasets.log("people", 1)))
    assert (entry.type, entry.message) == ("erased", "asked for")


async def test_an_erasure_that_finds_nothing_changes_nothing(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    made = await client.datasets.push("people", people(tmp_path / "one"))
    erased = await client.datasets.erase("people", {"email": {"nobody@example.org"}})

    assert (erased.rows, list(erased.erasure.versions)) == (0, [])
    assert (await client.datasets.version("people")).name == made.name
    assert "000.txt" in erased.unsearched
    dry = await client.datasets.erase("people", {"email": {ADA}}, dry_run=True)
    assert (dry.rows, list(dry.erasure.versions)) == (3, [made.name])
    assert (await client.datasets.version("people")).name == made.name


async def test_who_read_and_who_was_refused_is_known(
    platform: Platform, client: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("1")
    await client.datasets.push("d", tmp_path / "a")
    await client.datasets.pull("d", tmp_path / "out")
    with pytest.raises(PermissionDenied):
        await platform.caller("viewer").api.DeleteDataset(
            pb.DeleteDatasetRequest(name="projects/demo/datasets/d")
        )
    with pytest.raises(NotFound):
        await platform.caller("admin", "other").api.GetDataset(
            pb.GetDatasetRequest(name="projects/demo/datasets/d")
        )
    with pytest.raises(Unauthenticated):
        async with AsyncClient(
            credentials=Credentials(f"http://{platform.address}", "demo", "none")
        ) as nobody:
            await nobody.datasets.get("d")

    async def noted() -> list[privacy_pb.AuditEntry]:
        """Refusals are written after they are answered."""
        every = [each async for each in client.privacy.audit()]
        found = [each for each in every if not each.method.endswith("ListAuditEntries")]  # but for our own
        return found if any(each.project == "other" for each in found) else []

    entries = await until(noted)

    told = [
        (each.subject, each.project, each.method.rpartition("/")[2], each.reason or each.code)
        for each in entries
    ]
    assert told == [
        ("admin", "other", "GetDataset", "NOT_FOUND"),
        ("viewer", "demo", "DeleteDataset", "ROLE_TOO_LOW"),
        ("admin", "demo", "ListDownloads", "OK"),
        ("admin", "demo", "CreateDatasetVersion", "OK"),
        ("admin", "demo", "CreateDataset", "OK"),
    ]
    assert all(each.source.startswith("127.0.0.1:") for each in entries)
    refused = [each async for each in client.privacy.audit(denied=True)]
    assert [each.reason for each in refused] == ["NOT_FOUND", "ROLE_TOO_LOW"]
    below = [each async for each in client.privacy.audit(resource="datasets/d", subject="viewer")]
    assert below == []  # refused before it was read: the resource is not known


async def test_the_account_outlives_the_index_and_not_its_time(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as platform:
        name = await platform.caller().dataset("d")
        await platform.parts.audit.archive_once()
    lost = replace(settings, home=tmp_path / "again")
    lost.home.mkdir()
    async with running(lost) as platform:
        stub = AsyncClient(credentials=Credentials(f"http://{platform.address}", "demo", token_of("admin")))
        async with stub as client:
            assert [each.resource async for each in client.privacy.audit()] == ["projects/demo"]
            platform.clock.offset = timedelta(days=366)
            await platform.parts.audit.forget_once()
            assert [each.method async for each in client.privacy.audit()] == []
        assert name == "projects/demo/datasets/d"
        assert await platform.blobs.entries(layout.AUDIT) == []


class StoreWithoutKeys(Blobs):
    """Of a server that does not take keys: what is put is encrypted before."""

    def store_encrypts(self) -> bool:
        return False


@pytest.mark.parametrize("blobs_type", [Blobs, StoreWithoutKeys])
async def test_an_encrypted_project_reads_as_any_other_and_lies_on_disk_as_noise(
    s3: S3Server, settings: Settings, tmp_path: Path, blobs_type: type[Blobs]
) -> None:
    mark = b"PLAIN-AS-DAY-" + os.urandom(8).hex().encode()
    source = tmp_path / "source"
    source.mkdir()
    for number in range(80):
        (source / f"{number}.txt").write_bytes(mark + b"%d" % number)
    (source / "large.bin").write_bytes((mark * 40_000)[:700_000] + os.urandom(66 << 20))
    async with running(settings, blobs_type) as platform:
        operator = Credentials(f"http://{platform.address}", "demo", token_of("admin", platform=True))
        async with AsyncClient(credentials=operator) as client:
            assert (await client.privacy.encrypt()).encrypted
            await client.datasets.push("secret", source, message=mark.decode())
            await client.datasets.pull("secret", tmp_path / "out")
            assert (tmp_path / "out/large.bin").read_bytes() == (source / "large.bin").read_bytes()
            assert (tmp_path / "out/79.txt").read_bytes() == mark + b"79"
            page = pb.ListDownloadsRequest(parent=(await client.datasets.version("secret")).name, page_size=1)
            [one] = (await platform.caller().api.ListDownloads(page)).downloads
            url = one.url or one.parts[0].url
            got = await platform.http.get(url)
            assert mark not in got.content
            assert (got.status_code == 200) == (blobs_type is StoreWithoutKeys)
    lost = replace(settings, home=tmp_path / "again")
    lost.home.mkdir()
    with pytest.raises(FailedPrecondition, match="master key"):
        async with running(lost, blobs_type):
            pass
    on_disk = await asyncio.to_thread(
        subprocess.run, ["grep", "-rla", mark.decode(), str(s3.directory)], capture_output=True, check=False
    )
    assert on_disk.stdout == b""


async def test_a_log_that_is_not_encrypted_by_the_store_and_was_changed_in_it_is_noticed(
    s3: S3Server, settings: Settings
) -> None:
    account = s3.credentials
    address = s3.endpoint.removeprefix("http://")
    store = Minio(address, account.access_key, account.secret_key, secure=False)
    key = layout.entry("demo", "datasets/d", 1)
    async with running(replace(settings, encrypt_data=True), StoreWithoutKeys) as platform:
        await platform.caller().dataset("d")
        assert b"created" in await platform.blobs.get(key)
        stored = bytearray(store.get_object(settings.s3_bucket, key).read())
        assert b"created" not in stored
        stored[20] ^= 1
        store.put_object(settings.s3_bucket, key, io.BytesIO(stored), len(stored))
        with pytest.raises(DataLoss, match="changed in the bucket"):
            await platform.blobs.get(key)


async def test_a_project_that_holds_something_is_not_encrypted(platform: Platform) -> None:
    await platform.caller().dataset("d")
    operator = Credentials(f"http://{platform.address}", "demo", token_of("admin", platform=True))
    async with AsyncClient(credentials=operator) as client:
        with pytest.raises(FailedPrecondition, match="holds data already"):
            await client.privacy.encrypt()


async def test_a_url_lasts_a_quarter_of_an_hour_and_is_in_no_log(
    platform: Platform, client: AsyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert timedelta(minutes=15) >= URL_LIFETIME
    (tmp_path / "a").write_text("1")
    with caplog.at_level(logging.DEBUG):
        version = await client.datasets.push("d", tmp_path / "a")
        listed = await platform.caller().api.ListDownloads(pb.ListDownloadsRequest(parent=version.name))
        await platform.blobs.delete(layout.blob("demo", listed.downloads[0].file.sha256))
        with pytest.raises(FailedPrecondition) as refused:
            await client.datasets.pull("d", tmp_path / "out")
    assert "X-Amz-Expires=900" in listed.downloads[0].url
    assert "X-Amz-Signature" not in str(refused.value)
    written = [record.getMessage() for record in caplog.records]
    assert [line for line in written if "X-Amz-Signature=hidden" in line]
    assert not [line for line in written if re.search("X-Amz-Signature=[0-9a-f]", line)]

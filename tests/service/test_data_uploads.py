"""Content on its way in and out: real gRPC, real S3, presigned URLs."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aios.data.v1 import data_service_pb2 as pb
from aios.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aios.names import UploadName
from services.data import layout, store
from services.data.ingest import Ingest
from services.data.uploads import UploadVerifying
from tests.servers import S3Server, s3_server
from tests.service import neighbours
from tests.service.data_service import PROJECT, Platform, digest, file, running, settings_at


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def platform(s3: S3Server, tmp_path: Path) -> AsyncIterator[Platform]:
    settings = s3.settings(settings_at(tmp_path), bucket=f"t{os.urandom(6).hex()}")
    async with running(settings) as started:
        yield started


async def test_what_was_put_and_completed_can_be_read_back(platform: Platform) -> None:
    alice, data = platform.caller(), b"hello" * 1000

    upload = await alice.begin(data)
    assert await alice.put(upload, data) == 200
    done = await alice.complete(upload)
    name = await alice.dataset("words")
    version = await alice.commit(name, [file("a/b.txt", data)])

    assert not upload.exists
    assert done.exists
    assert await alice.read(version.name) == {"a/b.txt": data}


async def test_an_empty_file_is_content_too(platform: Platform) -> None:
    alice = platform.caller()

    version = await alice.commit(await alice.dataset("d"), [await alice.store("empty", b"")])

    assert await alice.read(version.name) == {"empty": b""}


async def test_content_that_the_project_has_needs_no_second_upload(platform: Platform) -> None:
    alice = platform.caller()
    await alice.store("a", b"same")

    again = await alice.begin(b"same")

    assert again.exists
    assert not again.url


async def test_knowing_a_digest_opens_no_other_project(platform: Platform) -> None:
    alice, mallory = platform.caller(project="demo"), platform.caller(project="other")
    stored = await alice.store("secret", b"the plan")
    name = await mallory.dataset("mine")

    upload = await mallory.begin(b"the plan")

    assert not upload.exists
    with pytest.raises(FailedPrecondition) as refused:
        await mallory.commit(name, [stored])
    assert refused.value.reason == "BLOBS_MISSING"
    with pytest.raises(FailedPrecondition):
        await mallory.complete(upload)


async def test_completing_before_anything_was_put_says_so(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"data")

    with pytest.raises(FailedPrecondition) as refused:
        await alice.complete(upload)

    assert refused.value.reason == "UPLOAD_MISSING"


async def test_an_upload_that_never_began_is_not_found(platform: Platform) -> None:
    alice = platform.caller()
    with pytest.raises(NotFound) as refused:
        await alice.complete(pb.Upload(name=f"{PROJECT}/uploads/{digest(b'never')}"))
    assert refused.value.reason == "UPLOAD_NOT_FOUND"


async def test_the_url_takes_only_the_bytes_that_were_announced(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"right")

    refused = await alice.put(upload, b"wrong")

    assert refused == 400
    assert await alice.put(upload, b"right") == 200
    assert (await alice.complete(upload)).exists


async def test_wrong_bytes_that_got_in_are_thrown_away_and_the_right_ones_can_follow(
    platform: Platform,
) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"right")
    # As on a server that ignores the checksum header.
    await platform.blobs.put_if_absent(layout.staging("demo", digest(b"right")), b"wrong")

    with pytest.raises(FailedPrecondition) as refused:
        await alice.complete(upload)

    assert refused.value.reason == "UPLOAD_CORRUPT"
    assert refused.value.metadata["actual_sha256"] == digest(b"wrong")
    assert await alice.put(upload, b"right") == 200
    assert (await alice.complete(upload)).exists


async def test_completing_twice_at_once_and_again_is_no_error(platform: Platform) -> None:
    alice, data = platform.caller(), os.urandom(1 << 20)
    upload = await alice.begin(data)
    await alice.put(upload, data)

    both = await asyncio.gather(alice.complete(upload), alice.complete(upload))
    again = await alice.complete(upload)

    assert all(each.exists for each in [*both, again])


async def test_a_check_that_takes_long_goes_on_and_a_later_call_has_its_result(platform: Platform) -> None:
    alice, data = platform.caller(), os.urandom(8 << 20)
    upload = await alice.begin(data)
    await alice.put(upload, data)
    impatient = Ingest(platform.db, platform.blobs, platform.clock, verify_wait_seconds=0)

    with pytest.raises(UploadVerifying):
        await impatient.complete(UploadName.parse(upload.name))

    async def exists() -> bool:
        return (await alice.begin(data)).exists

    await neighbours.until(exists)
    await impatient.close()


async def test_a_blob_cannot_be_changed_through_its_old_url(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"first")
    await alice.put(upload, b"first")
    assert await alice.put(upload, b"first") == 412
    await alice.complete(upload)
    version = await alice.commit(await alice.dataset("d"), [file("a", b"first")])

    # The door leads to staging alone: what is put there after the fact touches no blob.
    await alice.put(upload, b"first")

    assert await alice.read(version.name) == {"a": b"first"}


async def test_bytes_put_but_not_completed_are_in_no_version(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"half")
    await alice.put(upload, b"half")
    name = await alice.dataset("d")

    with pytest.raises(FailedPrecondition) as refused:
        await alice.commit(name, [file("a", b"half")])

    assert refused.value.reason == "BLOBS_MISSING"
    assert "'a'" in refused.value.message


async def test_an_unfinished_upload_is_forgotten_after_an_hour_with_its_bytes(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"late")
    await alice.put(upload, b"late")

    platform.clock.offset = timedelta(minutes=59)
    await platform.ingest.reap_once()
    assert await platform.blobs.stat(layout.staging("demo", digest(b"late"))) is not None
    platform.clock.offset = timedelta(minutes=61)
    await platform.ingest.reap_once()

    assert await platform.blobs.stat(layout.staging("demo", digest(b"late"))) is None
    with pytest.raises(NotFound):
        await alice.complete(upload)


async def test_bytes_that_arrive_after_their_upload_was_forgotten_are_deleted_too(platform: Platform) -> None:
    alice = platform.caller()
    upload = await alice.begin(b"stray")
    platform.clock.offset = timedelta(hours=2)
    await platform.ingest.reap_once()
    await alice.put(upload, b"stray")

    await platform.ingest.reap_once()

    assert await platform.blobs.entries(layout.STAGING, 10) == []


async def test_a_crash_between_the_copy_and_the_commit_leaves_nothing_visible(platform: Platform) -> None:
    alice, data = platform.caller(), b"copied"
    upload = await alice.begin(data)
    await alice.put(upload, data)
    # What the service had done when it died: the blob lies in its place, and no row speaks of it.
    staged = await platform.blobs.stat(layout.staging("demo", digest(data)))
    assert staged is not None
    await platform.blobs.copy(staged.key, layout.blob("demo", digest(data)), staged.etag)

    assert not (await alice.begin(data)).exists
    with pytest.raises(FailedPrecondition):
        await alice.commit(await alice.dataset("d"), [file("a", data)])
    await alice.complete(upload)
    assert (await alice.begin(data)).exists


@pytest.mark.parametrize(
    ("sha256", "size", "field"),
    [
        ("", 1, "sha256"),
        ("AB" * 32, 1, "sha256"),
        ("../" * 21 + "x", 1, "sha256"),
        ("a" * 64, -1, "size_bytes"),
        ("a" * 64, 6 * 1024**4, "size_bytes"),
    ],
)
async def test_a_bad_announcement_names_the_field(
    platform: Platform, sha256: str, size: int, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await platform.caller().api.BeginUpload(
            pb.BeginUploadRequest(parent=PROJECT, sha256=sha256, size_bytes=size)
        )
    assert list(refused.value.fields) == [field]


async def test_a_digest_announced_with_another_size_is_refused(platform: Platform) -> None:
    alice = platform.caller()
    await alice.store("a", b"four")

    with pytest.raises(InvalidArgument) as refused:
        await alice.api.BeginUpload(
            pb.BeginUploadRequest(parent=PROJECT, sha256=digest(b"four"), size_bytes=5)
        )

    assert list(refused.value.fields) == ["size_bytes"]


async def test_who_may_only_look_cannot_upload(platform: Platform) -> None:
    with pytest.raises(PermissionDenied):
        await platform.caller("viewer").begin(b"x")


async def test_another_projects_upload_is_not_found(platform: Platform) -> None:
    alice, mallory = platform.caller(), platform.caller(project="other")
    upload = await alice.begin(b"x")
    with pytest.raises(NotFound):
        await mallory.complete(upload)
    with pytest.raises(NotFound):
        await mallory.api.BeginUpload(
            pb.BeginUploadRequest(parent=PROJECT, sha256=digest(b"x"), size_bytes=1)
        )


async def test_a_committed_blob_is_announced(platform: Platform) -> None:
    await platform.caller().store("a", b"news")

    events = await platform.db.read(lambda tx: tx.execute(store.metadata.tables["events"].select()).all())

    assert [(each.noun, each.type, each.resource_id) for each in events] == [
        ("blob", "committed", digest(b"news"))
    ]

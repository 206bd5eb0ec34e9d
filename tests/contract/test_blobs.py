"""What the platform needs of an S3 server, checked on a real one."""

import asyncio
import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from aios.blobs import BlobChanged, BlobMissing, Blobs, ObjectStoreUnfit, seaweed
from aios.blobs.errors import ObjectStoreUnavailable
from aios.config import Settings
from tests.servers import S3Server, s3_server

MIB = 1 << 20


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def settings(s3: S3Server) -> Settings:
    return s3.settings(Settings.load({}), bucket=f"t{os.urandom(6).hex()}")


@pytest.fixture
async def blobs(settings: Settings) -> AsyncIterator[Blobs]:
    opened = await Blobs.open(settings)
    yield opened
    await opened.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_presigned_put_stores_the_content_once(blobs: Blobs) -> None:
    data = os.urandom(5 * MIB)
    door = blobs.presigned_put("a/b", sha256(data), len(data))
    async with httpx.AsyncClient() as client:
        first = await client.put(door.url, content=data, headers=door.headers)
        second = await client.put(door.url, content=data, headers=door.headers)

    assert (first.status_code, second.status_code) == (200, 412)
    content = await blobs.read_digest("a/b")
    assert (content.sha256, content.size_bytes) == (sha256(data), len(data))


async def test_a_presigned_put_takes_no_other_content_and_no_missing_header(blobs: Blobs) -> None:
    door = blobs.presigned_put("a", sha256(b"right"), 5)
    async with httpx.AsyncClient() as client:
        wrong = await client.put(door.url, content=b"wrong", headers=door.headers)
        longer = await client.put(
            door.url, content=b"right!", headers={**door.headers, "Content-Length": "6"}
        )
        bare = [
            await client.put(
                door.url, content=b"right", headers={k: v for k, v in door.headers.items() if k != name}
            )
            for name in ("If-None-Match", "x-amz-checksum-sha256")
        ]

    assert wrong.status_code == 400
    assert [each.status_code for each in [longer, *bare]] == [403, 403, 403]
    assert await blobs.stat("a") is None


async def test_a_presigned_url_opens_one_object_by_one_method(blobs: Blobs) -> None:
    await blobs.put_if_absent("mine", b"1")
    await blobs.put_if_absent("other", b"2")
    url = blobs.presigned_get("mine").url
    async with httpx.AsyncClient() as client:
        good = await client.get(url)
        refused = [
            await client.get(url.replace("/mine?", "/other?")),
            await client.put(url, content=b"x"),
            await client.delete(url),
            await client.get(url.partition("?")[0]),
        ]

    assert good.content == b"1"
    assert [each.status_code for each in refused] == [403] * 4


async def test_names_are_signed_as_they_are_sent(blobs: Blobs) -> None:
    key = "projects/p/a b+c~d=é&f"
    await blobs.put_if_absent(key, b"odd")
    async with httpx.AsyncClient() as client:
        assert (await client.get(blobs.presigned_get(key).url)).content == b"odd"
    assert [each.key for each in await blobs.entries("projects/", 10)] == [key]


async def test_of_many_writers_of_one_key_one_wins(blobs: Blobs) -> None:
    won = await asyncio.gather(*(blobs.put_if_absent("k", str(n).encode()) for n in range(8)))

    assert won.count(True) == 1
    assert await blobs.get("k") == str(won.index(True)).encode()


async def test_a_copy_is_of_the_very_object_that_was_read(blobs: Blobs) -> None:
    await blobs.put_if_absent("from", b"1")
    etag = (await blobs.read_digest("from")).etag
    await blobs.copy("from", "to", etag)
    await blobs.delete("from")
    await blobs.put_if_absent("from", b"2")

    with pytest.raises(BlobChanged):
        await blobs.copy("from", "to", etag)
    assert await blobs.get("to") == b"1"


async def test_what_is_missing_is_missing(blobs: Blobs) -> None:
    assert await blobs.stat("nothing") is None
    for call in (blobs.get("nothing"), blobs.read_digest("nothing"), blobs.copy("nothing", "to", "0" * 32)):
        with pytest.raises(BlobMissing):
            await call
    await blobs.delete("nothing")


async def test_nothing_is_lost_when_the_server_is_killed(s3: S3Server, settings: Settings) -> None:
    before = await Blobs.open(settings)
    await before.put_if_absent("kept", b"1" * MIB)
    s3.kill()
    with pytest.raises(ObjectStoreUnavailable) as refused:
        await before.get("kept")
    assert "Signature" not in refused.value.message

    s3.start()
    after = await Blobs.open(settings)

    assert await after.get("kept") == b"1" * MIB
    await before.close()
    await after.close()


async def test_wrong_credentials_are_refused(settings: Settings, tmp_path: Path) -> None:
    stranger = tmp_path / "s3.json"
    stranger.write_text(json.dumps({"access_key": "test", "secret_key": "guess"}))
    blobs = Blobs(replace(settings, s3_credentials_file=stranger))
    with pytest.raises(ObjectStoreUnavailable, match="refused"):
        await blobs.put_if_absent("x", b"1")
    with pytest.raises(ObjectStoreUnavailable, match="refused"):
        await blobs.stat("x")
    await blobs.close()


async def test_the_inner_servers_serve_nobody(s3: S3Server) -> None:
    asked = {
        "master": ["/dir/assign", "/col/delete?collection=aios", "/vol/grow?count=1"],
        "filer": ["/buckets/", "/buckets/aios/x"],
        "volume": ["/1,01234567", "/ui/index.html"],
    }
    async with httpx.AsyncClient() as client:
        for part, paths in asked.items():
            for path in paths:
                response = await client.get(f"http://127.0.0.1:{s3.ports[part]}{path}")
                assert response.status_code in (401, 404), path
        # gRPC wants a client certificate: a plain connection gets no answer.
        for part in ("master_grpc", "filer_grpc", "volume_grpc", "s3_grpc"):
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{s3.ports[part]}/")


def test_secrets_are_in_files_of_their_owner_and_not_in_the_command(s3: S3Server) -> None:
    command = " ".join(seaweed.weed_command(Path("weed"), s3.directory, s3.ports))

    assert s3.credentials.secret_key not in command
    for name in ("account.json", "grpc.pem"):
        assert (s3.directory / name).stat().st_mode & 0o777 == 0o600


async def test_a_server_that_ignores_conditional_writes_is_refused(settings: Settings) -> None:
    class Careless(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204 if self.command == "DELETE" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    threading.Thread(target=server.serve_forever).start()
    try:
        with pytest.raises(ObjectStoreUnfit, match=re.escape("If-None-Match")):
            await Blobs.open(replace(settings, s3_endpoint=f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()

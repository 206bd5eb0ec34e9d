"""Shards over HTTP: whole or not at all, tried again where that helps, decrypted on the way."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aios import seal, sse
from aios.client.credentials import Credentials
from aios.errors import FailedPrecondition
from aios.train.fetch import HttpFetch
from aios.train.shards import Shard

CONTENT = os.urandom(3 << 20)
SHARD = Shard("a.arrow", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 1)
KEY = os.urandom(32)


class Store(BaseHTTPRequestHandler):
    """An object store, and the platform that says where things lie in it."""

    asked: list[str]
    door = "whole"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        what = self.path.strip("/").partition("?")[0]
        if what.startswith("v1/"):
            body = json.dumps({"downloads": [{"url": f"{url_of(self.server)}/{self.door}?s=2"}]}).encode()
        else:
            body = seal.cipher(seal.MARK + KEY)(CONTENT) if what == "closed" else CONTENT
        refused = what == "refused" or (
            what == "keyed" and self.headers[f"{sse.PREFIX}algorithm"] != "AES256"
        )
        self.send_response(403 if refused else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if not refused:
            self.wfile.write(body[: len(body) // 2] if what == "cut" else body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def url_of(server: object) -> str:
    assert isinstance(server, ThreadingHTTPServer)
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def store() -> Iterator[ThreadingHTTPServer]:
    Store.asked, Store.door = [], "whole"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(store: ThreadingHTTPServer, what: str, key: bytes, target: Path) -> str:
    credentials = Credentials(url_of(store), "p", "token")
    version = "projects/p/datasets/d/versions/v"
    return HttpFetch(credentials, version, {SHARD.path: (f"{url_of(store)}/{what}?s=1", key)})(SHARD, target)


@pytest.mark.parametrize(
    ("what", "key"),
    [("whole", b""), ("keyed", KEY), ("closed", seal.MARK + KEY)],
    ids=["plain", "store", "ours"],
)
def test_a_shard_arrives_as_it_was(store: ThreadingHTTPServer, tmp_path: Path, what: str, key: bytes) -> None:
    assert fetch(store, what, key, tmp_path / "a") == SHARD.sha256
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert Store.asked == [f"/{what}?s=1"]


@pytest.mark.parametrize("what", ["cut", "refused"])
def test_what_fails_is_tried_again_at_a_fresh_place(
    store: ThreadingHTTPServer, tmp_path: Path, what: str
) -> None:
    assert fetch(store, what, b"", tmp_path / "a") == SHARD.sha256
    assert [each.partition("?")[0] for each in Store.asked] == [
        f"/{what}",
        "/v1/projects/p/datasets/d/versions/v/downloads",
        "/whole",
    ]


def test_a_refusal_of_a_fresh_url_is_told_without_the_url(store: ThreadingHTTPServer, tmp_path: Path) -> None:
    Store.door = "refused"
    with pytest.raises(FailedPrecondition, match=r"^a.arrow is refused \(HTTP 403\)\.$"):
        fetch(store, "refused", b"", tmp_path / "a")

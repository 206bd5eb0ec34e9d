"""A leaf node that keeps to no rule, at a real NATS server whose door is the data service's: it says and hears its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.aio.msg import Msg

from aios.bus import Asked, Bus
from aios.config import Settings
from aios.names import EdgeDeviceName, ModelVersionName
from aios.records import Database
from aios.runtime.tokens import read_key, write_key, write_secret
from aios.stack import nats as configuration
from services.data import store as tables
from services.data.app import MIGRATIONS
from services.data.edge import store
from services.data.edge.desk import ASKED, inbox
from services.data.intake.consumer import Intake
from services.data.intake.door import Door
from tests.servers import binary, free_port

SECONDS = 20.0
CUT_OFF_SECONDS = 5.0
ONE, TWO = EdgeDeviceName("demo", "one"), EdgeDeviceName("demo", "two")
FOLLOWS = ModelVersionName("demo", "sums", "1")
WORD = b"LMSG edge.demo.one.ask 2\r\n{}\r\n"


@dataclass
class Bench:
    """A server with two devices that it lets in."""

    db: Database
    port: int
    """For leaf nodes."""
    bus: Bus
    """The data service's."""
    client: Client
    """The platform, on the bus."""
    heard: asyncio.Queue[str]
    """Subjects of what came in below `edge`."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    port, edge = free_port(), free_port()
    settings = Settings(home=tmp_path, nats_url=f"nats://127.0.0.1:{port}", edge_address="behind the door")
    secrets = settings.secret("nats.json").parent
    secrets.mkdir(parents=True)
    write_secret(secrets / "nats.json", json.dumps({"user": "aios", "password": "one secret"}))
    write_secret(secrets / "nats-system.json", json.dumps({"user": "system", "password": "another"}))
    write_key(Ed25519PrivateKey.generate(), secrets / "devices.pem")
    config = tmp_path / "nats.conf"
    text = configuration.server_config(
        config_file=config,
        port=port,
        store_dir=tmp_path / "nats",
        credentials_file=secrets / "nats.json",
        devices=configuration.devices(settings, secrets, 0, edge),
    )
    write_secret(config, text)
    server = await asyncio.create_subprocess_exec(
        binary("nats-server"), "-c", config, stderr=asyncio.subprocess.DEVNULL
    )
    db = await Database.open(settings, "data", tables.metadata, MIGRATIONS)
    for name in (ONE, TWO):
        await db.write(lambda tx, name=name: store.add_device(tx, name, FOLLOWS, name.edge_device))  # type: ignore[misc]
    bus = await Bus.connect(settings, "data")
    door = Door(settings, db, read_key(secrets / "devices.pem"))
    loops = [asyncio.create_task(each) for each in (Intake(bus, db, door).run(), door.shut_out())]
    client = await nats.connect(
        settings.nats_url, user="aios", password="one secret", max_reconnect_attempts=-1
    )
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(message.subject)

    await client.subscribe("edge.>", cb=hear)
    await client.flush()
    try:
        yield Bench(db, edge, bus, client, heard)
    finally:
        await client.close()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await bus.close()
        await db.close()
        server.terminate()
        await server.wait()


class Raw:
    """The protocol of leaf nodes, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, user: str, password: str, name: str = "") -> "Raw":
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        said = {"user": user, "pass": password, "name": name or user, "headers": True, "protocol": 1}
        raw.say(f"CONNECT {json.dumps(said)}\r\nPING\r\n".encode())
        return raw

    def say(self, what: bytes) -> None:
        self._writer.write(what)

    async def until(self, *words: bytes) -> bytes:
        """What comes until one of the words, or the end."""
        said = b""
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionError):
                while not any(word in said for word in words) and (more := await self._reader.read(65536)):
                    said += more
        return said

    def close(self) -> None:
        self._writer.close()


async def let_in(bench: Bench) -> Raw:
    """The first device; again where the data service does not answer the server yet."""
    async with asyncio.timeout(SECONDS):
        while True:
            raw = await Raw.connect(bench.port, "demo/one", "one")
            if b"PONG" in await raw.until(b"PONG", b"Violation"):
                return raw
            raw.close()


async def test_a_device_says_and_hears_its_own_and_nobody_comes_in_as_another(bench: Bench) -> None:
    (await let_in(bench)).close()
    strangers = {"a password that was guessed": ("demo/one", "two", ""), "another's name": ("demo/one", "one", "demo/two"),
                 "nobody": ("demo/three", "", ""), "a user of MQTT": ("demo/weather/one", "one", "")}  # fmt: skip
    for what, (user, password, name) in strangers.items():
        raw = await Raw.connect(bench.port, user, password, name)
        assert b"Authorization Violation" in await raw.until(b"Violation"), what
        raw.close()
    for trespass in (
        WORD.replace(b".one.", b".two."),
        b"LMSG $JS.API.STREAM.LIST 2\r\n{}\r\n",
        b"LMSG edge.demo.one.told 2\r\n{}\r\n",
        b"LS+ edge.demo.two.told\r\n",
    ):
        raw = await let_in(bench)
        raw.say(trespass)
        assert b"Permissions Violation" in await raw.until(b"Violation"), trespass
        raw.close()
    raw = await let_in(bench)
    raw.say(WORD)
    async with asyncio.timeout(SECONDS):
        assert await bench.heard.get() == "edge.demo.one.ask"  # and nothing came before it

    raw.say(b"LS+ >\r\nLS+ aios.>\r\nLS+ edge.demo.>\r\nPING\r\n")
    await raw.until(b"PONG")
    for subject, word in (
        ("aios.x", b"secret"),
        ("edge.demo.two.told", b"secret"),
        ("edge.demo.one.told", b"mine"),
    ):
        await bench.client.publish(subject, word)
    said = await raw.until(b"mine")
    assert b"mine" in said
    assert b"secret" not in said

    await bench.db.write(lambda tx: store.delete_device(tx, ONE))
    async with asyncio.timeout(CUT_OFF_SECONDS):
        await raw.until(b"the end")
    raw.close()


async def test_an_answer_goes_to_the_device_that_asked_and_says_nothing_that_it_said(bench: Bench) -> None:
    """It names the group of those who answer, as a leaf node's server does."""
    asked = 0

    async def answer(_: Asked) -> bytes:
        nonlocal asked
        asked += 1
        return b"{}"

    async def stolen(message: Msg) -> None:
        bench.heard.put_nowait(message.subject)

    await bench.client.subscribe("stolen", cb=stolen)
    await bench.client.flush()
    headers = b"NATS/1.0\r\nce-id: forged\r\n\r\n"
    async with bench.bus.one_connection(), bench.bus.answering(ASKED, answer, inbox):
        raw = await let_in(bench)
        raw.say(b"LS+ edge.demo.one.inbox.>\r\nPING\r\n")
        await raw.until(b"PONG")
        for reply in (b"stolen", b"edge.demo.two.told", b"edge.demo.one.inboxes.a"):
            raw.say(b"LMSG edge.demo.one.ask + " + reply + b" aios 2\r\n{}\r\n")
        sizes = b" %d %d\r\n" % (len(headers), len(headers) + 2)
        raw.say(b"HMSG edge.demo.one.ask + edge.demo.one.inbox.a aios" + sizes + headers + b"{}\r\n")
        said = await raw.until(b"inbox.a 2\r\n{}")
        raw.close()
    assert b"LMSG edge.demo.one.inbox.a 2\r\n{}" in said
    assert b"forged" not in said
    assert asked == 1
    await bench.client.flush()
    heard = {bench.heard.get_nowait() for _ in range(bench.heard.qsize())}
    assert heard == {"edge.demo.one.ask", "edge.demo.one.inbox.a"}

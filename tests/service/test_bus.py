"""Events from one service's records to another's, over a real NATS server that is killed and wiped."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from sqlalchemy import select

from aios.bus import Bus, BusUnavailable, Consumer, DeadEvents, Relay, bus, cloudevents
from aios.bus.streams import ADVISORIES, EVENTS
from aios.config import Settings
from aios.errors import FailedPrecondition, InvalidArgument
from aios.records import Database, Event, Feed, Tx
from aios.records.tables import inbox
from tests.notes import add, adding, ids, open_notes
from tests.servers import NatsServer, nats_server

NOTES = cloudevents.subject("sender", "note")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, server: NatsServer) -> Settings:
    return server.settings(Settings(home=tmp_path))


class Town:
    """A service that sends and one that receives, each with its records, and what runs between them."""

    def __init__(self, settings: Settings, sender: Database, receiver: Database) -> None:
        self.settings, self.sender, self.receiver = settings, sender, receiver
        self.bus = Bus()

    async def note(self, note: str) -> None:
        await self.sender.write(adding(note))

    async def received(self, *notes: str) -> None:
        """Wait until the receiver has exactly these notes."""
        async with asyncio.timeout(30):
            while (found := await self.receiver.read(ids)) != sorted(notes):
                assert set(found) <= set(notes), found
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self, *loops: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop()) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def consumer(self, handler: Callable[[Tx, Event], None]) -> Consumer:
        return Consumer(self.bus, self.receiver, "receiver-notes", NOTES, handler)

    @property
    def relay(self) -> Relay:
        return Relay(self.sender, self.bus)


def copy(tx: Tx, event: Event) -> None:
    """The usual effect: one note per event. A second time would break its primary key."""
    add(tx, str(event.payload["id"]))


@pytest.fixture
async def town(settings: Settings) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        sender = await open_notes(settings, "sender")
        stack.push_async_callback(sender.close)
        receiver = await open_notes(settings, "receiver")
        stack.push_async_callback(receiver.close)
        made = Town(settings, sender, receiver)
        made.bus = await Bus.connect(settings, "test")
        stack.push_async_callback(made.bus.close)
        yield made


async def test_a_committed_event_takes_effect_in_another_service(town: Town) -> None:
    async with town.running(town.relay.run, town.consumer(copy).run):
        await asyncio.gather(*(town.note(f"n{n}") for n in range(100)))

        await town.received(*(f"n{n}" for n in range(100)))


async def test_a_message_is_a_cloudevent(town: Town, settings: Settings, server: NatsServer) -> None:
    client = await connect(server)
    heard = await client.subscribe("aios.>")
    await client.flush()

    async with town.running(town.relay.run):
        await town.note("a")
        message = await heard.next_msg(timeout=5)

    assert message.subject == "aios.sender.note.demo.a.created"
    assert message.headers is not None
    assert message.headers["ce-specversion"] == "1.0"
    assert message.headers["ce-type"] == "aios.sender.note.created"
    assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"]
    assert message.headers["content-type"] == "application/json"
    assert json.loads(message.data) == {"id": "a", "rank": 0}
    assert cloudevents.decode(message.headers, message.data).revision == 2
    await client.close()


async def test_a_duplicate_delivery_has_one_effect(town: Town, server: NatsServer) -> None:
    await town.note("a")
    (event,) = await read_all(town.sender)
    await town.bus.ensure_streams()
    js = (client := await connect(server)).jetstream()
    subject, headers, data = cloudevents.encode(event)
    for copy_number in range(3):  # as after the window in which JetStream itself drops duplicates
        await js.publish(subject, data, headers=headers | {"Nats-Msg-Id": f"{copy_number}"})
    await client.close()

    async with town.running(town.consumer(copy).run):
        await town.received("a")
        await acknowledged(server, 3)

    assert await town.receiver.read(lambda tx: len(tx.execute(select(inbox)).all())) == 1


async def test_what_was_committed_before_a_crash_is_published_after_it(
    town: Town, settings: Settings
) -> None:
    await town.note("a")  # and the process dies before any relay ran
    await town.sender.close()
    town.sender = await open_notes(settings, "sender")
    try:
        async with town.running(town.relay.run, town.consumer(copy).run):
            await town.received("a")
    finally:
        await town.sender.close()


async def test_a_relay_that_forgot_what_it_sent_sends_it_again_without_effect(
    town: Town, server: NatsServer
) -> None:
    async with town.running(town.consumer(copy).run):
        async with town.running(town.relay.run):
            await town.note("a")
            await town.received("a")
        # Stopped within the second before it notes what it sent: the next one starts before `a`.
        async with town.running(town.relay.run):
            await town.note("b")
            await town.received("a", "b")

    assert await stored(server) == 2


async def test_start_up_does_not_wait_for_a_bus_that_is_away(
    town: Town, settings: Settings, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.bus.close()
    server.kill()
    monkeypatch.setattr(bus, "CONNECT_SECONDS", 0.2)

    async with asyncio.timeout(1):
        town.bus = await Bus.connect(settings, "test")
    assert not town.bus.connected
    with pytest.raises(BusUnavailable):
        await town.bus.publish((await written(town.sender, "a"))[0])

    async with town.running(town.relay.run, town.consumer(copy).run):
        await town.note("b")
        server.start()
        await town.received("a", "b")
    await town.bus.close()


async def test_events_flow_again_after_nats_was_killed_or_wiped(town: Town, server: NatsServer) -> None:
    async with town.running(town.relay.run, town.consumer(copy).run):
        await town.note("a")
        await town.received("a")

        server.kill()
        await town.note("b")
        server.start()
        await town.received("a", "b")

        server.kill()
        server.wipe()
        await town.note("c")
        server.start()
        await town.received("a", "b", "c")

        await town.note("d")
        await town.received("a", "b", "c", "d")


async def test_a_bus_that_started_on_a_full_disk_takes_events_once_there_is_room(
    town: Town, server: NatsServer
) -> None:
    server.kill()
    with small_disk(server.directory / "store", "1m") as disk:
        server.start()
        async with town.running(town.relay.run, town.consumer(copy).run):
            await town.note("kept")
            await asyncio.sleep(0.5)  # refused meanwhile
            grow = ["mount", "-o", "remount,size=64m", str(disk)]
            await asyncio.to_thread(subprocess.run, grow, check=True)
            await town.received("kept")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of this size. Skips the test where none can be mounted."""
    path.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "aios-test", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)


async def test_a_poisonous_event_is_put_aside_and_the_others_pass(town: Town, server: NatsServer) -> None:
    def picky(tx: Tx, event: Event) -> None:
        if event.resource_id == "bad":
            add(tx, "half an effect")
            raise InvalidArgument("no such note")
        copy(tx, event)

    client = await connect(server)
    await town.bus.ensure_streams()
    await client.jetstream().publish("aios.sender.note.demo.x.created", b"no event")
    await client.close()
    async with town.running(town.relay.run, town.consumer(picky).run):
        for note in ("a", "bad", "b"):
            await town.note(note)
        await town.received("a", "b")
        await acknowledged(server, 4)

    letters = await DeadEvents(town.bus).list(0, 10)
    assert sorted((letter.subject, letter.consumer, letter.deliveries) for letter in letters) == [
        ("aios.sender.note.demo.bad.created", "receiver-notes", 1),
        ("aios.sender.note.demo.x.created", "receiver-notes", 1),
    ]
    assert "no such note" in "".join(letter.error for letter in letters)
    assert b"no event" in [letter.data for letter in letters]


async def test_a_handler_that_fails_for_a_while_is_tried_again(town: Town) -> None:
    tries: list[str] = []

    def shaky(tx: Tx, event: Event) -> None:
        add(tx, event.resource_id)
        tries.append(event.resource_id)
        if tries.count("a") == 1 and event.resource_id == "a":
            raise KeyError("a passing fault")

    async with town.running(town.relay.run, town.consumer(shaky).run):
        await town.note("a")
        await town.note("b")
        await town.received("a", "b")

    assert tries.count("a") == 2


async def test_a_payload_too_large_for_the_bus_is_left_out(town: Town) -> None:
    seen: list[Event] = []

    def look(tx: Tx, event: Event) -> None:
        add(tx, event.resource_id)
        seen.append(event)

    async with town.running(town.relay.run, town.consumer(look).run):
        await town.sender.write(
            lambda tx: tx.emit("note", "demo", "big", "created", {"text": "x" * 2_000_000})
        )
        await town.received("big")

    assert seen[0].payload == {}


async def test_nats_refuses_whoever_has_no_password(
    settings: Settings, server: NatsServer, tmp_path: Path
) -> None:
    with pytest.raises(nats.errors.Error, match="Authorization"):
        await nats.connect(server.url, allow_reconnect=False)

    with pytest.raises(FailedPrecondition, match="user and password"):
        await Bus.connect(replace(settings, nats_credentials_file=tmp_path / "nobody.json"), "test")


def test_a_subject_has_no_room_for_wildcards_in_a_name() -> None:
    assert cloudevents.subject("d", "n", "p", "a.b *>", "e") == "aios.d.n.p.a_b___.e"
    assert cloudevents.subject("scheduler", "job") == "aios.scheduler.job.*.*.*"


@pytest.mark.parametrize(
    ("headers", "data"),
    [(None, b""), ({}, b"{}"), ({"ce-type": "x"}, b"{}"), ({"ce-type": "aios.a.b.c", "ce-id": "1"}, b"[]")],
)
def test_what_is_no_event_is_not_decoded(headers: dict[str, str] | None, data: bytes) -> None:
    with pytest.raises(cloudevents.NotAnEvent):
        cloudevents.decode(headers, data)


async def connect(server: NatsServer) -> Client:
    credentials = json.loads((server.directory / "nats.json").read_text())
    return await nats.connect(server.url, **credentials)


async def stored(server: NatsServer) -> int:
    client = await connect(server)
    assert EVENTS.name is not None
    assert ADVISORIES.name is not None
    count: int = (await client.jetstream().stream_info(EVENTS.name)).state.messages
    await client.jetstream().stream_info(ADVISORIES.name)
    await client.close()
    return count


async def acknowledged(server: NatsServer, count: int) -> None:
    """Wait until the consumer has settled this many messages."""
    client = await connect(server)
    assert EVENTS.name is not None
    async with asyncio.timeout(30):
        while True:
            info = await client.jetstream().consumer_info(EVENTS.name, "receiver-notes")
            if info.ack_floor is not None and info.ack_floor.stream_seq >= count:
                break
            await asyncio.sleep(0.02)
    await client.close()


async def read_all(db: Database) -> list[Event]:
    return (await Feed(db).read(None, None, after=1)).events


async def written(db: Database, note: str) -> list[Event]:
    await db.write(adding(note))
    return await read_all(db)

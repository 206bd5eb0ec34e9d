"""Whatever happens to deliveries, processes and the bus itself, an event has its effect once; what cannot is kept."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from sqlalchemy import select, update

from aios.bus import Bus, Consumer, DeadEvents, Relay, bus, cloudevents, consumer, relay
from aios.bus.streams import EVENTS_NAME
from aios.config import Settings
from aios.errors import InvalidArgument, NotFound, PermissionDenied
from aios.records import Database, Event, Tx
from aios.records.tables import feed
from aios.runtime import tokens
from aios.runtime.channel import connect as dial
from aios.runtime.server import Server, Service
from aios.telemetry.v1 import event_service_pb2 as pb
from aios.telemetry.v1 import event_service_pb2_grpc
from gateway.telemetry.events import EventServicer
from tests.faults.links import Link, Trouble
from tests.notes import add, ids, notes, open_notes
from tests.servers import NatsServer, nats_server
from tests.service import neighbours
from tests.service.test_bus import NOTES, Town, acknowledged, connect, copy, read_all, stored

ROOT = Path(__file__).parents[2]
EVENTS = 40
KILLS = 2
DELIVERIES_MAX = 2  # of the processes below: five in earnest
ACK_SECONDS = 0.5
"""How soon what nobody settled comes again: thirty seconds in earnest."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(consumer, "ACK_SECONDS", ACK_SECONDS)
    monkeypatch.setattr(consumer, "BACKOFF_SECONDS", (0.05,) * 4)
    monkeypatch.setattr(bus, "FETCH_SECONDS", 0.5)
    return server.settings(Settings(home=tmp_path))


@pytest.fixture
async def town(settings: Settings) -> AsyncIterator[Town]:
    sender, receiver = await open_notes(settings, "sender"), await open_notes(settings, "receiver")
    made = Town(settings, sender, receiver)
    made.bus = await Bus.connect(settings, "test")
    yield made
    for each in (made.bus, made.sender, made.receiver):
        await each.close()


class Lossy(Consumer):
    """Loses deliveries before their effect, and acknowledgements after it."""

    dice = random.Random()

    async def _handle(self, message: Msg) -> None:
        luck = self.dice.random() if message.metadata.num_delivered < consumer.DELIVERIES_MAX else 1.0
        if luck < 0.2:
            return
        if luck < 0.4:
            message.ack = _nothing  # type: ignore[method-assign]
        await super()._handle(message)


async def _nothing() -> None:
    """An acknowledgement that does not arrive."""


@pytest.mark.parametrize("seed", range(2))
async def test_shuffled_repeated_and_lost_deliveries_come_to_one_effect_each(
    town: Town, server: NatsServer, seed: int
) -> None:
    """And a handler that compares revisions ends with the newest, whatever came last."""
    dice = Lossy.dice = random.Random(seed)
    for number in range(EVENTS):
        await town.note(f"n{number}")
    events = await read_all(town.sender)
    deliveries = [(event, copy) for event in events for copy in range(dice.choice((1, 1, 2, 3)))]
    dice.shuffle(deliveries)
    await town.bus.ensure_streams()
    js = (client := await connect(server)).jetstream()
    for event, number in deliveries:
        subject, headers, data = cloudevents.encode(event)
        await js.publish(subject, data, headers=headers | {"Nats-Msg-Id": f"{event.id}-{number}"})
    await client.close()
    await town.receiver.write(lambda tx: add(tx, "newest"))

    def apply(tx: Tx, event: Event) -> None:
        copy(tx, event)
        newer = update(notes).where(notes.c.id == "newest", notes.c.rank < event.revision)
        tx.execute(newer.values(rank=event.revision))
        if dice.random() < 0.1:
            raise KeyError("a passing fault")

    lossy = Lossy(town.bus, town.receiver, "receiver-notes", NOTES, apply)
    async with town.running(lossy.run):
        await town.received("newest", *(f"n{number}" for number in range(EVENTS)))
        await acknowledged(server, len(deliveries))

    newest = select(notes.c.rank).where(notes.c.id == "newest")
    assert await town.receiver.read(lambda tx: tx.execute(newest).scalar_one()) == events[-1].revision
    assert await DeadEvents(town.bus).list(0, 10) == []


async def test_publishes_whose_answers_are_lost_are_sent_again_and_stored_once(
    town: Town, settings: Settings, server: NatsServer
) -> None:
    link = Link("sender to NATS", lambda: server.port)
    await link.open()
    behind = await Bus.connect(replace(settings, nats_url=f"nats://127.0.0.1:{link.port}"), "sender")
    dice = random.Random(2)

    def add_many(tx: Tx) -> None:
        for number in range(EVENTS):
            add(tx, f"n{number}")

    async with town.running(Relay(town.sender, behind).run, town.consumer(copy).run):
        await town.note("first")
        await town.received("first")
        async with link.troubled(Trouble.ONE_WAY):
            await town.sender.write(add_many)
            await town.received("first", *(f"n{number}" for number in range(EVENTS)))
            link.reset()  # all of them arrived, and nobody was told
        for number in range(EVENTS, 2 * EVENTS):
            await town.note(f"n{number}")
            if dice.random() < 0.1:
                link.reset()
        await town.received("first", *(f"n{number}" for number in range(2 * EVENTS)))
        await published(town.sender, 2 + 2 * EVENTS)
    await behind.close()
    await link.close()
    assert await stored(server) == 1 + 2 * EVENTS


# --- a wiped bus


async def test_what_was_on_a_bus_that_was_wiped_is_sent_again_and_has_one_effect(
    town: Town, server: NatsServer
) -> None:
    async with town.running(town.relay.run):
        async with town.running(town.consumer(copy).run):
            await town.note("had its effect")
            await town.received("had its effect")
        await town.note("outstanding")
        await published(town.sender, 3)

        server.kill()
        server.wipe()
        server.start()

        async with town.running(town.consumer(copy).run):
            await town.received("had its effect", "outstanding")


async def test_a_bus_that_was_wiped_between_two_lives_of_a_service_gets_its_events(
    town: Town, server: NatsServer
) -> None:
    async with town.running(town.relay.run):
        await town.note("outstanding")
        await published(town.sender, 2)
    server.kill()
    server.wipe()
    server.start()

    async with town.running(town.relay.run, town.consumer(copy).run):
        await town.received("outstanding")


async def test_a_stream_deleted_under_a_living_connection_is_noticed(
    town: Town, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SAME_STREAM_SECONDS", 0.2)
    async with town.running(town.relay.run):
        await town.note("outstanding")
        await published(town.sender, 2)
        client = await connect(server)
        await client.jetstream().delete_stream(EVENTS_NAME)
        await client.close()

        async with town.running(town.consumer(copy).run):
            await town.received("outstanding")


# --- processes that are killed

PROCESS = f"""
import asyncio, os, signal, sys
from pathlib import Path
from nats.aio.msg import Msg
from aios.bus import Bus, Consumer, Relay, bus, consumer
from aios.config import Settings
from tests.notes import add, adding, open_notes

consumer.ACK_SECONDS, consumer.DELIVERIES_MAX, bus.FETCH_SECONDS = {ACK_SECONDS}, {DELIVERIES_MAX}, 0.5
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

async def main(what, home, url, credentials):
    settings = Settings(home=Path(home), nats_url=url, nats_credentials_file=Path(credentials))
    if what == "commit and die":
        db = await open_notes(settings, "sender")
        await db.write(adding("committed"))
        die()
    if what == "write and publish":
        db = await open_notes(settings, "sender")
        sending = asyncio.create_task(Relay(db, await Bus.connect(settings, "sender")).run())
        print("begun", flush=True)
        for number in range(100_000):
            await db.write(adding(f"{{os.getpid()}}-{{number}}"))
            await asyncio.sleep(0.002)
    handler = lambda tx, event: add(tx, str(event.payload["id"]))
    if what == "have an effect and die":
        Msg.ack = die  # between the commit and its acknowledgement
    if what == "die of every event":
        handler = die
    db = await open_notes(settings, "receiver")
    await Consumer(await Bus.connect(settings, "receiver"), db, "receiver-notes", "{NOTES}", handler).run()

asyncio.run(main(*sys.argv[1:]))
"""


def process(what: str, settings: Settings) -> "subprocess.Popen[str]":
    credentials = str(settings.nats_credentials_file)
    command = [sys.executable, "-c", PROCESS, what, str(settings.home), settings.nats_url, credentials]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def dies(what: str, settings: Settings) -> None:
    """Run a process to its death by its own hand."""
    assert process(what, settings).wait(30) == -signal.SIGKILL


async def test_a_process_killed_between_commit_and_publish_or_between_effect_and_ack(
    town: Town, settings: Settings
) -> None:
    await town.sender.close()
    await asyncio.to_thread(dies, "commit and die", settings)
    town.sender = await open_notes(settings, "sender")
    await town.receiver.close()
    async with town.running(town.relay.run):
        await asyncio.to_thread(dies, "have an effect and die", settings)
        town.receiver = await open_notes(settings, "receiver")
        assert await town.receiver.read(ids) == ["committed"]

        async with town.running(town.consumer(copy).run):
            await town.note("later")
            await town.received("committed", "later")


async def test_a_sender_killed_again_and_again_tells_all_that_it_committed(
    town: Town, settings: Settings
) -> None:
    dice = random.Random(1)
    await town.sender.close()

    def live_and_die(seconds: float) -> None:
        one = process("write and publish", settings)
        assert one.stdout is not None
        one.stdout.readline()
        try:
            one.wait(seconds)
        except subprocess.TimeoutExpired:
            one.kill()
        one.communicate()

    async with town.running(town.consumer(copy).run):
        for _ in range(KILLS):
            await asyncio.to_thread(live_and_die, dice.uniform(0.05, 0.6))
        town.sender = await open_notes(settings, "sender")
        async with town.running(town.relay.run):
            committed = await town.sender.read(ids)
            assert committed
            await town.received(*committed)


async def test_what_its_consumer_dies_of_each_time_is_kept_as_a_dead_event(
    town: Town, settings: Settings
) -> None:
    dead = DeadEvents(town.bus)
    await town.receiver.close()
    async with town.running(town.relay.run, dead.collect):
        await town.note("deadly")
        for _ in range(DELIVERIES_MAX):
            await asyncio.to_thread(dies, "die of every event", settings)
        last = process("die of every event", settings)  # asks for more, so that the server counts
        try:
            async with asyncio.timeout(15):
                while not (letters := await dead.list(0, 10)):  # noqa: ASYNC110  # it asks a server
                    await asyncio.sleep(0.05)
        finally:
            last.kill()
            last.communicate()
    (letter,) = letters
    assert (letter.consumer, letter.subject, letter.deliveries) == (
        "receiver-notes",
        "aios.sender.note.demo.deadly.created",
        DELIVERIES_MAX,
    )
    assert "died or hung" in letter.error
    town.receiver = await open_notes(settings, "receiver")


# --- dead events, for an operator


async def test_an_operator_lists_redelivers_and_deletes_dead_events(town: Town, settings: Settings) -> None:
    broken = True

    def picky(tx: Tx, event: Event) -> None:
        if broken:
            raise InvalidArgument("no such note")
        copy(tx, event)

    home = settings.home / "gateway"
    home.mkdir()
    keys = home / "jwks.json"
    keys.write_text(neighbours.settings_in(home).secret("jwks.json").read_text())
    servicer = EventServicer(DeadEvents(town.bus))
    add_to = event_service_pb2_grpc.add_EventServiceServicer_to_server
    door = Server("127.0.0.1:0", [Service(add_to, servicer)], tokens.Verifier(keys))
    await door.start()
    operator = dial(f"127.0.0.1:{door.port}", lambda: neighbours.token("admin", platform=True))
    admin = dial(f"127.0.0.1:{door.port}", lambda: neighbours.token("admin"))
    async with town.running(town.relay.run, town.consumer(picky).run), operator, admin:
        stub = event_service_pb2_grpc.EventServiceStub(operator)
        assert await stub.ListDeadEvents(pb.ListDeadEventsRequest()) == pb.ListDeadEventsResponse()
        for note in ("a", "b", "c"):
            await town.note(note)
        found = await neighbours.until(lambda: listed(stub, 3))

        assert [e.subject.split(".")[4] for e in found] == ["a", "b", "c"]
        assert found[0].error == "InvalidArgument('no such note')"
        assert '"id":"a"' in found[0].payload
        assert found[0].event_id
        with pytest.raises(PermissionDenied):
            await event_service_pb2_grpc.EventServiceStub(admin).ListDeadEvents(pb.ListDeadEventsRequest())

        await stub.DeleteDeadEvent(pb.DeleteDeadEventRequest(name=found[1].name))
        broken = False
        again = await stub.RedeliverDeadEvent(pb.RedeliverDeadEventRequest(name=found[0].name))
        assert again == found[0]
        await town.received("a")
        for name in (found[0].name, "deadEvents/none", "deadEvents/99999999999999999999"):
            with pytest.raises(NotFound):
                await stub.RedeliverDeadEvent(pb.RedeliverDeadEventRequest(name=name))
        assert await listed(stub, 1) == [found[2]]
    await door.stop(0)


async def listed(stub: Any, count: int) -> list[pb.DeadEvent]:
    """All dead events, in pages of two, once there are so many."""
    found: list[pb.DeadEvent] = []
    request = pb.ListDeadEventsRequest(page_size=2)
    while True:
        page = await stub.ListDeadEvents(request)
        found += page.dead_events
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found if len(found) == count else []


async def published(db: Database, revision: int) -> None:
    """Wait until the sender has noted that this is on the bus."""
    seen = select(feed.c.published)
    async with asyncio.timeout(30):
        while await db.read(lambda tx: tx.execute(seen).scalar_one()) < revision:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

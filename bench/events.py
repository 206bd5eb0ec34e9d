"""From the commit of a change to its effect in another service's records: outbox, JetStream, inbox, all durable.

The clock starts when the sender's write is answered, which is after its commit, and stops when the receiver's commit
shows the effect. Both sides run in this process and share one core with each other; NATS is a process of its own.
"""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from aios.bus import Bus, Consumer, Relay, cloudevents
from aios.config import Settings
from aios.records import Database, Event, Feed, Tx
from bench.report import Report, millis
from tests.notes import add, adding, open_notes
from tests.servers import nats_server

EVENTS_PER_SECOND = 25  # a busy small installation: a job makes about five
EVENTS = 500
BURST = 500
P99_MILLIS_MAX = 250.0
"""People notice more; the reconcilers that events only hasten look every second."""


class Town:
    """A sender, a receiver, and when each note left the one and arrived at the other."""

    def __init__(self, sender: Database, receiver: Database, bus: Bus) -> None:
        self.sender, self.receiver = sender, receiver
        self.committed: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        subject = cloudevents.subject("sender", "note")
        self.loops = [
            Relay(sender, bus).run,
            Consumer(bus, receiver, "receiver-notes", subject, self._copy).run,
            self._watch,
        ]

    async def note(self, note: str) -> None:
        await self.sender.write(adding(note))
        self.committed[note] = time.perf_counter()

    async def arrived(self) -> None:
        """Wait until everything that was committed has had its effect."""
        while len(self.seen) < len(self.committed):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def seconds(self) -> list[float]:
        """Commit to effect, one for each note; then forget them."""
        # A commit answered late may be seen first by its effect: that is no time at all.
        found = [max(0.0, self.seen[note] - at) for note, at in self.committed.items()]
        self.committed, self.seen = {}, {}
        return found

    def _copy(self, tx: Tx, event: Event) -> None:
        add(tx, str(event.payload["id"]))

    async def _watch(self) -> None:
        """Take the time of each of the receiver's commits."""
        revision = self.receiver.revision
        while True:
            newest = await self.receiver.wait(revision)
            now = time.perf_counter()
            changes = await Feed(self.receiver).read("note", None, revision, limit=BURST)
            self.seen |= {event.resource_id: now for event in changes.events}
            revision = newest


async def main() -> None:
    report = Report("events")
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home, nats_server(Path(home, "nats")) as nats:
        settings = nats.settings(Settings(home=Path(home)))
        async with AsyncExitStack() as stack:
            sender, receiver = await open_notes(settings, "sender"), await open_notes(settings, "receiver")
            stack.push_async_callback(sender.close)
            stack.push_async_callback(receiver.close)
            bus = await Bus.connect(settings, "bench")
            stack.push_async_callback(bus.close)
            town = Town(sender, receiver, bus)
            async with asyncio.TaskGroup() as tasks:  # a loop that fails ends the benchmark
                loops = [tasks.create_task(loop()) for loop in town.loops]
                await _measure(report, town)
                for task in loops:
                    task.cancel()
    report.finish()


async def _measure(report: Report, town: Town) -> None:
    await town.note("first")  # makes streams and consumer
    await town.arrived()
    town.seconds()
    report.say(f"{EVENTS} events, {EVENTS_PER_SECOND} a second")
    began = time.perf_counter()
    for number in range(EVENTS):
        await asyncio.sleep(max(0.0, began + number / EVENTS_PER_SECOND - time.perf_counter()))
        await town.note(f"steady-{number}")
    await town.arrived()
    steady = millis(town.seconds())
    report.figure("steady_p50_ms", steady["p50"])
    report.bar("steady_p99_ms", steady["p99"], P99_MILLIS_MAX)
    report.say(f"{BURST} events at once")
    began = time.perf_counter()
    await asyncio.gather(*(town.note(f"burst-{number}") for number in range(BURST)))
    await town.arrived()
    report.figure("burst_events_per_second", BURST / (time.perf_counter() - began))
    report.figure("burst_p99_ms", millis(town.seconds())["p99"])


if __name__ == "__main__":
    asyncio.run(main())

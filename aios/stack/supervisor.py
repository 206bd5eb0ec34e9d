"""The supervisor: one process per home that starts everything, keeps it running and stops it in order.

Holds `stack.lock` while it lives and rewrites `stack.json` at every change. Children die with it, by the kernel's
hand, so the next supervisor starts clean whatever happened to this one; what they had accepted is on disk.
"""

import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from aios.config import Settings
from aios.errors import AiosError
from aios.runtime.tokens import write_secret
from aios.stack import ports, secrets, state
from aios.stack.child import Child, Pace, Service, start_ticks
from aios.stack.layout import Layout
from aios.stack.services import PORTS, STOP_ORDER, environment, settings_of, table
from aios.stack.state import ServiceState, StackState

RENEW_SECONDS = 3600.0
"""Between looks at the tokens' remaining life."""
LET_GO_SECONDS = 2.0
"""How long the kernel may take to free the lock of a supervisor that was killed."""
LEFTOVER_SECONDS = 5.0
"""How long processes of a killed supervisor may take to be gone."""

_log = logging.getLogger(__name__)


class AlreadyRunning(Exception):
    """Another supervisor holds this home."""


class Supervisor:
    """Runs a table of services until told to stop."""

    def __init__(
        self,
        layout: Layout,
        services: Sequence[Service],
        environment: Mapping[str, str],
        *,
        address: str = "",
        ports: Mapping[str, int] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._layout = layout
        self._address = address
        self._ports = dict(ports or {})
        self._write_due = False
        self._children = {
            service.name: Child(service, environment, layout.log(service.name), self._changed, pace or Pace())
            for service in services
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, keep it running, and once `stop` is set take it down in order."""
        self._write()
        async with asyncio.TaskGroup() as tasks:
            running = {
                name: tasks.create_task(
                    child.run([self._children[other] for other in sorted(child.service.after)])
                )
                for name, child in self._children.items()
            }
            renewing = tasks.create_task(self._renew())
            self._layout.orders.unlink(missing_ok=True)
            listening = await asyncio.start_unix_server(self._take_order, self._layout.orders)
            await stop.wait()
            renewing.cancel()
            listening.close()
            for rank in _ranks(self._children):
                for name in rank:
                    self._children[name].stop()
                await asyncio.gather(*(running[name] for name in rank))
        self._write()

    async def _take_order(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`restart NAME`, answered by a line once it is done: empty, or what was wrong."""
        with closing(writer):
            verb, _, name = (await reader.readline()).decode(errors="replace").strip().partition(" ")
            child = self._children.get(name) if verb == "restart" else None
            if child is None:
                wrong = f"no service {name!r}"
            else:
                await child.restart()
                wrong = "" if child.ready.is_set() else "the stack stops"
            writer.write(f"{wrong}\n".encode())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            secrets.renew_tokens(self._layout)

    def _changed(self) -> None:
        # One write for all changes of this turn of the loop.
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._write_due = False
        services = {
            name: ServiceState(child.state, child.pid, child.start_ticks, child.restarts, child.message)
            for name, child in self._children.items()
        }
        now = StackState(self._address, self._ports, os.getpid(), "", services)
        write_secret(self._layout.state, state.to_json(now))


def hold(layout: Layout) -> IO[str]:
    """Take the lock, and leave our pid in it; it is held until the file is closed.

    Raises:
        AlreadyRunning: another supervisor holds it.
    """
    lock = layout.lock.open("a+")
    until = time.monotonic() + LET_GO_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if start_ticks(layout.holder()) or time.monotonic() > until:
                lock.close()
                raise AlreadyRunning(str(layout.home)) from None
        time.sleep(0.02)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def clear_leftovers(before: StackState) -> list[str]:
    """End what a killed supervisor left behind, known by pid and start time. Returns the names.

    The kernel has killed them already, unless the supervisor died in the instant between fork and exec.
    """
    left = {
        name: one
        for name, one in before.services.items()
        if one.pid and start_ticks(one.pid) == one.start_ticks
    }
    for one in left.values():
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    until = time.monotonic() + LEFTOVER_SECONDS
    while any(start_ticks(one.pid) == one.start_ticks for one in left.values()) and time.monotonic() < until:
        time.sleep(0.02)
    return sorted(left)


def build(layout: Layout, given: Mapping[str, str], before: StackState) -> Supervisor:
    """Make secrets, choose ports, and fill the table.

    Raises:
        PortTaken: a port that the user set is in use.
        InvalidArgument: an AIOS_* variable has a wrong value.
    """
    secrets.prepare(layout)
    chosen = ports.choose(PORTS, before.ports, ports.asked(given), ports.claim, ports.claim_any)
    variables = settings_of(chosen, layout.home, given)
    settings = Settings.load(variables)
    return Supervisor(
        layout,
        table(settings, layout, chosen, given),
        environment(variables, given),
        address=settings.address,
        ports=chosen,
    )


def _ranks(children: Mapping[str, Child]) -> list[list[str]]:
    """The order of the end; what STOP_ORDER does not name goes first."""
    named = [name for rank in STOP_ORDER for name in rank]
    first = [name for name in children if name not in named]
    return [first, *([name for name in rank if name in children] for rank in STOP_ORDER)]


async def _run(supervisor: Supervisor) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await supervisor.run(stop)


def main() -> int:
    """`python -m aios.stack`. Exit code 3: another supervisor runs; 1: could not start, `stack.json` says why."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.umask(0o077)
    layout = Layout(Settings.load().home)
    layout.make()
    try:
        lock = hold(layout)
    except AlreadyRunning:
        return 3
    with lock:
        before = state.read(layout.state)
        if left := clear_leftovers(before):
            _log.warning("ended what the last supervisor left: %s", ", ".join(left))
        try:
            supervisor = build(layout, os.environ, before)
        except (AiosError, ports.PortTaken, OSError, ValueError) as error:
            _log.exception("cannot start")
            failed = StackState(ports=before.ports, message=str(error))
            write_secret(layout.state, state.to_json(failed))
            return 1
        os.chdir(Path("/"))
        asyncio.run(_run(supervisor))
        _log.info("stopped")
    return 0

"""One process of the stack: started, probed, and started again when it dies or hangs."""

import asyncio
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from aios.stack.probes import Broken, NotReady, Probe, Waiting

LOG_BYTES_MAX = 16 << 20
"""One log and the one before it: at most 32 MiB a service."""
MESSAGE_CHARS_MAX = 300
"""Of a process' last words."""

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Pace:
    """How often a process is asked, and how long it is waited for. Seconds."""

    poll: float = 0.1
    """Between probes while it starts: the stack is ready one poll after its slowest member."""
    hand_over: float = 0.02
    """Between looks whether a successor is there."""
    watch: float = 5.0
    """Between probes of one that answered."""
    start: float = 120.0
    """One that does not answer by then is started again: no service needs a tenth of it."""
    hung_probes: int = 12
    """Missed in a row, about a minute, until it counts as hung: jobs may starve a small machine that long."""
    broken_probes: int = 2
    """The same for one that says itself that it cannot go on."""
    pause: float = 0.25
    """Before it is started again; doubled at each death."""
    pause_max: float = 10.0
    steady: float = 30.0
    """Of life, and its deaths are forgotten."""


class State(StrEnum):
    """Where a process stands."""

    WAITING = "waiting"  # for those that it needs
    STARTING = "starting"
    READY = "ready"
    FAILING = "failing"  # it ended or does not answer; started again after a pause
    STOPPING = "stopping"
    STOPPED = "stopped"
    DONE = "done"  # a task that ran to its end


@dataclass(frozen=True, kw_only=True)
class Service:
    """One row of the process table."""

    name: str
    command: Sequence[str]
    probe: Probe | None
    """None: it answers as soon as it runs."""
    after: frozenset[str] = frozenset()
    """Services that must be ready before it starts, and stay until it has stopped."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beyond what all of them get."""
    stop_seconds: float = 15.0
    """From SIGTERM to SIGKILL."""
    killed_at_end: bool = False
    """SIGKILL is its ordinary end: what it accepted is on disk, and the rest of its own shutdown is of no use."""
    hand_over: Path | None = None
    """At a restart its successor starts beside it, and makes this file when it can take over. None: one at a time."""
    hand_over_by: signal.Signals | None = signal.SIGTERM
    """What it is then told to end by. SIGKILL leaves alone what it started; None: the successor itself tells it."""
    once: bool = False
    """A task: runs to an end, and nothing waits for it."""


class Child:
    """Keeps one service running until `stop`."""

    def __init__(
        self,
        service: Service,
        environment: Mapping[str, str],
        log: Path,
        changed: Callable[[], None],
        pace: Pace,
    ) -> None:
        self.service = service
        self.state = State.WAITING
        self.message = ""
        self.pid = 0
        self.start_ticks = 0
        self.restarts = 0
        self.ready = asyncio.Event()
        self._environment = {**environment, **service.environment}
        self._log = log
        self._changed = changed
        self._pace = pace
        self._stopping = asyncio.Event()
        self._restarting = asyncio.Event()
        self._former: asyncio.Task[None] | None = None

    async def run(self, needed: Sequence["Child"]) -> None:
        """Start when `needed` are ready, and keep running."""
        if not await self._unless_stopping(_all_ready(needed)):
            self._become(State.STOPPED)
            return
        pause = self._pace.pause
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                end = await self._run_once()
                if end and not self._stopping.is_set() and (said := last_line(self._log)):
                    end = f"{end}: {said}"
            except OSError as error:
                end = f"{self.service.command[0]}: {error.strerror}"
            self.ready.clear()
            self.pid = self.start_ticks = 0
            if self._stopping.is_set():
                break
            if self._restarting.is_set():
                continue
            if self.service.once and not end:
                self._become(State.DONE)
                return
            if time.monotonic() - began > self._pace.steady:
                pause = self._pace.pause
            self.restarts += 1
            self._become(State.FAILING, end or "ended with exit code 0")
            await self._unless_stopping(asyncio.sleep(pause))
            pause = min(pause * 2, self._pace.pause_max)
        if self._former is not None:
            await self._former
        self._become(State.STOPPED)

    def stop(self) -> None:
        """Ask for the end; `run` returns when the process is gone."""
        self._stopping.set()

    async def restart(self) -> None:
        """End the process in good order and start another. Returns when that one answers, or the stack stops."""
        if self._former is not None:
            await self._former  # it still sees its clients off
        self.ready.clear()
        self._restarting.set()
        await self._unless_stopping(self.ready.wait())

    async def _run_once(self) -> str:
        """Run the process to its end. Returns how it ended; empty after exit code 0."""
        rotate(self._log)
        self._restarting.clear()
        self._become(State.STARTING)
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.service.command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # A group of its own: Ctrl-C at a foreground supervisor is the supervisor's to handle.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        self.pid, self.start_ticks = process.pid, start_ticks(process.pid)
        self._changed()
        exited = asyncio.create_task(process.wait())
        watched = asyncio.create_task(self._watch())
        stopping = asyncio.create_task(self._stopping.wait())
        restarting = asyncio.create_task(self._restarting.wait())
        try:
            await asyncio.wait({exited, watched, stopping, restarting}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return _how_it_ended(exited.result())
            if watched.done():
                watched.result()  # a fault of ours is not hidden
                _signal_group(process.pid, signal.SIGKILL)
                await exited
                return self.message
            watched.cancel()
            if not self._stopping.is_set() and self.service.hand_over is not None:
                self.service.hand_over.unlink(missing_ok=True)
                self._former = asyncio.create_task(self._let_go(process, exited, self.service.hand_over))
                return ""
            self._become(State.STOPPING)
            process.terminate()
            done, _ = await asyncio.wait({exited}, timeout=self.service.stop_seconds)
            if not done:
                _signal_group(process.pid, signal.SIGKILL)
                if not self.service.killed_at_end:
                    self.message = f"did not stop in {self.service.stop_seconds:g} s and was killed"
            await exited
            return ""
        finally:
            watched.cancel()
            stopping.cancel()
            restarting.cancel()

    async def _let_go(
        self, process: asyncio.subprocess.Process, exited: "asyncio.Task[int]", sign: Path
    ) -> None:
        """See a process off: it goes on until its successor can take over, however often that fails to start."""
        while not (sign.exists() or exited.done() or self._stopping.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(self._pace.hand_over)
        by = signal.SIGTERM if self._stopping.is_set() else self.service.hand_over_by
        if by is not None and not exited.done():
            process.send_signal(by)
        await asyncio.wait({exited}, timeout=self.service.stop_seconds)
        if not exited.done():
            _signal_group(process.pid, signal.SIGKILL)
        await exited

    async def _watch(self) -> None:
        """Follow the probe; returns when the process counts as hung."""
        if self.service.probe is None:
            if not self.service.once:
                self._become(State.READY)
            await asyncio.Event().wait()
        assert self.service.probe is not None
        if self._former is not None and self.service.hand_over_by is not None:
            await asyncio.shield(self._former)  # until then it is the former one that answers
        began, missed, broken = time.monotonic(), 0, 0
        while True:
            try:
                await self.service.probe()
            except NotReady as seen:
                missed = 0 if isinstance(seen, Waiting) else missed + 1
                broken = broken + 1 if isinstance(seen, Broken) else 0
                self.message = str(seen)
                if self.state is State.STARTING and time.monotonic() - began > self._pace.start:
                    self.message = f"did not answer in {self._pace.start:g} s: {seen}"
                    return
                if self.state is State.READY and missed >= self._pace.hung_probes:
                    self.message = f"stopped answering: {seen}"
                    return
                if self.state is State.READY and broken >= self._pace.broken_probes:
                    self.message = f"cannot go on: {seen}"
                    return
            else:
                missed = broken = 0
                if self.state is not State.READY:
                    self._become(State.READY)
            rotate(self._log)
            await asyncio.sleep(self._pace.watch if self.state is State.READY else self._pace.poll)

    def _become(self, state: State, message: str = "") -> None:
        _log.info("%s: %s%s", self.service.name, state, f": {message}" if message else "")
        self.state = state
        self.message = message or (self.message if state is State.STOPPED else "")
        if state is State.READY:
            self.ready.set()
        self._changed()

    async def _unless_stopping(self, waiting: Coroutine[Any, Any, object]) -> bool:
        """Wait for it, or for `stop`. Returns whether it came first."""
        wanted = asyncio.create_task(waiting)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({wanted, stopping}, return_when=asyncio.FIRST_COMPLETED)
        came = wanted.done()
        wanted.cancel()
        stopping.cancel()
        return came and not self._stopping.is_set()


async def _all_ready(children: Sequence[Child]) -> None:
    for child in children:
        await child.ready.wait()


def rotate(log: Path, limit: int = LOG_BYTES_MAX) -> None:
    """Keep a log and the one before it.

    The writer has the file open for appending and goes on at the new end. What it writes between copy and truncation
    is lost: a few lines every LOG_BYTES_MAX, against a process that would hang when nobody reads its pipe.
    """
    try:
        if log.stat().st_size < limit:
            return
        log.with_suffix(".log.1").write_bytes(log.read_bytes())
        os.truncate(log, 0)
    except OSError as error:  # not there yet; or the disk is full, and processes matter more than their logs
        _log.debug("%s stays as it is: %s", log, error)


def last_line(log: Path) -> str:
    """The last thing a process said, shortened: most often why it ended."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:MESSAGE_CHARS_MAX] if lines else ""


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid it names one process for ever. 0: gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command in parentheses may hold spaces; field 22 is the 20th after it. A zombie has ended.
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _die_with(supervisor: int) -> Callable[[], None]:
    """In the child, before exec: the kernel kills it when the supervisor dies, however it dies."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(1)

    return prepare


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _how_it_ended(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"

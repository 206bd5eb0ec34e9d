"""How each fault is made, on real processes, links, files and disks."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aios.records.dialect import sqlite
from aios.stack.child import State
from tests.faults.links import Trouble
from tests.faults.platform import DISK_MIB, Platform, resize
from tests.faults.schedule import JOB_PARTS, NODE, SERVING_PARTS, Fault, Injection
from tests.faults.supervisor import SECOND

RECOVER_SECONDS = 120.0
PROGRAMS = {
    "training": "services.trainer.job",
    "replica": "services.inference.replica",
    "triton": "tritonserver",
    "stub": "triton_python_backend_stub",
}
"""How the processes of an attempt are told apart: by a word of their command line."""


@dataclass
class Breaker:
    """Makes faults, and notes how long what was killed takes to answer again."""

    platform: Platform
    hurt: set[tuple[str, int]] = field(default_factory=set)
    """Attempts whose own process was killed: their failure is not the platform's."""
    recovered: dict[str, list[float]] = field(default_factory=dict)
    watching: set["asyncio.Task[None]"] = field(default_factory=set)

    async def inject(self, injection: Injection) -> str:
        """Make it, and return when it is over. Says what came of it; empty when it could not be made."""
        match injection.fault:
            case Fault.KILL:
                return await self._kill(injection.target)
            case Fault.PAUSE:
                return await self._pause(injection.target, injection.seconds)
            case Fault.RESET:
                self.platform.links[injection.target].reset()
                return "reset"
            case Fault.LOCK:
                file = self.platform.home / "records" / f"{injection.target}.db"
                return await asyncio.to_thread(_lock, file, injection.seconds)
            case Fault.FULL:
                if injection.target not in self.platform.disks:
                    return ""
                return await asyncio.to_thread(
                    _fill, self.platform.home / injection.target, injection.seconds
                )
            case Fault.CLOCK:
                self.platform.set_clock(injection.target, int(injection.size))
                await asyncio.sleep(injection.seconds)
                self.platform.set_clock(injection.target, 0)
                return f"set {injection.size:+.0f} s"
            case _:
                link = self.platform.links[injection.target]
                async with link.troubled(Trouble(injection.fault.value), injection.size):
                    await asyncio.sleep(injection.seconds)
                return "passed"

    async def _kill(self, target: str) -> str:
        if target == "supervisor":
            assert self.platform.supervisor is not None
            self.platform.supervisor.kill()
            await asyncio.to_thread(self.platform.supervisor.wait)
            self.platform.start()
            self._watch("supervisor", self.platform.until_ready(RECOVER_SECONDS))
            return "killed"
        if target == NODE:
            pid = self.platform.pid(SECOND)
            mine = [
                process
                for process, job, epoch in self.platform.attempts()
                if _on(process, SECOND, self.platform)
            ]
            mine += list(_shims(self.platform.home / SECOND))
            self._kill_pid(pid)
            for process in mine:
                with suppress(psutil.Error):
                    process.kill()
            self._watch(target, self._until_back(SECOND, pid))
            return "killed"
        if target in (*JOB_PARTS, *SERVING_PARTS):
            found = self._attempt_process(target)
            if found is None:
                return ""
            with suppress(psutil.Error):
                found.kill()
            return f"killed {found.pid}"
        pid = self.platform.pid(target)
        if not pid:
            return ""
        self._kill_pid(pid)
        self._watch(target, self._until_back(target, pid))
        return f"killed {pid}"

    def _kill_pid(self, pid: int) -> None:
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _pause(self, target: str, seconds: float) -> str:
        if target in (*JOB_PARTS, *SERVING_PARTS):
            found = self._attempt_process(target, hurt=False)
            pid = found.pid if found else 0
        else:
            pid = self.platform.pid(target)
        if not pid:
            return ""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return f"paused {pid}"

    def _attempt_process(self, target: str, *, hurt: bool = True) -> psutil.Process | None:
        """The newest process of that kind."""
        if target == "shim":
            shims = list(_shims(self.platform.home))
            return max(shims, key=lambda process: process.pid, default=None)
        found = []
        for process, job, epoch in self.platform.attempts():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                is_job = f"{self.platform.effects}/" in words  # without it a folder that every sandbox has
                if (target == "job" and is_job) or (target != "job" and PROGRAMS[target] in words):
                    found.append((process, job, epoch))
        if not found:
            return None
        process, job, epoch = max(found, key=lambda each: each[0].pid)
        if hurt:
            self.hurt.add((job, epoch))
        return process

    def _watch(self, target: str, recovery: Awaitable[float]) -> None:
        async def watch() -> None:
            self.recovered.setdefault(target, []).append(await recovery)

        task = asyncio.create_task(watch())
        self.watching.add(task)

    async def settled(self) -> None:
        """Return once all that was killed has come back.

        Raises:
            AssertionError: something did not.
        """
        watching, self.watching = self.watching, set()
        await asyncio.gather(*watching)

    async def _until_back(self, service: str, old: int) -> float:
        began = time.monotonic()
        while time.monotonic() - began < RECOVER_SECONDS:
            one = self.platform.state.services.get(service)
            if one and one.pid not in (0, old) and one.state is State.READY:
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise AssertionError(f"{service} did not come back in {RECOVER_SECONDS:g} s")


def unable(platform: Platform) -> dict[Fault, str]:
    """The faults that this machine does not let us make, and why."""
    reasons = {}
    if not platform.clocks:
        reasons[Fault.CLOCK] = "no C compiler for a clock of their own"
    if not platform.disks:
        reasons[Fault.FULL] = "no tmpfs can be mounted without root"
    return reasons


def _on(process: psutil.Process, node_home: str, platform: Platform) -> bool:
    with suppress(OSError):
        return os.fsencode(platform.home / node_home) in Path(f"/proc/{process.pid}/environ").read_bytes()
    return False


def _shims(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if len(words) > 4 and words[3].endswith("shim.py") and words[4].startswith(f"{home}/"):
                yield process


def _lock(file: Path, seconds: float) -> str:
    with sqlite.connect(file, timeout=5.0, isolation_level=None) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite.OperationalError as error:
            return f"not locked: {error}"
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    connection.close()
    return "locked"


def _fill(disk: Path, seconds: float) -> str:
    """Take away all free space. Writers meet ENOSPC, as on a disk that others filled."""
    for _ in range(10):
        total = os.statvfs(disk)
        used = (total.f_blocks - total.f_bfree) * total.f_frsize
        try:
            resize(disk, str(used))
        except subprocess.CalledProcessError:
            continue  # it has grown since
        break
    else:
        return ""
    time.sleep(seconds)
    resize(disk, f"{DISK_MIB}m")
    return "filled"

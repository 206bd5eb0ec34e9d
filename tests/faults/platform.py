"""A whole platform to break: the stack of `aios up` in a temporary home, two nodes, and a link wherever parts speak."""

import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aios.client import AsyncClient, resolve
from aios.stack import control
from aios.stack.child import State
from aios.stack.layout import Layout
from aios.stack.state import StackState
from tests.faults.links import Link
from tests.faults.supervisor import SECOND

REPOSITORY = Path(__file__).parents[2]
LEASE_SECONDS = 4.0
START_SECONDS = 120.0
PYTHON_SERVICES = ("scheduler", "data", "trainer", "inference", "gateway")
LINKS: dict[str, tuple[str, str, frozenset[str]]] = {
    # name: whose port is behind it, the setting that names it, who dials it (empty: everyone else)
    "agent-scheduler": ("scheduler", "AIOS_SCHEDULER_ADDRESS", frozenset({"agent"})),
    "agent-b-scheduler": ("scheduler", "AIOS_SCHEDULER_ADDRESS", frozenset({SECOND})),
    "scheduler": (
        "scheduler",
        "AIOS_SCHEDULER_ADDRESS",
        frozenset({"data", "trainer", "inference", "gateway"}),
    ),
    "data": ("data", "AIOS_DATA_ADDRESS", frozenset()),
    "trainer": ("trainer", "AIOS_TRAINER_ADDRESS", frozenset()),
    "inference": ("inference", "AIOS_INFERENCE_ADDRESS", frozenset()),
    "gateway": ("gateway", "AIOS_GATEWAY_ADDRESS", frozenset()),
    "nats": ("nats", "AIOS_NATS_URL", frozenset()),
    "s3": ("s3", "AIOS_S3_ENDPOINT", frozenset()),
}
DIALLERS = (*PYTHON_SERVICES, "agent", SECOND)
SCHEMES = {"AIOS_NATS_URL": "nats://", "AIOS_S3_ENDPOINT": "http://"}
DISKS = ("records", "nats", "s3", "agent")
"""Folders that lie on a tmpfs of their own, where this process may mount one."""
CLOCKS = (*PYTHON_SERVICES, "agent", SECOND)
"""Processes whose wall clock can be set, each by a file of its name, where there is a C compiler."""
DISK_MIB = 8192
"""Room that the servers plan with. It costs no memory until used; a full disk is this one made as small as its content."""


@dataclass
class Platform:
    """What is broken, and what is asked whether it still holds."""

    home: Path
    links: dict[str, Link] = field(default_factory=dict)
    disks: frozenset[str] = frozenset()
    """Those that are a tmpfs of their own."""
    clocks: Path | None = None
    """What gives processes a clock that can be set, where it could be built."""
    supervisor: subprocess.Popen[bytes] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    @property
    def state(self) -> StackState:
        return control.status(self.layout)

    @property
    def effects(self) -> Path:
        """Where jobs leave what they did."""
        return self.home / "effects"

    def client(self) -> AsyncClient:
        """A client of the public door, as its operator."""
        token = (self.layout.secrets / "operator.token").read_text().strip()
        return AsyncClient(credentials=resolve(self.state.address, token, "default", env={}))

    def pid(self, service: str) -> int:
        """Of a service that runs now; 0 while it does not."""
        if service == "supervisor":
            return self.state.pid
        one = self.state.services.get(service)
        return one.pid if one else 0

    def set_clock(self, service: str, seconds: int) -> None:
        """Have a process' wall clock be wrong by so much, from now on."""
        with self._clock(service).open("r+b") as file:
            file.write(struct.pack("<q", seconds))

    def _clock(self, service: str) -> Path:
        return self.home / f"{service}.clock"

    def start(self) -> None:
        """Start a supervisor. Does not wait."""
        dials: dict[str, dict[str, str]] = {name: {} for name in DIALLERS}
        for link, (server, variable, by) in LINKS.items():
            for dialler in by or [name for name in DIALLERS if name != server]:
                dials[dialler][variable] = f"{SCHEMES.get(variable, '')}127.0.0.1:{self.links[link].port}"
        if self.clocks:
            for name in CLOCKS:
                self._clock(name).write_bytes(struct.pack("<q", 0))
                dials[name] |= {
                    "LD_PRELOAD": str(self.clocks),
                    "AIOS_TEST_CLOCK": str(self._clock(name)),
                }
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        own = {
            "AIOS_HOME": str(self.home),
            "AIOS_NODE": "a",
            # Two nodes share this machine; what they offer is theirs to say.
            "AIOS_NODE_CPU_MILLIS": "4000",
            "AIOS_NODE_MEMORY_BYTES": str(4 << 30),
            "AIOS_LEASE_SECONDS": str(LEASE_SECONDS),
            "AIOS_TRITON_HOME": str(triton_home()),
            "AIOS_SANDBOX_WRITABLE": str(self.effects),
            "AIOS_TEST_DIALS": json.dumps(dials),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        with self.layout.log("supervisor").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.supervisor"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env | own,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    async def until_ready(self, seconds: float = START_SECONDS) -> float:
        """Wait until every service answers. Returns how long that took."""
        assert self.supervisor is not None
        began = time.monotonic()
        # What an earlier supervisor wrote is still there for a moment.
        while not ((state := self.state).ready and state.pid == self.supervisor.pid):
            if time.monotonic() - began > seconds:
                late = [
                    f"{n}: {s.state} {s.message}"
                    for n, s in self.state.services.items()
                    if s.state != State.READY
                ]
                raise AssertionError(f"not ready after {seconds:g} s: {late or 'no supervisor'}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    def attempts(self) -> Iterator[tuple[psutil.Process, str, int]]:
        """Every process that belongs to an attempt on either node, with its job and epoch."""
        scratch = re.compile(
            rb"(?:^|\0)TMPDIR="
            + re.escape(os.fsencode(self.home))
            + rb"/[^\0]*/([^/.]+)\.([^/]+)\.(\d+)/scratch\0"
        )
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                found = scratch.search(Path(f"/proc/{process.pid}/environ").read_bytes())
                if found:
                    project, job, epoch = (part.decode() for part in found.groups())
                    yield process, f"projects/{project}/jobs/{job}", int(epoch)

    def stop(self) -> None:
        """End everything, however broken it is."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(60)
            self.supervisor.kill()
            self.supervisor.wait()
        for process, _, _ in self.attempts():
            with suppress(psutil.Error):
                process.kill()


def built_clock(folder: Path) -> Path | None:
    """The library that gives a process another clock; None where nothing compiles it."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return library if done.returncode == 0 else None


def triton_home() -> Path:
    """One installation for all runs: unpacking it is not what is tested."""
    return Path(sys.prefix, "share", "aios", "triton-of-tests")


@asynccontextmanager
async def running_platform(home: Path, *, own_disks: bool = True) -> AsyncIterator[Platform]:
    """A platform that answers. Whatever it started is gone at the end.

    Args:
        own_disks: Whether its folders get file systems of their own, which can be filled.
    """
    platform = Platform(home)
    platform.layout.make()
    platform.effects.mkdir(exist_ok=True)
    platform.clocks = built_clock(home)
    async with AsyncExitStack() as stack:
        if own_disks:
            platform.disks = frozenset(name for name in DISKS if _mount(home / name))
            stack.push(lambda error, *_: _unmount([home / name for name in platform.disks], keep=bool(error)))
        for name, (server, _, _) in LINKS.items():
            link = Link(name, lambda server=server: platform.state.ports.get(server, 0))  # type: ignore[misc]
            await link.open()
            stack.push_async_callback(link.close)
            platform.links[name] = link
        stack.push_async_callback(asyncio.to_thread, platform.stop)
        platform.start()
        await platform.until_ready()
        yield platform


@asynccontextmanager
async def temporary_platform() -> AsyncIterator[Platform]:
    """A platform in a folder that is removed afterwards, unless something went wrong."""
    home = Path(tempfile.mkdtemp(prefix="aios-faults-"))
    async with running_platform(home) as platform:
        yield platform
    shutil.rmtree(home, ignore_errors=True)


def resize(disk: Path, size: str) -> None:
    """Give a mounted tmpfs another size, as `mount` takes it. Never below what it holds."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True, capture_output=True)


def _mount(path: Path) -> bool:
    path.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "aios-faults", str(path)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(disks: list[Path], *, keep: bool) -> None:
    for disk in disks:
        if keep:  # something went wrong: what they hold may say what
            shutil.copytree(disk, disk.with_name(f"{disk.name}-kept"), ignore_dangling_symlinks=True)
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)

"""`python -m tests.faults.power_cut [--count N]`: cut the power under load, and look for what was acknowledged.

The platform's home lies in an ext4 image behind a loop device with direct I/O, so that the image file holds what a disk
would: what the file system has written out, and none of what is only in memory. At the cut, every process is stopped,
the image is copied, all is killed, and a fresh platform starts from the copy. Needs root and a loop device.

The copy takes a moment in which the kernel may still write on: a loss is confirmed by playing its seed again.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nats
import psutil

from aios.records.dialect import sqlite
from aios.scheduler.v1 import job_pb2
from tests.faults.breaks import Breaker
from tests.faults.checks import FINAL, RECORDS, Checker
from tests.faults.load import Load, cancelled
from tests.faults.platform import Platform, running_platform

IMAGE_BYTES = 3 << 30
LOAD_SECONDS = (4.0, 10.0)
KEPT = Path("build/faults")
"""Where logs of what went wrong are kept."""


@dataclass
class Disk:
    """An image file, and where it is mounted."""

    image: Path
    mounted: Path
    device: str = ""

    def mount(self) -> None:
        """Attach the image with direct I/O and mount it."""
        found = _run("losetup", "--find", "--show", "--direct-io=on", str(self.image))
        self.device = found.strip()
        _run("mount", "-t", "ext4", self.device, str(self.mounted))

    def unmount(self) -> None:
        if self.device:
            subprocess.run(["umount", "--lazy", str(self.mounted)], check=False, capture_output=True)
            subprocess.run(["losetup", "--detach", self.device], check=False, capture_output=True)
            self.device = ""


def unfit() -> str:
    """Why power cannot be cut here; empty when it can."""
    if os.geteuid() != 0:
        return "mounting an image needs root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder), 64 << 20):
                return ""
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            said = getattr(error, "stderr", "") or str(error)
            return f"no loop device with direct I/O: {said.strip()}"


@contextmanager
def disk(folder: Path, size: int = IMAGE_BYTES) -> Iterator[Disk]:
    """A fresh file system in an image, mounted at `folder/home`."""
    made = Disk(folder / "image", folder / "home")
    made.mounted.mkdir()
    with made.image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", str(made.image))
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


async def cut(seed: int) -> list[str]:
    """One power cut. Returns what was acknowledged and is lost."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="aios-power-", dir="/var/tmp") as name, disk(Path(name)) as drive:
        async with running_platform(drive.mounted, own_disks=False) as platform:
            load = Load(platform, rng)
            load.submitting.set()
            working = asyncio.create_task(load.run())
            await asyncio.sleep(rng.uniform(*LOAD_SECONDS))
            with stopped(platform):
                copy = drive.image.with_name("copy")
                _run("cp", "--sparse=always", str(drive.image), str(copy))
                promised = Promised.of(load)
                kill(platform)
            await cancelled(working)
        drive.unmount()
        drive.image = copy
        drive.mount()
        async with running_platform(drive.mounted, own_disks=False) as platform:
            lost = ["the check did not come to its end"]
            try:
                lost = await promised.missing(platform)
            finally:
                if lost:
                    shutil.copytree(platform.layout.logs, KEPT / f"power-cut-{seed}", dirs_exist_ok=True)
            return lost


@dataclass(frozen=True)
class Promised:
    """What had been answered for when the power went."""

    load: Load

    @classmethod
    def of(cls, load: Load) -> "Promised":
        return cls(Load(load.platform, load.rng, dict(load.jobs), datasets=dict(load.datasets)))

    async def missing(self, platform: Platform) -> list[str]:
        """What a platform that starts from the disk does not have."""
        lost = []
        records = platform.home / "records"
        for service in RECORDS:
            with sqlite.connect(records / f"{service}.db", timeout=10.0) as connection:
                [[verdict]] = connection.execute("PRAGMA quick_check").fetchall()
            connection.close()
            if verdict != "ok":
                lost.append(f"{service}.db: {verdict}")
        lost += await published_and_gone(platform)
        load = Load(platform, self.load.rng, self.load.jobs, datasets=self.load.datasets)
        checker = Checker(platform, load, Breaker(platform))
        async with platform.client() as client:
            listed = {job.name: job.state async for job in client.jobs.list()}
            lost += [f"{name} was accepted and is gone" for name in load.jobs if name not in listed]
            lost += await checker.data(client)
            waiting = [name for name in load.jobs if name in listed and listed[name] not in FINAL]
            began = time.monotonic()
            while waiting and time.monotonic() - began < 120.0:
                await asyncio.sleep(0.5)
                listed = {job.name: job.state async for job in client.jobs.list()}
                waiting = [name for name in waiting if listed[name] not in FINAL]
            lost += [f"{name} is still {job_pb2.Job.State.Name(listed[name])}" for name in waiting]
        return lost


async def published_and_gone(platform: Platform) -> list[str]:
    """Events that the records hold for published, and that NATS does not have."""
    secret = json.loads((platform.layout.secrets / "nats.json").read_text())
    server = f"nats://127.0.0.1:{platform.state.ports['nats']}"
    connection = await nats.connect(server, user=secret["user"], password=secret["password"])
    kept = set()
    try:
        stream = connection.jetstream()
        last = (await stream.stream_info("AIOS_EVENTS")).state
        for sequence in range(last.first_seq, last.last_seq + 1):
            with suppress(nats.js.errors.NotFoundError):
                message = await stream.get_msg("AIOS_EVENTS", sequence)
                kept.add((message.headers or {}).get("Nats-Msg-Id", ""))
    finally:
        await connection.close()
    gone = []
    for service in RECORDS:
        file = platform.home / "records" / f"{service}.db"
        with sqlite.connect(f"file:{file}?mode=ro", uri=True, timeout=10.0) as records:
            query = "SELECT id, revision FROM events WHERE revision <= (SELECT published FROM feed)"
            rows = records.execute(query).fetchall()
        records.close()
        gone += [
            f"event {id_} ({service} {revision}) is not on the bus"
            for id_, revision in rows
            if id_ not in kept
        ]
    return gone


@contextmanager
def stopped(platform: Platform) -> Iterator[None]:
    """Nothing of the platform runs; nothing of it goes on afterwards unless it was killed."""
    processes = family(platform)
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.Error):
                process.resume()


def kill(platform: Platform) -> None:
    """End everything at once, without a chance to write."""
    for process in family(platform):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def family(platform: Platform) -> list[psutil.Process]:
    """Every process whose environment or command line names this home; the supervisor first, so that it restarts none."""
    found = []
    home = os.fsencode(platform.home)
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if process.pid != os.getpid() and any(
                home in Path(f"/proc/{process.pid}/{file}").read_bytes() for file in ("environ", "cmdline")
            ):
                found.append(process)
    supervisor = platform.state.pid
    return sorted(found, key=lambda process: process.pid != supervisor)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power_cut", description=__doc__)
    parser.add_argument("--count", type=int, default=1, help="cuts (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default 0)")
    arguments = parser.parse_args()
    if reason := unfit():
        print(f"power cannot be cut here: {reason}", file=sys.stderr)
        return
    lost = 0
    began = time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        gone = await cut(seed)
        lost += len(gone)
        print(f"seed {seed}: {len(gone)} lost", *gone[:20], sep="\n    ", file=sys.stderr, flush=True)
    figures = {"cuts": arguments.count, "took_seconds": round(time.monotonic() - began, 1)}
    bars = {"acknowledged_and_lost": {"value": lost, "bar": 0, "ok": lost == 0}}
    print(json.dumps({"bench": "power_cut", "figures": figures, "bars": bars}))
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    asyncio.run(main())

"""An attempt's directory: everything that must outlive the agent, in files written whole.

{root}/{project}.{job}.{epoch}[.{rank}]/ mode 0700; ids have no dots; with a rank where it is one of a gang
    assignment   AssignmentSpec, as signed        node        JSON: ports and devices the node chose
    launch lock started stop exit hosts           see shim.py
    log          stdout and stderr, as they come  token       the job's credential, 0600
    scratch/     the job's working directory
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.message import DecodeError

from aios.names import JobName
from aios.runtime.tokens import write_secret
from aios.scheduler.v1 import agent_service_pb2
from services.scheduler.agent import shim


class Directory:
    """One attempt on this machine, whatever process looks at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self.scratch = path / "scratch"

    @classmethod
    def make(cls, root: Path, assignment: agent_service_pb2.AssignmentSpec) -> "Directory":
        """Create it, empty but for the assignment."""
        name = JobName.parse(assignment.job)
        rank = f".{assignment.gang.rank}" if assignment.HasField("gang") else ""
        made = cls(root / f"{name.project}.{name.job}.{assignment.epoch}{rank}")
        made.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.path.chmod(0o700)
        made.log.touch(mode=0o600)
        _write(made.path / "assignment", assignment.SerializeToString())
        return made

    @classmethod
    def all(cls, root: Path) -> Iterator["Directory"]:
        """Those that hold an attempt. One left half-made, by a crash or a power cut, is removed: nothing runs in it."""
        for path in sorted(root.iterdir()) if root.exists() else []:
            found = cls(path)
            try:
                complete = bool(found.assignment().job)
                found.read("node"), found.read("started"), found.read("exit")
            except (OSError, ValueError, DecodeError):
                complete = False
            if complete:
                yield found
            else:
                found.remove()

    def assignment(self) -> agent_service_pb2.AssignmentSpec:
        return agent_service_pb2.AssignmentSpec.FromString((self.path / "assignment").read_bytes())

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Store one of the JSON files, whole."""
        _write(self.path / name, json.dumps(value).encode())

    def read(self, name: str) -> dict[str, Any] | None:
        """One of the JSON files, or None when it is not there."""
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write_token(self, secret: str) -> None:
        write_secret(self.path / "token", secret)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the shim. It belongs to no session and no group of ours."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},
                start_new_session=True,
            )

    def ask_to_stop(self, grace: timedelta, reason: str) -> None:
        """Have the shim end the command. Asking again can only shorten the grace."""
        deadline = time.monotonic() + grace.total_seconds()
        asked = self.read("stop") or {"deadline": deadline, "reason": reason}
        self.write("stop", {**asked, "deadline": min(deadline, asked["deadline"])})
        started = self.read("started")
        if started and self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(started["pid"], signal.SIGTERM)

    def is_alive(self) -> bool:
        """Whether a shim holds it. Ask only once `started` or `exit` is there, else a slow shim finds it taken."""
        with (self.path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False

    def declare_dead(self) -> bool:
        """End an attempt whose shim is gone, or never came: kill what it left and write the end in its place.

        Returns:
            False when a shim is alive after all.
        """
        with (self.path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            if not self.has("exit"):
                self._sweep()
                self.write(
                    "exit", {"exit_code": None, "end_reason": "SUPERVISOR_LOST", "end_time": time.time()}
                )
            return True

    def remove(self) -> None:
        """With the groups of one that never started: nothing runs in it any more."""
        with suppress(OSError, ValueError):
            self._dissolve()
        shutil.rmtree(self.path, ignore_errors=True)

    def _dissolve(self) -> None:
        bounds = (self.read("launch") or {}).get("bounds", {})
        shim.dissolve(bounds.get("groups", {}).get("paths", []))

    def _sweep(self) -> None:
        """Kill every process that was started here, known by the scratch directory in its environment.

        A model server is given little of its job's environment, but always where its temporary files go.
        """
        self._dissolve()
        marks = {f"AIOS_SCRATCH={self.scratch}".encode(), f"TMPDIR={self.scratch}".encode()}
        while found := [pid for pid in psutil.pids() if marks.intersection(_environment_of(pid))]:
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(shim.REAP_SECONDS)


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _write(path: Path, content: bytes) -> None:
    """Whole, but not durable: what a power cut takes, it takes together with the processes."""
    scratch = path.with_name(f".{path.name}")
    scratch.write_bytes(content)
    scratch.rename(path)

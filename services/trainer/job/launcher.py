"""A command as processes: one, or the ranks of a distributed training on this machine, started as torchrun does.

Unlike torchrun's agent this one imports no framework and gives up at once: what dies or hangs ends the attempt within
seconds, and the run goes on from its checkpoint in a fresh one.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from aios.train.ranks import BEATS, STEP
from services.trainer.job.gang import Gang

HOST = "127.0.0.1"
LOOK_SECONDS = 1.0  # between looks whether a rank hangs
STILL_SECONDS = 5.0
"""A rank that shows no life for so long is looked at, and hangs if it then uses no processor for as long again: it was
stopped, or waits for ever with the interpreter's lock. One that holds the lock in a long computation does use it."""
STILL_SHARE = 0.05
"""Of a core: less is no use of it."""
HUNG = 124
"""Exit code of a command of which a rank hung, as `timeout` has it."""


@dataclass(frozen=True)
class Plan:
    """How often to start a command, and how long to wait for a sign of its training."""

    processes: int = 0
    """0 is one process that is told nothing of ranks."""
    hang_seconds: float = 0.0
    cores: float = 1.0
    still_seconds: float = STILL_SECONDS
    gang: Gang | None = None
    """Where these are some of the ranks and other machines have the others."""

    @property
    def first_rank(self) -> int:
        """Of the processes here."""
        return self.gang.rank * self.processes if self.gang else 0


class Processes:
    """The processes of a command. They end together: with the first that fails, or when all are done."""

    def __init__(
        self, command: Sequence[str], code: Path, environment: Mapping[str, str], plan: Plan, folder: Path
    ) -> None:
        """Start them.

        Args:
            folder: For the signs that ranks give of themselves.

        Raises:
            OSError: the program cannot be started.
        """
        self._plan = plan
        self._beats = folder
        self._looked = time.monotonic()
        self._silent: dict[int, tuple[float, float]] = {}
        self._asked = False
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        try:
            for more in _ranks(plan, folder):
                self._processes.append(
                    subprocess.Popen(
                        list(command),
                        cwd=code,
                        env={**environment, **more},
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,  # a signal to this process is not also one to the command
                    )
                )
        except OSError:
            self.kill()
            raise

    @property
    def leaders(self) -> list[int]:
        return [process.pid for process in self._processes]

    def poll(self) -> int | None:
        """None while they run; else 0, or the status of the first that failed."""
        statuses = [process.poll() for process in self._processes]
        for rank, status in enumerate(statuses, self._plan.first_rank):
            if status is not None and status != 0 and not self._leaving(statuses):
                if len(statuses) > 1 or self._plan.gang:
                    print(f"aios: rank {rank} ended with {status}", file=sys.stderr, flush=True)
                return status
        if None not in statuses:
            return next((status for status in statuses if status), 0)
        return HUNG if self._hung(statuses) else None

    def ask(self) -> None:
        """SIGTERM to every one and what it started."""
        self._asked = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every one, and to what it started and did not wait for: nothing writes to their folders any more."""
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def _leaving(self, statuses: Sequence[int | None]) -> bool:
        """They were asked to, and each leaves in its own time; the node's grace ends those that do not."""
        return self._asked and None in statuses

    def _signal(self, number: int) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def _hung(self, statuses: Sequence[int | None]) -> bool:
        now = time.monotonic()
        if self._plan.processes == 0 or now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        for rank, (process, status) in enumerate(
            zip(self._processes, statuses, strict=True), self._plan.first_rank
        ):
            if status is None and (why := self._problem(rank, process.pid, now)):
                print(f"aios: rank {rank} hangs: {why}", file=sys.stderr, flush=True)
                return True
        return False

    def _problem(self, rank: int, pid: int, now: float) -> str:
        """What is wrong with a rank. One that has never given a sign may be of any framework: nothing is known of it."""
        still = self._plan.still_seconds
        age = _age(self._beats / str(rank))
        used = _processor_seconds(pid)
        if age is None or age < still or used is None:
            self._silent.pop(rank, None)
        else:
            since, before = self._silent.setdefault(rank, (now, used))
            if now - since > still:
                if used - before < STILL_SHARE * (now - since):
                    return f"no sign of life for {age:.0f} s"
                self._silent[rank] = now, used
        untrained = _age(self._beats / f"{rank}{STEP}")
        if self._plan.hang_seconds and untrained is not None and untrained > self._plan.hang_seconds:
            return f"no step for {untrained:.0f} s"
        return ""


def _ranks(plan: Plan, beats: Path) -> list[dict[str, str]]:
    """What torchrun tells each rank."""
    if plan.processes == 0:
        return [{}]
    gang = plan.gang or Gang(0, 1, HOST, _free_port())
    world = str(plan.processes * gang.replicas)
    common = {
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": str(plan.processes),
        "GROUP_RANK": str(gang.rank),
        "GROUP_WORLD_SIZE": str(gang.replicas),
        "ROLE_NAME": "default",
        "ROLE_WORLD_SIZE": world,
        "MASTER_ADDR": gang.host,
        "MASTER_PORT": str(gang.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "aios",
        "OMP_NUM_THREADS": str(max(1, int(plan.cores / plan.processes))),
        **({"GLOO_SOCKET_IFNAME": "lo"} if gang.host.startswith("127.") else {}),
        BEATS: str(beats),
    }
    first = plan.first_rank
    return [
        {**common, "RANK": str(first + local), "LOCAL_RANK": str(local), "ROLE_RANK": str(first + local)}
        for local in range(plan.processes)
    ]


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _age(path: Path) -> float | None:
    """Seconds since the file was touched; None where it is not there. By the wall clock, and never negative."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _processor_seconds(pid: int) -> float | None:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)

"""A whole stack as a person has it: `aios up` in a home of its own, commands typed, clients from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from aios.client import Client
from aios.client.credentials import Credentials
from aios.stack import state
from aios.stack.child import State
from aios.stack.state import StackState
from tests.servers import binary

COMMAND_SECONDS = 120.0
READY_SECONDS = 60.0
"""For what takes a few seconds on an idle machine."""
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Stack:
    """One home and what runs in it."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def up(self) -> float:
        """`aios up`; returns the seconds until everything answered."""
        began = time.monotonic()
        self.aios("up")
        return time.monotonic() - began

    def aios(self, *arguments: object, code: int | None = 0, cwd: Path | None = None) -> Outcome:
        """Run a command. Its exit code is asserted unless `code` is None."""
        command = [binary("aios"), *map(str, arguments)]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"{command} ended with {done.returncode}:\n{done.stderr}"
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: object, cwd: Path | None = None) -> Any:
        """Run a command with `--json`, and read what it printed."""
        noun, verb, *rest = arguments
        return self.aios(noun, verb, "--json", *rest, cwd=cwd).json

    @cached_property
    def environment(self) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        return {
            **outer,
            "AIOS_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            **self.variables,
        }

    @property
    def state(self) -> StackState:
        """What the supervisor says of its processes."""
        return state.read(self.home / "stack.json")

    @property
    def address(self) -> str:
        return self.state.address

    @property
    def target(self) -> str:
        """The public door as gRPC clients name it."""
        return self.address.removeprefix("http://")

    def service_target(self, service: str) -> str:
        """A service's own gRPC port, behind the door."""
        return f"127.0.0.1:{self.state.ports[service]}"

    @property
    def token(self) -> str:
        """The operator's."""
        return (self.home / "secrets" / "operator.token").read_text().strip()

    def bearer(self, token: str = "") -> dict[str, str]:
        return {"authorization": f"Bearer {token or self.token}"}

    def client(self, project: str = "default", token: str = "") -> Client:
        """The public Python client."""
        return Client(credentials=Credentials(self.address, project, token or self.token))

    def http(self, token: str = "") -> httpx.Client:
        """A plain HTTP client with a token."""
        return httpx.Client(
            base_url=self.address, headers=self.bearer(token), trust_env=False, timeout=READY_SECONDS
        )

    def kill(self, service: str) -> None:
        """kill -9 the process that the supervisor started. One that is between two is waited for: 0 would be us."""
        os.kill(eventually(lambda: self.state.services[service].pid, f"{service} runs"), signal.SIGKILL)

    def kill_and_wait(self, service: str) -> float:
        """kill -9, and wait until the supervisor has it ready again. Returns how many seconds that took."""
        before = self.state.services[service]
        began = time.monotonic()
        self.kill(service)

        def back() -> bool:
            now = self.state.services[service]
            return now.restarts > before.restarts and now.pid != before.pid and now.state is State.READY

        eventually(back, f"{service} runs again")
        return time.monotonic() - began

    def processes(self) -> list[psutil.Process]:
        """Everything on this machine that belongs to this home, started by whomever."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def running(self, words: str, job: str = "") -> list[psutil.Process]:
        """Those of our processes whose command line holds `words`; of one job, by its id, where given."""
        found = []
        for process in self.processes():
            try:
                fits = words in " ".join(process.cmdline())
                if fits and (not job or process.environ().get("AIOS_JOB", "").endswith(f"/jobs/{job}")):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        home = str(self.home)
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return (
                process.environ().get("AIOS_HOME") == home
                or process.cwd().startswith(home)
                or any(part.startswith(home) for part in process.cmdline())
            )
        except psutil.Error:
            return False


def eventually(ask: Callable[[], T], what: str, seconds: float = READY_SECONDS, pause: float = 0.1) -> T:
    """The first true answer. What raises an OSError or an error of a client is asked again too."""
    until = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            last = ask()
            if last:
                return last
        except (OSError, httpx.HTTPError) as error:
            last = error
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}; last seen: {last!r}"
        time.sleep(pause)


@contextmanager
def stack(home: Path, variables: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A running stack; when the block ends it is taken down and nothing of it may be left."""
    one = Stack(home, variables or {})
    seconds = one.up()
    print(f"\nready after {seconds:.1f} s in {home}", file=sys.stderr)
    try:
        yield one
    finally:
        segments = shared_memory(one.running("tritonserver"))
        one.aios("down")
    left = [f"{process.pid} {' '.join(process.cmdline())[:200]}" for process in one.processes()]
    assert not left, "still running after `aios down`:\n" + "\n".join(left)
    assert not [path for prefix in segments for path in Path("/dev/shm").glob(f"{prefix}*")]


def shared_memory(servers: Sequence[psutil.Process]) -> list[str]:
    """The prefixes that model servers were told to give their shared memory."""
    marker = "shm-region-prefix-name="
    arguments = [argument for server in servers for argument in server.cmdline()]
    return [argument.partition(marker)[2] for argument in arguments if marker in argument]

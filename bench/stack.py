"""A whole stack in a home of its own, started and stopped by the commands that people type."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aios.client import AsyncClient, resolve
from aios.runtime.tokens import write_secret
from aios.stack import control
from aios.stack.layout import Layout
from aios.stack.ports import USUAL_PORTS
from aios.stack.state import StackState, to_json
from tests.servers import free_port

COMMAND_SECONDS = 150.0
AIOS = (sys.executable, "-m", "aios.cli")


@dataclass(frozen=True)
class Stack:
    """One home and what runs in it."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    """Settings that differ from the usual."""

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    @property
    def state(self) -> StackState:
        """What its supervisor knows now."""
        return control.status(self.layout)

    @property
    def token(self) -> str:
        """The operator's: it may do everything."""
        return (self.layout.secrets / "operator.token").read_text().strip()

    def client(self) -> AsyncClient:
        """A client of this stack, whatever the caller's environment names."""
        return AsyncClient(credentials=resolve(self.state.address, self.token, "default", env={}))

    def up(self) -> float:
        """Run `aios up`. Returns the seconds that a person waited."""
        return self._run("up")

    def down(self) -> float:
        """Run `aios down`. Returns the seconds that a person waited."""
        return self._run("down")

    def _run(self, command: str) -> float:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        began = time.monotonic()
        done = subprocess.run(
            [*AIOS, command],
            env={**env, **self.variables, "AIOS_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"`aios {command}` ended with {done.returncode}:\n{done.stderr}{done.stdout}")
        return time.monotonic() - began


@contextmanager
def fresh(**variables: str) -> Iterator[Stack]:
    """A home that nothing was ever in, not started; whatever runs there at the end is stopped.

    It keeps off the usual ports, so that it never takes them from another stack of this machine.
    """
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        stack = Stack(Path(home), variables)
        remembered = StackState(ports={name: free_port() for name in USUAL_PORTS})
        write_secret(stack.layout.state, to_json(remembered))
        # A benchmark that is told to end leaves nothing running either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield stack
        finally:
            stack.down()


@contextmanager
def running(**variables: str) -> Iterator[Stack]:
    """A fresh stack that answers, its one-time preparations done, with settings that differ from the usual."""
    with fresh(**variables) as stack:
        stack.up()
        settle(stack)
        yield stack


def settle(stack: Stack, seconds: float = 60.0) -> None:
    """Wait until the server for replicas is unpacked: a task that would disturb what is measured."""
    until = time.monotonic() + seconds
    while stack.state.services["triton"].state == "starting" and time.monotonic() < until:
        time.sleep(0.1)

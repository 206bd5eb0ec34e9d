"""One `tritonserver` process and everything below it: started, watched, and always ended whole."""

import asyncio
import contextlib
import ctypes
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from aios.errors import FailedPrecondition
from services.inference.replica.triton import Triton

LIFELINE = "AIOS_LIFELINE_FD"
"""Tells `model.py` the read end of a pipe whose write end only we hold, and the prefix of its shared memory.

When we are killed, the model's process removes the one and ends itself: Triton's would stay.
"""

LOOPBACK = "127.0.0.1"
LINES_KEPT_MAX = 50
"""Last lines of the server's output, for the reason of a failed start."""

LINE_BYTES_MAX = 1 << 16
STOP_SECONDS = 5.0
"""For requests under way. Triton 2.51 may hang on shutdown, so SIGKILL follows."""

CLOSED = "model-repository,shared-memory,trace,logging"
"""Triton's own administration. We load the one model; nobody else may call these."""

KEY_HEADER = "aios-closed"
LISTEN_POLL_SECONDS = 0.01

NO_GPU = ("CudaDriverHelper has not been initialized", "Unable to allocate pinned", "no pinned memory pool")
"""What every server says on a machine without a GPU, as errors and warnings. Left out of the log."""

FORWARDED_HEADERS = "(traceparent|tracestate)"
_ERROR = re.compile(r'^E\d{4} .*?\] (".*"|.*)$')
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StartFailed(FailedPrecondition):
    """Triton could not load the model, or it never answered."""

    reason = "MODEL_LOAD_FAILED"


@dataclass(frozen=True)
class Ports:
    """Where the server listens: its metrics on loopback, the doors at the address that its node has in the pool."""

    http: int
    grpc: int
    metrics: int
    host: str = LOOPBACK


class Server:
    """A running Triton server. Make one with `start`; `stop` leaves no process behind."""

    def __init__(self, process: Process, lifeline: int, shared_memory: str, door: str, key: str) -> None:
        self._process = process
        self._door = door
        self._key = key
        self._lifeline = lifeline
        self._shared_memory = shared_memory
        self._lines: deque[str] = deque(maxlen=LINES_KEPT_MAX)
        self._output = asyncio.create_task(self._pass_on_output(), name="triton output")

    @classmethod
    async def start(
        cls, triton: Triton, repository: Path, ports: Ports, environment: Mapping[str, str]
    ) -> "Server":
        """Start the server without a model: it comes up while the model's files are still on their way."""
        shared_memory, key = f"aios-{secrets.token_hex(6)}-", secrets.token_hex(16)
        lifeline, held = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                triton.server,
                *arguments(triton, repository, ports, shared_memory, key),
                env={**environment, LIFELINE: f"{lifeline}:/dev/shm/{shared_memory}"},
                cwd=repository.parent,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LINE_BYTES_MAX,
                pass_fds=[lifeline],
                process_group=0,
                # One system call, no lock and no allocation: safe after a fork in a threaded process.
                preexec_fn=die_with_parent,
            )
        finally:
            os.close(lifeline)
        return cls(process, held, shared_memory, f"http://{ports.host}:{ports.http}", key)

    @property
    def pid(self) -> int:
        """Of the server; also its process group."""
        return self._process.pid

    async def load(self, model: str, seconds: float) -> None:
        """Load a model of the repository, warm-up included, as soon as the server listens.

        Raises:
            StartFailed: it cannot be loaded, or not within that time.
        """
        # Plain HTTP: without `verify=False` 0.1 s goes into loading certificates.
        async with httpx.AsyncClient(
            base_url=self._door,
            trust_env=False,
            verify=False,  # noqa: S501
            timeout=seconds,
        ) as http:
            answer = None
            while answer is None:
                try:
                    answer = await http.post(
                        f"/v2/repository/models/{model}/load", headers={KEY_HEADER: self._key}
                    )
                except httpx.TransportError as error:
                    if not isinstance(error, httpx.ConnectError):  # it ended on the way, or is too slow
                        raise StartFailed(f"the server did not load it: {self.reason()}") from error
                    if self._process.returncode is not None:
                        await self.wait()
                        raise StartFailed(f"the server ended: {self.reason()}") from None
                    await asyncio.sleep(LISTEN_POLL_SECONDS)
        if answer.status_code != httpx.codes.OK:
            raise StartFailed(f"Triton could not load the model: {_said(answer)}")

    async def wait(self) -> int:
        """Exit code of the server, once it has ended by itself and its last words are read."""
        code = await self._process.wait()
        await asyncio.wait([self._output], timeout=1)  # a stub left behind keeps the pipe open
        return code

    async def child_ended(self) -> None:
        """Return once a process below the server has ended, such as the model's own.

        Triton neither notices nor repairs that, and a probe finds it seconds later. Never returns where
        there are no such processes.
        """
        ended = asyncio.Event()
        with contextlib.ExitStack() as watched:
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(ProcessLookupError):
                    descriptor = os.pidfd_open(child.pid)
                    watched.callback(os.close, descriptor)
                    loop = asyncio.get_running_loop()
                    loop.add_reader(descriptor, ended.set)
                    watched.callback(loop.remove_reader, descriptor)
            await ended.wait()

    def reason(self) -> str:
        """The last error that the server wrote, else its last line."""
        errors = [match[1].strip('"') for line in self._lines if (match := _ERROR.match(line))]
        return (errors or list(self._lines) or ["it wrote nothing"])[-1]

    async def stop(self, grace: float) -> None:
        """End the server within `grace` seconds, then kill what is left of its process group. Once."""
        if self._process.returncode is None and grace:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace)
        with contextlib.suppress(ProcessLookupError):
            # The group outlives its leader: a stub left behind ignores SIGTERM.
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        await self._output
        os.close(self._lifeline)
        for left in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # noqa: S108  # what SIGKILL leaves
            left.unlink(missing_ok=True)

    async def _pass_on_output(self) -> None:
        """Copy the server's output to ours, which is the job's log."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than LINE_BYTES_MAX: the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="backslashreplace").rstrip()
            if any(words in text for words in NO_GPU):
                continue
            self._lines.append(text)
            print(text, file=sys.stderr, flush=True)


def arguments(triton: Triton, repository: Path, ports: Ports, shared_memory: str, key: str) -> list[str]:
    """The server's command line. `key` opens its administration: nobody else is told."""
    closed = f"{CLOSED}:{KEY_HEADER}={key}"
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        f"--backend-directory={triton.backends}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        f"--http-address={ports.host}",
        f"--grpc-address={ports.host}",
        f"--metrics-address={LOOPBACK}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={closed}",
        f"--grpc-restricted-protocol={closed}",
        f"--http-header-forward-pattern={FORWARDED_HEADERS}",
        f"--grpc-header-forward-pattern={FORWARDED_HEADERS}",
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={int(STOP_SECONDS)}",
        "--log-info=false",
    ]


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]).strip()
    except (ValueError, LookupError, TypeError):
        return f"HTTP {answer.status_code}"


def die_with_parent() -> None:
    """For a child, before it becomes its program: SIGKILL when we end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

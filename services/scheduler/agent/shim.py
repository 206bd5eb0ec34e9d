"""The parent of one attempt's processes: starts the command, obeys `stop` and `lease`, writes `exit`, leaves nothing.

    python -I -S shim.py DIRECTORY

Every attempt has its own shim, in a session of its own, so that a job survives the agent. It imports the standard
library alone and no package: it must start in milliseconds. It talks to the agent through files in DIRECTORY, each
written whole; signals only wake it early:

    launch   (read)     JSON: command, environment, directory, nice, fenced, lease; sandbox, doors and bounds
    lock     (held)     an exclusive flock for as long as this process lives: free means dead
    started  (written)  JSON: pid of this process, start_time. The command runs
    stop     (read)     JSON: deadline, reason. SIGTERM to the command's group at once, SIGKILL to all at the deadline
    exit     (written)  JSON: exit_code, end_reason, start_time, end_time. Every process is gone. Durable

Deadlines are on the monotonic clock, which all processes of a machine share. `lease` is a file that the agent renews.
When it passes, a fenced attempt is killed: its node may have been given up, and another may be running the job.

With a sandbox the command is started by bubblewrap and inside.py, and relay.py serves its doors. With groups the kernel
keeps the bounds; without, this process measures, and ends an attempt that has passed one.
"""

# Importing pathlib would take as long as all the rest; running a program is the point.
# ruff: noqa: PTH100, PTH104, PTH106, PTH110, PTH123, PTH208

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import sys
import time
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))  # nothing else is on it

from services.scheduler.agent import meter
from services.scheduler.agent.start import Job, start

DISK_SECONDS = 0.5  # between looks whether there is room again
POLL_SECONDS = 0.5  # how late a passed lease, a passed bound or a missed signal is seen
REAP_SECONDS = 0.01

_PR_SET_CHILD_SUBREAPER = 36
_WAKES = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(directory: str) -> int:
    """Run one attempt to its very end."""
    os.chdir(directory)
    if not _lock():
        return 1
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans of the command come to us and not to init, however often they fork.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKES)
    with open("launch") as file:
        launch = json.load(file)
    started = time.time()
    job = start(launch, libc)
    if job.problem:
        _leave_nothing(launch)
        _end(*job.never_started(), started)
        return 0
    with open(".started", "w") as file:
        json.dump({"pid": os.getpid(), "start_time": started}, file)
    os.rename(".started", "started")
    status, reason = _watch(job, launch)
    if not reason and status != 0:
        reason = meter.passed(launch, [])
        meter.say(reason, launch)
    _leave_nothing(launch)
    _end(_exit_code(status), reason, started)
    return 0


def _lock() -> bool:
    """Hold the attempt. False when another shim has it, or when it was declared dead before we came."""
    descriptor = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return not os.path.exists("exit")


def _watch(job: Job, launch: dict[str, Any]) -> tuple[int, str]:
    """Wait for the command to end, and end it when told to. Returns its wait status, and the reason if not its own."""
    reason, termed = "", False
    kill_at: float | None = None
    while True:
        status = _reap(job.child)
        if status is not None:
            return status, reason
        stop = _read("stop")
        if stop is not None:
            kill_at = stop["deadline"] if kill_at is None else min(kill_at, stop["deadline"])
            reason = reason or stop["reason"]
            if not termed:
                termed = True
                _signal_group(job.group, signal.SIGTERM)
        if launch["fenced"] and _lease_is_over(launch["lease"]):
            reason, kill_at = "LEASE_EXPIRED", time.monotonic()
        elif passed := meter.passed(launch, [] if meter.groups(launch) else _descendants()):
            meter.say(passed, launch)
            reason, kill_at = reason or passed, time.monotonic()
        if kill_at is not None and time.monotonic() >= kill_at:
            _kill_all(launch)
        wait = (
            POLL_SECONDS
            if kill_at is None
            else max(REAP_SECONDS, min(POLL_SECONDS, kill_at - time.monotonic()))
        )
        signal.sigtimedwait(_WAKES, wait)


def _reap(child: int | None) -> int | None:
    """Collect every process that has ended. The command's status once it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _leave_nothing(launch: dict[str, Any]) -> None:
    """Kill and collect until no descendant is left, nor its group."""
    while _descendants():
        _kill_all(launch)
        _reap(None)
        time.sleep(REAP_SECONDS)
    dissolve(meter.groups(launch))


def dissolve(groups: list[str]) -> None:
    """Kill whatever is in these groups, and remove them."""
    for group in groups:
        while os.path.exists(group):
            _kill(_members(group))
            with contextlib.suppress(OSError):  # the last of them is on its way out
                os.rmdir(group)
                break
            time.sleep(REAP_SECONDS)


def _kill_all(launch: dict[str, Any]) -> None:
    # By group first: who forks faster than we look is in it all the same.
    for group in meter.groups(launch):
        _kill(_members(group))
    _kill(_descendants())


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _members(group: str) -> list[int]:
    try:
        with open(f"{group}/cgroup.procs") as file:
            return [int(line) for line in file]
    except OSError:
        return []


def _descendants() -> list[int]:
    children_of: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            children_of.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    look_at = [os.getpid()]
    while look_at:
        children = children_of.get(look_at.pop(), [])
        found += children
        look_at += children
    return found


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _lease_is_over(path: str) -> bool:
    try:
        with open(path) as file:
            return time.monotonic() > float(file.read())
    except (OSError, ValueError):
        return False  # no word is no order to kill


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _end(exit_code: int | None, reason: str, started: float) -> None:
    """Write the end, however long the disk stays full: hours of work may hang on these bytes."""
    end = {"exit_code": exit_code, "end_reason": reason, "start_time": started, "end_time": time.time()}
    while True:
        try:
            with open(".exit", "w") as file:
                json.dump(end, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(".exit", "exit")
            break
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(DISK_SECONDS)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _read(name: str) -> dict[str, Any] | None:
    try:
        with open(name) as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

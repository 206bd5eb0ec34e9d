"""Up, down and status, from another process: the lock says whether a supervisor lives, `stack.json` what it knows."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from aios.errors import DeadlineExceeded, FailedPrecondition
from aios.stack import state
from aios.stack.child import State, start_ticks
from aios.stack.layout import Layout
from aios.stack.state import StackState

POLL_SECONDS = 0.1
DOWN_SECONDS = 90.0
"""The sum of what each rank of services may take to stop; beyond it the supervisor is killed, and all with it."""

Progress = Callable[[StackState], None]


class StackFailed(FailedPrecondition):
    """The stack could not start; its log says more."""

    reason = "STACK_FAILED"


class StackNotReady(DeadlineExceeded):
    """Not everything answered in time. It goes on trying."""

    reason = "STACK_NOT_READY"


def is_running(layout: Layout) -> bool:
    """Whether a supervisor holds this home."""
    try:
        with layout.lock.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        # The kernel frees a dead holder's lock a moment after its death; a new one signs it a moment after taking it.
        holder = layout.holder()
        return not holder or bool(start_ticks(holder))
    return False


def status(layout: Layout) -> StackState:
    """What runs now. After a crash of the supervisor, nothing: the last state is not shown as if it were true."""
    last = state.read(layout.state)
    return last if is_running(layout) else StackState(last.address, last.ports, message=last.message)


def start(layout: Layout) -> "subprocess.Popen[bytes]":
    """Start a supervisor that lives on by itself. Does not wait for it."""
    layout.make()
    layout.log("supervisor").touch(mode=0o600)
    with layout.log("supervisor").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "aios.stack"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, "AIOS_HOME": str(layout.home)},
            start_new_session=True,
        )


def wait_ready(layout: Layout, seconds: float, progress: Progress) -> StackState:
    """Wait until everything answers.

    Raises:
        StackFailed: the supervisor gave up.
        StackNotReady: `seconds` have passed.
    """
    until = time.monotonic() + seconds
    began = False
    while True:
        # In this order: a supervisor that ends between the two has written why.
        running, now = is_running(layout), state.read(layout.state)
        if running and start_ticks(now.pid):
            began = True
            progress(now)
            if now.ready:
                return now
        elif not running and (began or now.message or time.monotonic() > until):
            raise StackFailed(
                f"The stack could not start: {now.message or 'the supervisor ended'}. See {layout.log('supervisor')}."
            )
        if time.monotonic() > until:
            late = ", ".join(f"{name} ({one.message or one.state})" for name, one in _not_ready(now))
            raise StackNotReady(f"Not ready after {seconds:g} s: {late}. `aios logs SERVICE` shows why.")
        time.sleep(POLL_SECONDS)


def stop(layout: Layout, progress: Progress) -> list[str]:
    """Take the stack down in order. Returns what had to be killed; nothing runs afterwards."""
    if not is_running(layout):
        return []
    supervisor = layout.holder() or state.read(layout.state).pid
    born = start_ticks(supervisor)
    try:
        os.kill(supervisor, signal.SIGTERM)
    except ProcessLookupError:
        return []
    until = time.monotonic() + DOWN_SECONDS
    while start_ticks(supervisor) == born:  # it lets go of the lock a moment before it is gone
        if time.monotonic() > until:
            os.kill(supervisor, signal.SIGKILL)
            return sorted(name for name, one in state.read(layout.state).services.items() if one.pid)
        progress(state.read(layout.state))
        time.sleep(POLL_SECONDS)
    last = state.read(layout.state)
    return sorted(name for name, one in last.services.items() if one.message.endswith("was killed"))


def restart(layout: Layout, service: str, seconds: float) -> None:
    """Have one service end in good order and start again. Returns when it answers.

    Raises:
        StackFailed: nothing runs, or there is no such service.
        StackNotReady: it did not answer within `seconds`. It goes on trying.
    """
    with socket.socket(socket.AF_UNIX) as orders:
        orders.settimeout(seconds)
        try:
            orders.connect(str(layout.orders))
            orders.sendall(f"restart {service}\n".encode())
            wrong = orders.makefile().readline()
        except TimeoutError:
            raise StackNotReady(
                f"{service} does not answer after {seconds:g} s: `aios logs {service}` shows why."
            ) from None
        except OSError:
            raise StackFailed("Nothing runs: `aios up` starts it.") from None
    if wrong != "\n":
        raise StackFailed(wrong.strip() or "The supervisor ended.")


def memory_bytes(now: StackState) -> dict[str, int]:
    """Proportional memory of each running process and its children."""
    used = {}
    for name, one in now.services.items():
        if one.pid:
            used[name] = sum(_pss(process) for process in _family(one.pid))
    return used


def follow(log: Path, lines: int, keep_going: bool) -> Iterator[str]:
    """The last `lines` of a log, then, with `keep_going`, what is added."""
    with log.open(errors="replace") as file:
        yield from file.readlines()[-lines:] if lines else ()
        while keep_going:
            line = file.readline()
            if line:
                yield line
            elif log.stat().st_size < file.tell():  # it was rotated: go on at the new start
                file.seek(0)
            else:
                time.sleep(POLL_SECONDS)


def _not_ready(now: StackState) -> list[tuple[str, state.ServiceState]]:
    wanted = (State.READY, State.DONE)
    return [
        (name, one)
        for name, one in now.services.items()
        if one.state not in wanted and name not in state.TASKS
    ]


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0

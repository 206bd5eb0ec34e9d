"""The shim alone: a directory in, processes, an exit file out."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aios.scheduler.v1 import agent_service_pb2
from services.scheduler.agent.directory import Directory

PYTHON = sys.executable


def prepared(tmp_path: Path, *command: str, **launch: Any) -> Directory:
    spec = agent_service_pb2.AssignmentSpec(job="projects/p/jobs/j", epoch=1, node="nodes/a")
    directory = Directory.make(tmp_path, spec)
    told = {
        "command": command,
        "environment": {"PATH": os.defpath, "AIOS_SCRATCH": str(directory.scratch)},
        "directory": str(directory.scratch),
        "nice": 0,
        "fenced": True,
        "lease": str(tmp_path / "lease"),
    }
    directory.write("launch", told | launch)
    return directory


def wait_for(directory: Directory, name: str, seconds: float = 10.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = directory.read(name)
        if found is not None:
            return found
        time.sleep(0.005)
    raise AssertionError(f"no {name} in {sorted(path.name for path in directory.path.iterdir())}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("status", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143)])
def test_it_writes_the_exact_exit_code_and_the_output(tmp_path: Path, status: str, code: int) -> None:
    directory = prepared(tmp_path, "/bin/sh", "-c", f"echo out; echo err >&2; {status}")
    shim = directory.start()
    ended = wait_for(directory, "exit")
    assert (ended["exit_code"], ended["end_reason"]) == (code, "")
    assert shim.wait() == 0
    assert directory.log.read_bytes() == b"out\nerr\n"
    assert ended["start_time"] <= ended["end_time"]


def test_the_command_has_only_the_environment_it_was_given_and_default_signals(tmp_path: Path) -> None:
    code = "import os, signal; print(sorted(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.getcwd())"
    directory = prepared(tmp_path, PYTHON, "-I", "-c", code)
    directory.start().wait()
    shown = directory.log.read_text()
    assert "AIOS_SCRATCH" in shown
    assert "HOME" not in shown
    assert "set()" in shown
    assert str(directory.scratch) in shown


def test_a_stop_gives_the_grace_and_then_kills_the_whole_tree(tmp_path: Path) -> None:
    script = (
        "trap 'echo asked' TERM; (trap '' TERM; setsid sleep 600) & echo $!; while true; do sleep 0.05; done"
    )
    directory = prepared(tmp_path, "/bin/sh", "-c", script)
    shim = directory.start()
    wait_for(directory, "started")
    time.sleep(0.2)
    began = time.monotonic()
    directory.ask_to_stop(timedelta(seconds=0.5), "NODE_STOPPED")
    ended = wait_for(directory, "exit")
    assert 0.4 < time.monotonic() - began < 2
    assert (ended["exit_code"], ended["end_reason"]) == (137, "NODE_STOPPED")
    shim.wait()
    child, *said = directory.log.read_text().split()
    assert "asked" in said
    assert not alive(int(child))


def test_a_second_stop_can_only_shorten_the_grace(tmp_path: Path) -> None:
    directory = prepared(tmp_path, "/bin/sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    shim = directory.start()
    wait_for(directory, "started")
    directory.ask_to_stop(timedelta(seconds=60), "")
    directory.ask_to_stop(timedelta(), "")
    directory.ask_to_stop(timedelta(seconds=60), "")
    assert wait_for(directory, "exit", 3)["exit_code"] in (137, 143)
    shim.wait()


def test_a_passed_lease_kills_what_is_fenced_and_nothing_else(tmp_path: Path) -> None:
    fenced = prepared(tmp_path / "batch", "/bin/sleep", "600")
    free = prepared(tmp_path / "service", "/bin/sleep", "600", fenced=False)
    shims = [fenced.start(), free.start()]
    for directory in (fenced, free):
        wait_for(directory, "started")
        (directory.path.parent / "lease").write_text(str(time.monotonic() + 0.3))
    assert wait_for(fenced, "exit")["end_reason"] == "LEASE_EXPIRED"
    assert not free.has("exit")
    free.ask_to_stop(timedelta(), "")
    for shim in shims:
        shim.wait()


def test_a_signal_from_outside_does_not_end_it(tmp_path: Path) -> None:
    directory = prepared(tmp_path, "/bin/sleep", "0.5")
    shim = directory.start()
    wait_for(directory, "started")
    shim.send_signal(signal.SIGTERM)
    assert wait_for(directory, "exit")["exit_code"] == 0
    shim.wait()


def test_a_killed_shim_takes_the_command_with_it_and_is_declared_dead(tmp_path: Path) -> None:
    directory = prepared(tmp_path, "/bin/sh", "-c", "setsid sleep 600 & echo $!; wait")
    shim = directory.start()
    wait_for(directory, "started")
    while not directory.log.read_bytes().endswith(b"\n"):
        time.sleep(0.01)
    assert directory.is_alive()
    assert not directory.declare_dead()
    shim.kill()
    shim.wait()
    assert directory.declare_dead()
    assert wait_for(directory, "exit")["end_reason"] == "SUPERVISOR_LOST"
    grandchild = int(directory.log.read_text())
    deadline = time.monotonic() + 5
    while alive(grandchild) and _state(grandchild) != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(grandchild) or _state(grandchild) == "Z"


def test_a_shim_that_comes_after_its_attempt_was_declared_dead_does_nothing(tmp_path: Path) -> None:
    directory = prepared(tmp_path, "/bin/sh", "-c", "echo ran")
    assert directory.declare_dead()
    assert directory.start().wait() == 1
    assert directory.log.read_bytes() == b""


def test_two_shims_never_hold_one_attempt(tmp_path: Path) -> None:
    directory = prepared(tmp_path, "/bin/sleep", "0.5")
    first = directory.start()
    wait_for(directory, "started")
    assert directory.start().wait() == 1
    assert first.wait() == 0


def test_it_imports_the_standard_library_alone() -> None:
    shim = Path(sys.modules[Directory.__module__].__file__ or "").with_name("shim.py")
    root = Path(__file__).parents[2]
    code = f"import runpy, sys; sys.path.insert(0, {str(root)!r}); runpy.run_path({str(shim)!r}); print([m for m in sys.modules if 'site-packages' in str(getattr(sys.modules[m], '__file__', ''))])"
    done = subprocess.run([PYTHON, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"

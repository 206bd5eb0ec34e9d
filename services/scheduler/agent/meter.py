"""What an attempt takes of its bounds: as the kernel counted for its groups, else as measured here."""

# ruff: noqa: PTH123, PTH208

import os
import sys
from typing import Any

OUT_OF_MEMORY, TOO_MANY_PROCESSES = "OUT_OF_MEMORY", "TOO_MANY_PROCESSES"

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def passed(launch: dict[str, Any], processes: list[int]) -> str:
    """The bound that the job has come to, as an end reason. `processes` is to be measured where the kernel does not."""
    bounds = launch.get("bounds") or {}
    if groups(launch):
        if _count(bounds["groups"]["killed"], "oom_kill"):
            return OUT_OF_MEMORY
        return TOO_MANY_PROCESSES if _count(bounds["groups"]["refused"], "max") else ""
    if not bounds or not processes:
        return ""
    if sum(_threads(pid) for pid in processes) > bounds["processes"]:
        return TOO_MANY_PROCESSES
    memory = bounds["memory_bytes"]
    # Forked processes share most of what they have: what each has is added up only where it may matter.
    over = memory and sum(map(_resident_bytes, processes)) > memory
    return OUT_OF_MEMORY if over and sum(map(_own_bytes, processes)) > memory else ""


def say(reason: str, launch: dict[str, Any]) -> None:
    """To the job's log."""
    said = {
        OUT_OF_MEMORY: "aios: killed: it has more than {memory_bytes} bytes of memory\n",
        TOO_MANY_PROCESSES: "aios: killed: it has more than {processes} processes and threads\n",
    }
    if reason in said:
        sys.stderr.write(said[reason].format_map(launch["bounds"]))
        sys.stderr.flush()


def groups(launch: dict[str, Any]) -> list[str]:
    paths: list[str] = (launch.get("bounds") or {}).get("groups", {}).get("paths", [])
    return paths


def _count(path: str, key: str) -> int:
    """How often the kernel has done that to a group."""
    try:
        with open(path) as file:
            return next((int(value) for name, value in map(str.split, file) if name == key), 0)
    except OSError:
        return 0


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _own_bytes(pid: int) -> int:
    """Its share of what it has: a page that two have counts half for each."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0

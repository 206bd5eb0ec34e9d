"""How much of its node a job may take: memory, processes and a share of the processor, kept by the kernel's cgroups.

Each attempt has a group of its own below the agent's, in version 1 or 2 of cgroups, whichever the machine has. Where
the agent may make none (most containers, and accounts that nothing was delegated to), shim.py measures instead.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROLLERS = ("memory", "pids", "cpu")
PROCESSES, PROCESSES_PER_CORE = 512, 128
"""Threads count too: libraries start some for each core. A job needs tens; a fork bomb takes all there are."""
_HIERARCHY = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Bounds:
    """What one job may take."""

    memory_bytes: int
    processes: int
    """With their threads."""
    cpu_weight: float
    """Of a core: what it gets where the processor is short. Nobody's idle time is kept from it."""


@dataclass(frozen=True)
class Groups:
    """Where this agent makes groups."""

    version: int
    parents: Mapping[str, Path]
    """By controller; the same for all in version 2."""

    def make(self, directory: Path, bounds: Bounds) -> dict[str, Any]:
        """Make an attempt's group and return what shim.py must know: what to join, and where the kernel counts.

        Raises:
            OSError: the kernel refuses.
        """
        name = f"aios-{directory.name[:80]}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"
        groups = {controller: parent / name for controller, parent in self.parents.items()}
        for group in groups.values():
            group.mkdir(exist_ok=True)
        for controller, file, value in _limits(self.version, bounds):
            if (groups[controller] / file).exists():
                (groups[controller] / file).write_text(value)
        events = "memory.oom_control" if self.version == 1 else "memory.events"
        return {
            "paths": [str(group) for group in dict.fromkeys(groups.values())],
            "killed": str(groups["memory"] / events),
            "refused": str(groups["pids"] / "pids.events"),
        }


def find(hierarchy: Path = _HIERARCHY, own: Path = _OWN) -> Groups | None:
    """Where groups can be made, tried by making one; None where they cannot."""
    memberships = [line.split(":", 2) for line in own.read_text().splitlines()] if own.exists() else []
    for groups in (_first(memberships, hierarchy), _second(memberships, hierarchy)):
        if groups is not None and _works(groups):
            return groups
    return None


def _first(memberships: Sequence[Sequence[str]], hierarchy: Path) -> Groups | None:
    parents = {}
    for _, controllers, path in memberships:
        for controller in CONTROLLERS:
            if controller in controllers.split(","):
                parents[controller] = hierarchy / controllers / path.lstrip("/")
    return Groups(1, parents) if parents.keys() == set(CONTROLLERS) else None


def _second(memberships: Sequence[Sequence[str]], hierarchy: Path) -> Groups | None:
    """Below the agent's own group, or at the top, where only root may; groups with processes have no children."""
    for path in [path for number, _, path in memberships if number == "0"]:
        for parent in (hierarchy / path.lstrip("/"), hierarchy):
            with suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in CONTROLLERS))
                return Groups(2, dict.fromkeys(CONTROLLERS, parent))
    return None


def _works(groups: Groups) -> bool:
    made: list[str] = []
    try:
        made = groups.make(Path(f"/trial-{os.getpid()}"), Bounds(1 << 30, PROCESSES, 1.0))["paths"]
    except OSError:
        return False
    finally:
        for path in made:
            with suppress(OSError):
                Path(path).rmdir()
    return True


def _limits(version: int, bounds: Bounds) -> Iterator[tuple[str, str, str]]:
    """Controller, file and value. Swap counts as memory: a job that swaps makes its whole node slow."""
    memory = str(bounds.memory_bytes)
    if version == 1:
        yield "memory", "memory.limit_in_bytes", memory
        yield "memory", "memory.memsw.limit_in_bytes", memory
        yield "cpu", "cpu.shares", str(max(2, round(1024 * bounds.cpu_weight)))
    else:
        yield "memory", "memory.max", memory
        yield "memory", "memory.swap.max", "0"
        yield "memory", "memory.oom.group", "1"
        yield "cpu", "cpu.weight", str(min(10_000, max(1, round(100 * bounds.cpu_weight))))
    yield "pids", "pids.max", str(bounds.processes)

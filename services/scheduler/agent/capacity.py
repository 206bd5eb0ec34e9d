"""What this machine has for jobs."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from aios.config import Settings
from aios.errors import InvalidArgument
from aios.scheduling import budget_problems
from services.scheduler.agent.gpus import Gpu
from services.scheduler.resources import Resources

MEMORY_SHARE = 0.9
"""Of the memory, for jobs; the rest is the platform's and the system's."""
_BUDGET = re.compile(r"([a-z0-9_.-]+)=(\d+(?:\.\d+)?)([KMGT]i?B)?")
_UNITS: dict[str | None, int] = {
    None: 1,
    **{f"{prefix}B": 1000**n for n, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", 1)},
}
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def labels(settings: Settings) -> dict[str, str]:
    """What jobs may select this machine by.

    Raises:
        InvalidArgument: a label without a value.
    """
    found = {"os": os.uname().sysname.lower(), "arch": os.uname().machine}
    for each in filter(None, settings.node_labels.split(",")):
        name, equals, value = each.partition("=")
        if not equals:
            raise InvalidArgument.of("AIOS_NODE_LABELS", f"must look like zone=a,disk=ssd, not {each!r}")
        found[name.strip()] = value.strip()
    return found


def measure(settings: Settings, gpus: Sequence[Gpu]) -> Resources:
    """Cores this process may use, memory it may have, devices it sees; settings come before what is measured."""
    return Resources(
        settings.node_cpu_millis or 1000 * len(os.sched_getaffinity(0)),
        settings.node_memory_bytes or int(_memory_bytes() * MEMORY_SHARE),
        Counter(gpu.kind for gpu in gpus),
        # A share of any device of a type has at least so much.
        device_memory={
            kind: min(gpu.memory_bytes for gpu in gpus if gpu.kind == kind)
            for kind in {gpu.kind for gpu in gpus}
        },
        budgets=budgets(settings.node_budgets),
    )


def budgets(text: str) -> dict[str, int]:
    """What a node is said to have beside: `scratch=500GiB,network=1.25GB,license.solver=3`.

    Raises:
        InvalidArgument: It reads otherwise.
    """
    found = {}
    for each in filter(None, (part.strip() for part in text.split(","))):
        match = _BUDGET.fullmatch(each)
        if match is None:
            problem = f"must look like scratch=500GiB,license.solver=3, not {each!r}"
            raise InvalidArgument.of("AIOS_NODE_BUDGETS", problem)
        found[match[1]] = round(float(match[2]) * _UNITS[match[3]])
    if wrong := budget_problems(found):
        raise InvalidArgument.of_all({f"AIOS_NODE_BUDGETS {path}": problem for path, problem in wrong})
    return found


def _memory_bytes() -> int:
    """The machine's, or less where this process is in a container with a limit."""
    total: int = psutil.virtual_memory().total
    for path in map(Path, _MEMORY_LIMITS):
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total

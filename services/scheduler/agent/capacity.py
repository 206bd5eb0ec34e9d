"""What this machine has for jobs."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from aios.config import Settings
from aios.errors import InvalidArgument
from services.scheduler.agent.gpus import Gpu
from services.scheduler.resources import Resources

MEMORY_SHARE = 0.9
"""Of the memory, for jobs; the rest is the platform's and the system's."""
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
    )


def _memory_bytes() -> int:
    """The machine's, or less where this process is in a container with a limit."""
    total: int = psutil.virtual_memory().total
    for path in map(Path, _MEMORY_LIMITS):
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total

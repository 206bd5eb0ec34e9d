"""Amounts of resources for people: figures, and bars that say the same at a glance."""

from collections.abc import Mapping
from typing import Any

from aios.cli import output
from aios.scheduling import DEVICE_MILLIS

BAR_CELLS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"
CELLS = _EIGHTHS[1:] + "░·"
"""What a bar is made of."""


def bar(part: float, owed: float = 0.0, cells: int = BAR_CELLS) -> str:
    """A bar that is full at 1; what is owed and not used is hatched."""
    filled = min(1.0, max(0.0, part)) * cells
    whole = int(filled)
    # Whatever is used shows, however little.
    rest = _EIGHTHS[max(round((filled - whole) * 8), int(filled > 0 and whole == 0))]
    drawn = "█" * whole + (rest if whole < cells and rest != " " else "")
    hatched = "░" * (min(cells, round(min(1.0, owed) * cells)) - len(drawn))
    return (drawn + hatched).ljust(cells, "·")


def named(resources: Any) -> dict[str, float]:
    """A Resources message by name, in the order that people read: accelerators, cpu, memory. A share of a device is a
    part of one, such as 0.5."""
    plain = {"cpu": resources.cpu_millis, "memory": resources.memory_bytes}
    devices: dict[str, float] = dict(resources.accelerators)
    for kind, millis in resources.accelerator_millis.items():
        devices[kind] = devices.get(kind, 0) + millis / DEVICE_MILLIS
    others = dict(sorted(resources.budgets.items()))
    return dict(sorted(devices.items())) | {name: n for name, n in plain.items() if n} | others


def figure(name: str, amount: float) -> str:
    """An amount without its unit where that is plain: `2.5`, `16 GiB`, `4`."""
    if name == "cpu":
        return f"{amount / 1000:g}"
    return output.size(amount) if name in ("memory", "scratch", "network") else f"{amount:g}"


def listed(amounts: Mapping[str, float]) -> str:
    """All of them in one line: `gpu/H100:4 cpu:8 memory:16 GiB`."""
    return " ".join(f"{name}:{figure(name, amount)}" for name, amount in amounts.items())


def family(amounts: Mapping[str, float], name: str) -> float:
    """So much there is of a resource, or of all types of a family such as `gpu`."""
    return sum(amount for kind, amount in amounts.items() if kind == name or kind.startswith(f"{name}/"))

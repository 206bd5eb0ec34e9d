"""Resource vectors: what a node has, what a job asks for, and whether one holds the other.

Pure. Units: processor in thousandths of a core, memory in bytes, accelerators in whole devices by type. A type
without a slash asks for any type below it: `gpu` is served by `gpu/H100`. One request never mixes types.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Resources:
    """An amount of each resource. Amounts of zero are not kept, so equal vectors compare equal."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    accelerators: Mapping[str, int] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        kept = {name: count for name, count in sorted(self.accelerators.items()) if count}
        object.__setattr__(self, "accelerators", MappingProxyType(kept))

    def __add__(self, other: "Resources") -> "Resources":
        types = {*self.accelerators, *other.accelerators}
        return Resources(
            self.cpu_millis + other.cpu_millis,
            self.memory_bytes + other.memory_bytes,
            {name: self.accelerators.get(name, 0) + other.accelerators.get(name, 0) for name in types},
        )

    def __sub__(self, other: "Resources") -> "Resources":
        types = {*self.accelerators, *other.accelerators}
        return Resources(
            self.cpu_millis - other.cpu_millis,
            self.memory_bytes - other.memory_bytes,
            {name: self.accelerators.get(name, 0) - other.accelerators.get(name, 0) for name in types},
        )

    def times(self, count: int) -> "Resources":
        """So many of it."""
        if count == 1:
            return self
        return Resources(
            self.cpu_millis * count,
            self.memory_bytes * count,
            {name: amount * count for name, amount in self.accelerators.items()},
        )

    def named(self) -> dict[str, int]:
        """The amounts by name: `cpu`, `memory`, and each type of accelerator."""
        plain = {"cpu": self.cpu_millis, "memory": self.memory_bytes}
        return {name: amount for name, amount in plain.items() if amount} | dict(self.accelerators)

    def holds(self, other: "Resources") -> bool:
        """Whether every amount is at least the other's. Types are compared as written."""
        return (
            self.cpu_millis >= other.cpu_millis
            and self.memory_bytes >= other.memory_bytes
            and all(self.accelerators.get(name, 0) >= count for name, count in other.accelerators.items())
        )


def serves(kind: str, asked: str) -> bool:
    """Whether a device of type `kind` is one of those `asked` for."""
    return kind == asked or ("/" not in asked and kind.startswith(asked + "/"))


def grant(free: Resources, request: Resources) -> Resources | None:
    """The request with every accelerator resolved to a type that `free` has enough of, or None.

    Exact types are served first. Among several that would do, the one with the fewest left over is taken, so that
    large requests find whole groups later.
    """
    granted = resolve(free, request)
    return granted if free.holds(granted) else None


def resolve(free: Resources, request: Resources, types: Iterable[str] = ()) -> Resources:
    """The request in terms of the types that `free` names, whether or not it has enough of them.

    Args:
        types: More types that there are, with none free. A type that nothing serves stays as it is.
    """
    left = dict.fromkeys(types, 0) | dict(free.accelerators)
    chosen: dict[str, int] = {}
    for asked, count in sorted(request.accelerators.items(), key=lambda item: ("/" not in item[0], item[0])):
        kinds = [kind for kind in left if serves(kind, asked)]
        kind = min(kinds, key=lambda kind: (left[kind] < count, abs(left[kind] - count), kind), default=asked)
        left[kind] = left.get(kind, 0) - count
        chosen[kind] = chosen.get(kind, 0) + count
    return Resources(request.cpu_millis, request.memory_bytes, chosen)


@dataclass(frozen=True)
class Shortage:
    """One resource that a node has too little of."""

    code: str
    """`CPU`, `MEMORY` or `ACCELERATOR`."""
    unit: str
    wanted: int
    free: int
    total: int

    def figure(self, amount: int) -> str:
        """An amount of it, for people, without its unit."""
        return f"{amount / 2**30:.1f} GiB" if self.code == "MEMORY" else str(amount)

    @property
    def fraction(self) -> float:
        """How much of what is wanted is missing: 0 to 1."""
        return (self.wanted - max(0, self.free)) / self.wanted


def shortages(request: Resources, free: Resources, total: Resources) -> list[Shortage]:
    """What keeps `request` off a node that has `free` of `total`. Empty when it fits."""
    wanted = resolve(free, request, total.accelerators)
    rows = [
        Shortage("CPU", "cpu millicores", wanted.cpu_millis, free.cpu_millis, total.cpu_millis),
        Shortage("MEMORY", "of memory", wanted.memory_bytes, free.memory_bytes, total.memory_bytes),
        *(
            Shortage(
                "ACCELERATOR", kind, count, free.accelerators.get(kind, 0), total.accelerators.get(kind, 0)
            )
            for kind, count in wanted.accelerators.items()
        ),
    ]
    return [row for row in rows if row.free < row.wanted]

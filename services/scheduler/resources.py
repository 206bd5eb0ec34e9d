"""Resource vectors: what a node has, what a job asks for, and whether one holds the other.

Pure. Units: processor in thousandths of a core, memory in bytes, accelerators by type in whole devices and, of one that
is shared, in thousandths. A type without a slash asks for any type below it: `gpu` is served by `gpu/H100`. One request
never mixes types.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from aios.scheduling import DEVICE_MILLIS as DEVICE

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Resources:
    """An amount of each resource. Amounts of zero are not kept, so equal vectors compare equal.

    Attributes:
        accelerator_millis: Thousandths of a device beside the whole ones. Of a request: a share of one device. Of what
            is free on a node: the most that is left of any device that is shared.
        device_memory: Of a request for a share: bytes of its device's memory, by the same type; none: the same part of
            it as of the device. Of a node: memory of each of its devices, where known.
        shared_device: Of what a share was granted: which of the shared devices of its node and type.
        budgets: `network` in bytes a second, `scratch` in bytes, and counters, whose names have a dot.
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    accelerators: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    accelerator_millis: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    device_memory: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    shared_device: int = 0
    budgets: Mapping[str, int] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        for name in ("accelerators", "accelerator_millis", "device_memory", "budgets"):
            kept = {kind: count for kind, count in sorted(getattr(self, name).items()) if count}
            object.__setattr__(self, name, MappingProxyType(kept))

    def __add__(self, other: "Resources") -> "Resources":
        return self._combined(other, 1)

    def __sub__(self, other: "Resources") -> "Resources":
        return self._combined(other, -1)

    def _combined(self, other: "Resources", sign: int) -> "Resources":
        """The sum of amounts. Which device and how much of its memory is of one job alone, or of a node."""
        return Resources(
            self.cpu_millis + sign * other.cpu_millis,
            self.memory_bytes + sign * other.memory_bytes,
            _sum(self.accelerators, other.accelerators, sign),
            _sum(self.accelerator_millis, other.accelerator_millis, sign),
            budgets=_sum(self.budgets, other.budgets, sign),
        )

    def times(self, count: int) -> "Resources":
        """So many of it."""
        if count == 1:
            return self
        return Resources(
            self.cpu_millis * count,
            self.memory_bytes * count,
            {name: amount * count for name, amount in self.accelerators.items()},
            {name: amount * count for name, amount in self.accelerator_millis.items()},
            budgets={name: amount * count for name, amount in self.budgets.items()},
        )

    def named(self) -> dict[str, float]:
        """The amounts by name: `cpu`, `memory`, and each type of accelerator in devices, 0.5 for half of one."""
        found: dict[str, float] = {
            "cpu": self.cpu_millis,
            "memory": self.memory_bytes,
            **self.accelerators,
            **self.budgets,
        }
        for name, millis in self.accelerator_millis.items():
            found[name] = self.accelerators.get(name, 0) + millis / DEVICE
        return {name: amount for name, amount in found.items() if amount}

    def holds(self, other: "Resources") -> bool:
        """Whether every amount is at least the other's. Types are compared as written."""
        return (
            self.cpu_millis >= other.cpu_millis
            and self.memory_bytes >= other.memory_bytes
            and all(self.accelerators.get(name, 0) >= count for name, count in other.accelerators.items())
            and all(self.budgets.get(name, 0) >= amount for name, amount in other.budgets.items())
            and all(self._has_share(name, other) for name in other.accelerator_millis)
        )

    def _has_share(self, kind: str, other: "Resources") -> bool:
        """Whether one device has what is asked of it: one that is free, or one that is shared."""
        asked, memory = other.accelerator_millis[kind], other.device_memory.get(kind, 0)
        if memory > self.device_memory.get(kind, 0):
            return False
        whole = DEVICE if self.accelerators.get(kind, 0) > other.accelerators.get(kind, 0) else 0
        return max(whole, self.accelerator_millis.get(kind, 0)) >= asked


def free_of(capacity: Resources, held: Iterable[Resources]) -> Resources:
    """What is left of a node: devices that are shared are none that anybody could have whole, and have as much free as
    of what is scarcer of them, time or memory."""
    left, shared = capacity, dict[tuple[str, int], tuple[int, int]]()
    for each in held:
        left -= replace(each, accelerator_millis=NOTHING)
        for kind, millis in each.accelerator_millis.items():
            device, has = (kind, each.shared_device), capacity.device_memory.get(kind, 0)
            memory = each.device_memory.get(kind, 0) * DEVICE // has if has else 0
            share_used, memory_used = shared.get(device, (0, 0))
            shared[device] = share_used + millis, memory_used + (memory or millis)
    whole, parts = dict(left.accelerators), dict[str, int]()
    for (kind, _), used in shared.items():
        whole[kind] = whole.get(kind, 0) - 1
        parts[kind] = max(parts.get(kind, 0), DEVICE - max(used))
    return replace(left, accelerators=whole, accelerator_millis=parts, device_memory=capacity.device_memory)


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
    resolved = Resources(request.cpu_millis, request.memory_bytes, chosen, budgets=request.budgets)
    for asked, millis in request.accelerator_millis.items():
        resolved = _resolve_share(free, asked, millis, request.device_memory.get(asked, 0), types, resolved)
    return resolved


def _resolve_share(
    free: Resources, asked: str, millis: int, memory: int, types: Iterable[str], resolved: Resources
) -> Resources:
    kinds = {*types, *free.accelerators, *free.accelerator_millis}
    able = [
        replace(resolved, accelerator_millis={kind: millis}, device_memory={kind: memory})
        for kind in sorted(kind for kind in kinds if serves(kind, asked)) or [asked]
    ]
    return next((each for each in able if free.holds(each)), able[0])


@dataclass(frozen=True)
class Shortage:
    """One resource that a node has too little of."""

    code: str
    """`CPU`, `MEMORY`, `ACCELERATOR` or `BUDGET`."""
    unit: str
    wanted: float
    free: float
    total: float

    def figure(self, amount: float) -> str:
        """An amount of it, for people, without its unit."""
        in_bytes = self.code == "MEMORY" or self.unit == "scratch"
        return f"{amount / 2**30:.1f} GiB" if in_bytes else f"{amount:.12g}"

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
        *(
            Shortage("BUDGET", name, amount, free.budgets.get(name, 0), total.budgets.get(name, 0))
            for name, amount in wanted.budgets.items()
        ),
    ]
    return [row for row in rows if row.free < row.wanted] + _share_shortages(wanted, free, total)


def _share_shortages(wanted: Resources, free: Resources, total: Resources) -> list[Shortage]:
    found = []
    for kind, millis in wanted.accelerator_millis.items():
        memory, has = wanted.device_memory.get(kind, 0), free.device_memory.get(kind, 0)
        if memory > has:
            found.append(Shortage("MEMORY", f"of memory on one {kind}", memory, has, has))
        elif not free.holds(Resources(accelerator_millis={kind: millis}, device_memory={kind: memory})):
            left = free.accelerator_millis.get(kind, 0) / DEVICE
            of = min(1, total.accelerators.get(kind, 0))
            # A device may have the share and not its memory: what is free of it is not enough all the same.
            found.append(
                Shortage(
                    "ACCELERATOR", f"of one {kind}", millis / DEVICE, min(left, (millis - 1) / DEVICE), of
                )
            )
    return found


def _sum(one: Mapping[str, int], other: Mapping[str, int], sign: int) -> dict[str, int]:
    return {name: one.get(name, 0) + sign * other.get(name, 0) for name in {*one, *other}}

"""What a job says of itself to whoever decides who runs, and what may be said. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeVar

from aios.errors import InvalidArgument

WEIGHT_MIN, WEIGHT_MAX = 0.01, 100.0
PRIORITY_MAX = 100
TIME_MAX = timedelta(days=3650)
LABELS_MAX = 16
SPEEDS_MAX = 32
TAINT = "taint/"
"""A label that begins so keeps jobs away."""

MEMORY_FRACTION = "AIOS_GPU_MEMORY_FRACTION"
"""Variable of a job that has a share of a device: the part of its memory that is the job's."""
DEVICE_MILLIS = 1000
"""A whole device: shares of one are counted in thousandths."""
PLAIN = frozenset({"cpu", "memory", "network", "scratch"})
"""Resources of a machine as a whole. Whatever else it has is a device of some kind, or a counter with a dot."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ACCELERATOR = re.compile(r"[a-z][a-z0-9_-]{0,31}(/[A-Za-z0-9][A-Za-z0-9._-]{0,62})?")
_BUDGET = re.compile(r"network|scratch|[a-z][a-z0-9_-]{0,31}(\.[a-z0-9_-]{1,31}){1,3}")
V = TypeVar("V")


def _nothing() -> Mapping[str, V]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Topology:
    """How near to each other the replicas of a gang run: on nodes with the same value of a label; `node` is one node."""

    key: str
    required: bool = True


@dataclass(frozen=True)
class Scheduling:
    """What is known of a job before it runs.

    Attributes:
        max_run_time: Of all its attempts together.
        preemptible: None where it does not say.
        min_run_time: Of an attempt, before it is stopped for others.
        node_selector: Labels that its node must have.
        node_preference: Labels that its node had better have.
        tolerations: Taints of its node that it puts up with, by name; an empty value stands for any.
        speeds: Steps in a second by type of accelerator.
        topology: None where the replicas of a gang may run anywhere.
    """

    weight: float = 1.0
    expected_duration: timedelta | None = None
    max_run_time: timedelta | None = None
    preemptible: bool | None = None
    min_run_time: timedelta = timedelta()
    deadline: datetime | None = None
    node_selector: Mapping[str, str] = field(default_factory=_nothing)
    node_preference: Mapping[str, str] = field(default_factory=_nothing)
    tolerations: Mapping[str, str] = field(default_factory=_nothing)
    speeds: Mapping[str, float] = field(default_factory=_nothing)
    topology: Topology | None = None

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels will do, its taints aside."""
        return self.node_selector.items() <= labels.items()

    def repelled(self, labels: Mapping[str, str]) -> list[str]:
        """Taints among a node's labels that it does not put up with, such as `dedicated=lab`."""
        return [
            f"{name}={value}"
            for name, value in sorted(taints(labels).items())
            if self.tolerations.get(name) not in ("", value)
        ]


NOTHING_SAID = Scheduling()


def is_label(text: str) -> bool:
    """Whether it may be a label's name or value."""
    return _LABEL.fullmatch(text) is not None


def taints(labels: Mapping[str, str]) -> dict[str, str]:
    """What of a node's labels keeps jobs away that do not put up with it, by name."""
    return {name.removeprefix(TAINT): value for name, value in labels.items() if name.startswith(TAINT)}


def check(said: Scheduling, field: str) -> Scheduling:
    """Return what was said if it can be so.

    Raises:
        InvalidArgument: with every wrong field under `field` and what to change.
    """
    wrong = {f"{field}.{path}": problem for path, problem in problems(said)}
    if wrong:
        raise InvalidArgument.of_all(wrong)
    return said


def is_device(resource: str) -> bool:
    """Whether a resource of that name is a type of accelerator."""
    return resource not in PLAIN and "." not in resource


def budget_problems(budgets: Mapping[str, int]) -> list[tuple[str, str]]:
    """What is wrong with what a job asks for of a node's budgets and counters."""
    found = []
    for name, amount in budgets.items():
        if not _BUDGET.fullmatch(name):
            found.append(
                (f"budgets[{name[:80]!r}]", "must be network, scratch, or a counter such as `license.solver`")
            )
        elif amount < 1:
            found.append((f"budgets[{name!r}]", "must be at least 1"))
    return found


def accelerator_problems(
    whole: Mapping[str, int], millis: Mapping[str, int], memory: Mapping[str, int], replicas: int = 1
) -> list[tuple[str, str]]:
    """What is wrong with the accelerators that a job asks for: whole devices, or a share of one.

    Args:
        millis: Thousandths of one device, by type.
        memory: Bytes of that device's memory.
        replicas: Of its gang.
    """
    found = []
    for field_name, amounts in (("accelerators", whole), ("accelerator_millis", millis)):
        for kind, count in amounts.items():
            path = f"{field_name}[{kind[:80]!r}]"
            if kind in PLAIN:
                found.append((path, "is no accelerator: it has a field of its own"))
            elif not _ACCELERATOR.fullmatch(kind):
                found.append((path, "must be a type such as `gpu` or `gpu/H100`"))
            elif count < 0:
                found.append((path, "must not be negative"))
            elif field_name == "accelerator_millis" and not 0 < count < DEVICE_MILLIS:
                found.append((path, "must be 1 to 999: a share of one device; whole ones are `accelerators`"))
    if millis and len({*whole, *millis}) > 1:
        problem = "must be of one type alone: a job has whole devices, or a share of one"
        found.append(("accelerator_millis", problem))
    elif millis and whole:
        up = sum(whole.values()) + 1
        problem = f"is part of a device beside whole ones: ask for {up} whole ones, or for a share of one"
        found.append(("accelerator_millis", problem))
    if millis and replicas > 1:
        problem = "goes with 1 replica: processes on one device cannot reach each other through NCCL"
        found.append(("accelerator_millis", problem))
    for kind, amount in memory.items():
        if kind not in millis:
            problem = "goes with a share of that type; who has a device whole has all of its memory"
            found.append(("accelerator_memory_bytes", problem))
        elif amount < 0:
            found.append(("accelerator_memory_bytes", "must not be negative"))
    return found


def problems(said: Scheduling) -> list[tuple[str, str]]:
    """Every wrong field and what to change."""
    found = []
    if not WEIGHT_MIN <= said.weight <= WEIGHT_MAX:
        found.append(("weight", f"must be {WEIGHT_MIN:g} to {WEIGHT_MAX:g}"))
    times = {"expected_duration": said.expected_duration, "max_run_time": said.max_run_time}
    found += [
        (name, f"must be more than 0 s, and {TIME_MAX.days} days at most")
        for name, span in times.items()
        if span is not None and not timedelta() < span <= TIME_MAX
    ]
    if not timedelta() <= said.min_run_time <= TIME_MAX:
        found.append(("min_run_time", f"must be 0 s to {TIME_MAX.days} days"))
    if said.expected_duration and said.max_run_time and said.expected_duration > said.max_run_time:
        found.append(("max_run_time", "is less than expected_duration: it would never end by itself"))
    for field_name in ("node_selector", "node_preference", "tolerations"):
        labels: Mapping[str, str] = getattr(said, field_name)
        if len(labels) > LABELS_MAX:
            found.append((field_name, f"has {len(labels)} labels; {LABELS_MAX} at most"))
        any_value = field_name == "tolerations"
        found += [
            (f"{field_name}[{name[:80]!r}]", "must be letters, digits or . _ / -, and its value too")
            for name, value in labels.items()
            if not _LABEL.fullmatch(name) or not (_LABEL.fullmatch(value) or (any_value and not value))
        ]
    if said.topology is not None and not _LABEL.fullmatch(said.topology.key):
        found.append(("topology.key", "must be a label such as `rack`, or `node`"))
    if len(said.speeds) > SPEEDS_MAX:
        found.append(("speeds", f"has {len(said.speeds)} types; {SPEEDS_MAX} at most"))
    for kind, speed in said.speeds.items():
        if not _TYPE.fullmatch(kind):
            found.append((f"speeds[{kind[:80]!r}]", "must be a type of accelerator such as `gpu/H100`"))
        elif not 0 < speed < math.inf:
            found.append((f"speeds[{kind!r}]", "must be more than 0"))
    return found

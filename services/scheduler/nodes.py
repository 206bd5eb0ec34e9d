"""Nodes and their leases. Pure.

The node's own lease starts when it *sent* a heartbeat, the scheduler's when it *received* it and lasts MARGIN
longer: a node has killed its attempts before the scheduler gives them to another.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from aios.errors import InvalidArgument, NotFound
from aios.scheduling import is_label
from services.scheduler.resources import Resources

MARGIN = 1.5
"""The scheduler waits this many leases: half a lease for the node to notice, kill and be sure."""


EDITABLE = ("cordoned", "draining", "taints")
TAINTS_MAX = 16


class NodeNotFound(NotFound):
    """No node of this name ever registered."""

    reason = "NODE_NOT_FOUND"


class NodeState(StrEnum):
    """Whether jobs may start on a node."""

    READY = "READY"
    LOST = "LOST"
    STOPPED = "STOPPED"


@dataclass(frozen=True)
class Node:
    """One machine of the pool, as its agent declared it, and what operators said of it.

    Attributes:
        labels: With the operators' taints among them.
        taints: Of operators alone.
    """

    name: str
    state: NodeState
    capacity: Resources
    host: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cordoned: bool = False
    draining: bool = False
    taints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def takes_jobs(self) -> bool:
        """Whether new ones may start on it."""
        return self.state is NodeState.READY and not (self.cordoned or self.draining)

    @property
    def status(self) -> str:
        """For people."""
        if self.state is not NodeState.READY:
            return self.state.lower()
        return "draining" if self.draining else "cordoned" if self.cordoned else "ready"


def edit(current: Node, wanted: Node, mask: Collection[str]) -> Node:
    """A node with what an operator says of it; with all that may be said where the mask names nothing.

    Raises:
        InvalidArgument: no such field, or no such taint.
    """
    unknown = [path for path in mask if path not in EDITABLE]
    if unknown:
        known = ", ".join(EDITABLE)
        raise InvalidArgument.of(
            "update_mask", f"no field {unknown[0][:80]!r} can be changed; there are {known}"
        )
    fields = {path: getattr(wanted, path) for path in mask or EDITABLE}
    if len(fields.get("taints", ())) > TAINTS_MAX:
        raise InvalidArgument.of("node.taints", f"must be at most {TAINTS_MAX}")
    for name, value in fields.get("taints", {}).items():
        if not is_label(name) or not is_label(value):
            raise InvalidArgument.of(
                f"node.taints[{name[:80]!r}]", "must be letters, digits or . _ / -, and its value too"
            )
    return replace(current, **fields)


class Leases:
    """When each node was last heard, on the monotonic clock.

    A node known from before a restart counts as heard at the start: its agent has a whole lease to come back.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._patience = lease_seconds * MARGIN
        self._heard: dict[str, float] = {}

    def heard(self, node: str, at: float) -> None:
        """Renew a node's lease."""
        self._heard[node] = at

    def forget(self, node: str) -> None:
        """Stop counting: the node was given up or left."""
        self._heard.pop(node, None)

    def expired(self, nodes: Iterable[str], at: float) -> list[str]:
        """Which of `nodes` have been silent for too long."""
        return [node for node in nodes if at - self._heard.setdefault(node, at) > self._patience]

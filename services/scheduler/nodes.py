"""Nodes and their leases. Pure.

The node's own lease starts when it *sent* a heartbeat, the scheduler's when it *received* it and lasts MARGIN
longer: a node has killed its attempts before the scheduler gives them to another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from aios.errors import NotFound
from services.scheduler.resources import Resources

MARGIN = 1.5
"""The scheduler waits this many leases: half a lease for the node to notice, kill and be sure."""


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
    """One machine of the pool, as its agent declared it."""

    name: str
    state: NodeState
    capacity: Resources
    host: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


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

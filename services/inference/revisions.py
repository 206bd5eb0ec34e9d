"""A revision: one immutable state of a deployment's spec, and the replicas that serve exactly it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from aios.names import RevisionName
from services.inference import replicas
from services.inference.deployments import Spec
from services.inference.replicas import Replica


class State(StrEnum):
    """What a revision does now."""

    STARTING = "STARTING"
    LIVE = "LIVE"
    DRAINING = "DRAINING"
    RETIRED = "RETIRED"
    FAILED = "FAILED"


NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        # DRAINING without having been live: a newer spec came first, or the deployment was deleted.
        State.STARTING: frozenset({State.LIVE, State.DRAINING, State.FAILED}),
        State.LIVE: frozenset({State.DRAINING}),
        State.DRAINING: frozenset({State.RETIRED}),
        State.RETIRED: frozenset(),
        State.FAILED: frozenset(),
    }
)


@dataclass(frozen=True)
class Artifact:
    """What a model version is to those who serve it."""

    manifest_sha256: str
    signature: bytes
    """A serialised aios.common.v1.Signature, passed on unread."""


@dataclass(frozen=True)
class Revision:
    """One revision. `weight` and `routed_in` say what the routing table does with it."""

    name: RevisionName
    spec: Spec
    artifact: Artifact
    create_time: datetime
    state: State = State.STARTING
    message: str = ""
    weight: int | None = None
    """Share of the requests. 0 takes none but stays in the routing table; None is not in it."""
    routed_in: int = 0
    """The routing table that first had this weight. Once it is in force, so is the weight."""
    replicas: tuple[Replica, ...] = ()
    replicas_made: int = 0
    """How many it ever had: their jobs' names are never used again."""
    live_time: datetime | None = None
    retire_time: datetime | None = None
    creator: str = ""
    traceparent: str = ""
    """W3C context of the request that made it: its start is part of that trace."""
    recorded: bool = False
    """Whether the lineage has it."""

    @property
    def number(self) -> int:
        """Position in the deployment's history, from 1."""
        return int(self.name.revision)

    @property
    def ready(self) -> tuple[Replica, ...]:
        """The replicas that answer."""
        return tuple(each for each in self.replicas if each.state is replicas.State.READY)

    @property
    def complete(self) -> bool:
        """Whether all of its replicas answer."""
        return len(self.ready) >= self.spec.replicas

    @property
    def leaving(self) -> bool:
        """Whether it is to hold nothing in the end."""
        return self.state in (State.DRAINING, State.FAILED)


def move(revision: Revision, state: State, now: datetime, message: str = "") -> Revision:
    """Enter a state, with the time of it where it counts."""
    assert state in NEXT[revision.state], f"{revision.name}: {revision.state} to {state}"
    moved = replace(revision, state=state, message=message)
    if state is State.LIVE:
        return replace(moved, live_time=now)
    if state is State.RETIRED:
        return replace(moved, retire_time=now)
    return moved

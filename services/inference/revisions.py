"""A revision: one immutable state of a deployment's spec, and the replicas that serve exactly it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from aios.errors import NotFound
from aios.names import RevisionName
from services.inference import replicas
from services.inference.deployments import Spec
from services.inference.policies import Stage, stages
from services.inference.replicas import Replica


class RevisionNotFound(NotFound):
    """The deployment never had such a revision. Retrying cannot help."""

    reason = "REVISION_NOT_FOUND"


class State(StrEnum):
    """What a revision does now."""

    STARTING = "STARTING"
    TRIAL = "TRIAL"
    LIVE = "LIVE"
    DRAINING = "DRAINING"
    RETIRED = "RETIRED"
    FAILED = "FAILED"


NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        # DRAINING without having been live: a newer spec came first, or the deployment was deleted.
        State.STARTING: frozenset({State.TRIAL, State.LIVE, State.DRAINING, State.FAILED}),
        State.TRIAL: frozenset({State.LIVE, State.DRAINING, State.FAILED}),
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
    mirror: int = 0
    """Share of the requests that it gets copies of, in percent."""
    routed_in: int = 0
    """The routing table that first had this weight. Once it is in force, so is the weight."""
    stage: int = 0
    """Stages of its trial that are behind it."""
    stage_time: datetime | None = None
    """When the present stage came into force."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Figures that were reported of it."""
    wanted: int = 1
    """How many replicas it should have now."""
    asleep: bool = False
    """At zero by choice: requests for it are held until a replica answers."""
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
        return len(self.ready) >= self.wanted

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of its trial that are left."""
        return stages(self.spec.rollout)[self.stage :]

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

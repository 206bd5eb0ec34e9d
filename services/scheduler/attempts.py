"""One try at running a job: one process on one node, or a gang of them on several. Pure.

A gang has one end. The first of its processes that fails breaks the attempt: the others are stopped, and only when all
are gone, or their nodes given up, does the job go on. What the platform did to one of them (node lost or stopped) counts
more than what the others then died of.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from aios.names import JobName
from services.scheduler.resources import Resources

PLATFORM_ENDS = frozenset(
    {"NODE_STOPPED", "LEASE_EXPIRED", "SUPERVISOR_LOST", "NOT_STARTED", "TOKEN_UNAVAILABLE", "BAD_SIGNATURE"}
)
"""Reasons for an end that the job is not to blame for."""
NOT_STARTED = "NOT_STARTED"
RENDEZVOUS = "rendezvous"
"""The port that the first process of a gang listens on for the others."""


class AttemptState(StrEnum):
    """Where an attempt stands."""

    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    ENDED = "ENDED"
    LOST = "LOST"


LIVE = frozenset({AttemptState.ASSIGNED, AttemptState.RUNNING})


@dataclass(frozen=True)
class Replica:
    """One process of a gang."""

    rank: int
    node: str
    state: AttemptState = AttemptState.ASSIGNED
    host: str = ""
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    exit_code: int | None = None
    end_reason: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """One try at running a job; also what a node reports of it, or of its one process of a gang.

    Attributes:
        node: Of a gang: that of its first process, as are host and ports.
        granted: To one process.
        rank: Which process of a gang a node reports.
        replicas: Of a gang: its processes, by rank. Exit code and end reason are then those that broke it.
    """

    job: JobName
    epoch: int
    node: str
    state: AttemptState
    granted: Resources = field(default_factory=Resources)
    host: str = ""
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    exit_code: int | None = None
    end_reason: str = ""
    assign_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    rank: int = 0
    replicas: tuple[Replica, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Of each process, by rank."""
        return tuple(each.node for each in self.replicas) or (self.node,)

    @property
    def live_nodes(self) -> frozenset[str]:
        """Those on which something of it may still run."""
        if not self.replicas:
            return frozenset({self.node} if self.state in LIVE else ())
        return frozenset(each.node for each in self.replicas if each.state in LIVE)

    def running_on(self, node: str) -> list[int]:
        """Ranks of the processes that run on a node, as far as is known."""
        running = AttemptState.RUNNING
        if self.replicas:
            return [each.rank for each in self.replicas if each.node == node and each.state is running]
        return [0] if self.state is running and self.node == node else []

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        counts = Counter(self.nodes)
        if len(counts) == 1:
            return f"node {self.node}"
        return f"{len(counts)} nodes: " + ", ".join(counts)

    @property
    def total(self) -> Resources:
        """What all its processes hold."""
        return self.granted.times(len(self.nodes))

    def is_of(self, said: "Attempt") -> bool:
        """Whether a node speaks of a process that it was given."""
        if not self.replicas:
            return said.node == self.node
        return 0 <= said.rank < len(self.replicas) and self.replicas[said.rank].node == said.node

    @property
    def broken(self) -> bool:
        """Whether one process of a gang has failed, or is lost."""
        return self.exit_code not in (None, 0) or bool(self.end_reason)


def opened(nodes: Sequence[str]) -> tuple[Replica, ...]:
    """The processes of a gang that is sent to these nodes, by rank."""
    return tuple(Replica(rank, node) for rank, node in enumerate(nodes))


def reported(attempt: Attempt, said: Attempt, now: datetime) -> Attempt:
    """A gang's attempt once a node has said what became of one of its processes."""
    before = attempt.replicas[said.rank]
    after = replace(
        before,
        state=said.state,
        host=said.host or before.host,
        ports=said.ports or before.ports,
        exit_code=said.exit_code,
        end_reason=said.end_reason,
        start_time=said.start_time or before.start_time,
        end_time=(said.end_time or now) if said.state is AttemptState.ENDED else None,
    )
    return _together(attempt, {said.rank: after}, now)


def lost(attempt: Attempt, node: str, now: datetime) -> Attempt:
    """A gang's attempt once one of its nodes fell silent."""
    gone = {
        each.rank: replace(each, state=AttemptState.LOST, end_reason="LEASE_EXPIRED", end_time=now)
        for each in attempt.replicas
        if each.node == node and each.state in LIVE
    }
    return _together(attempt, gone, now)


def why_broken(attempt: Attempt) -> str:
    """Which process ended it, and how, for people."""
    culprit = next(
        (
            each
            for each in attempt.replicas
            if (each.exit_code, each.end_reason) == (attempt.exit_code, attempt.end_reason)
        ),
        attempt.replicas[0],
    )
    how = culprit.end_reason or f"exit code {culprit.exit_code}"
    return f"replica {culprit.rank} on node {culprit.node} ended with {how}"


def meeting_point(attempt: Attempt) -> tuple[str, int] | None:
    """Where the processes of a gang meet; None while the first has not said."""
    first = attempt.replicas[0]
    port = first.ports.get(RENDEZVOUS)
    return (first.host, port) if port and first.state is not AttemptState.LOST else None


def _together(attempt: Attempt, changed: Mapping[int, Replica], now: datetime) -> Attempt:
    """The attempt with these processes as they are now."""
    replicas = tuple(changed.get(each.rank, each) for each in attempt.replicas)
    for each in changed.values():
        attempt = _judged(attempt, each)
    states = {each.state for each in replicas}
    first, state = replicas[0], attempt.state
    if not states & LIVE:
        state = AttemptState.LOST if AttemptState.LOST in states else AttemptState.ENDED
    elif AttemptState.ASSIGNED not in states:
        state = AttemptState.RUNNING
    over = state not in LIVE
    starts = [each.start_time for each in replicas if each.start_time]
    return replace(
        attempt,
        state=state,
        replicas=replicas,
        host=first.host,
        ports=first.ports,
        exit_code=0 if state is AttemptState.ENDED and not attempt.broken else attempt.exit_code,
        # It runs from when all do.
        start_time=max(starts) if state is not AttemptState.ASSIGNED and starts else None,
        end_time=now if over else None,
    )


def _judged(attempt: Attempt, each: Replica) -> Attempt:
    """With the exit code and reason that count: the first, but for what the platform has done itself."""
    failed = each.state not in LIVE and (each.exit_code != 0 or each.end_reason)
    # One that was stopped before it began broke nothing.
    by_platform = each.end_reason in PLATFORM_ENDS - {NOT_STARTED}
    if failed and (not attempt.broken or (by_platform and attempt.end_reason not in PLATFORM_ENDS)):
        return replace(attempt, exit_code=each.exit_code, end_reason=each.end_reason)
    return attempt

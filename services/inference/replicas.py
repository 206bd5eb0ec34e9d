"""A replica: one server process that holds one revision, run as a job of the scheduler. Pure.

Two sources tell of it: its own reports, by far the fresher, and what the scheduler says of its job. Both name the
attempt (epoch) that they speak of; an older one's word never counts.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from aios.errors import InvalidArgument, NotFound, StaleEpoch
from aios.names import JobName, RevisionName

FAILURES_MAX = 3
"""Attempts in a row that end without ever being ready: then it is the revision that is broken."""
MESSAGE_LENGTH_MAX = 1000  # a model server's first lines say enough; its log has the rest


class ReplicaNotFound(NotFound):
    """No replica has this job: its revision is gone, and so should be the job."""

    reason = "REPLICA_NOT_FOUND"


class State(StrEnum):
    """Where a replica stands."""

    PLANNED = "PLANNED"  # its job is to be made
    WAITING = "WAITING"  # its job waits for resources
    STARTING = "STARTING"  # its process loads the model
    READY = "READY"  # it has answered an inference
    SILENT = "SILENT"  # was ready, and has not reported since
    FAILED = "FAILED"  # an attempt ended; the scheduler starts the next
    LEAVING = "LEAVING"  # gets no new requests; its last ones end
    STOPPING = "STOPPING"  # its job is to be cancelled
    ENDED = "ENDED"  # its job is over for good


DONE = frozenset({State.LEAVING, State.STOPPING, State.ENDED})
"""States of a replica that will not serve again."""


class Address(NamedTuple):
    """Where it listens. `host` is an IP address."""

    host: str
    http_port: int
    grpc_port: int


@dataclass(frozen=True)
class Replica:
    """One replica of a revision."""

    job: JobName
    state: State = State.PLANNED
    message: str = ""
    epoch: int = 0
    """The newest attempt heard of."""
    address: Address | None = None
    """None unless it is READY, or was until it fell silent."""
    failures: int = 0
    failed_epoch: int = 0
    """The newest attempt among the failures: one attempt is told of more than once."""
    left_in: int = 0
    """Of one that is LEAVING: the routing table that first lacked it."""


@dataclass(frozen=True)
class JobNews:
    """What the scheduler says of a replica's job."""

    final: bool
    """No further attempt follows."""
    failed: bool
    """Final, and not because somebody cancelled it."""
    started: bool
    """An attempt is under way."""
    over: bool
    """The newest attempt has ended or was lost."""
    blameless: bool
    """It ended by the platform's doing."""
    epoch: int
    message: str


def plan(revision: RevisionName, index: int) -> Replica:
    """A replica to be made. Its job's name says whose it is, and never recurs."""
    return Replica(JobName(revision.project, f"{revision.deployment}-r{revision.revision}-{index}"))


def report(replica: Replica, epoch: int, state: State, message: str, address: Address | None) -> Replica:
    """Take over what a replica says of itself.

    Args:
        state: STARTING, READY or FAILED.

    Raises:
        StaleEpoch: a newer attempt serves in its place.
        InvalidArgument: it is ready but says not where.
    """
    if epoch < replica.epoch:
        raise StaleEpoch(
            f"Attempt {replica.epoch} of {replica.job} serves now; attempt {epoch} must stop.",
            job=str(replica.job),
            epoch=str(replica.epoch),
        )
    if replica.state in DONE:
        return replica
    message = message[:MESSAGE_LENGTH_MAX]
    if state is State.FAILED:
        return _fail(replica, epoch, message)
    if state is State.STARTING:
        return _start(replica, epoch, message)
    if address is None:
        raise InvalidArgument.of("host", "a ready replica must say where it listens")
    return replace(replica, state=State.READY, epoch=epoch, message=message, address=address, failures=0)


def follow(replica: Replica, news: JobNews) -> Replica:
    """Take over what the scheduler says of its job. A replica that says it is ready is believed until its attempt ends."""
    if replica.state is State.ENDED:
        return replica
    if news.final:
        failures = FAILURES_MAX if news.failed else replica.failures
        return replace(replica, state=State.ENDED, message=news.message, address=None, failures=failures)
    if replica.state in DONE or news.epoch < replica.epoch:
        return replica
    if news.over:
        if news.blameless:
            return replace(replica, state=State.FAILED, epoch=news.epoch, message=news.message, address=None)
        return _fail(replica, news.epoch, news.message)
    if news.started and (
        news.epoch > replica.epoch or replica.state in (State.PLANNED, State.WAITING, State.FAILED)
    ):
        if news.epoch == replica.failed_epoch:
            return replica  # it said so itself; its process is about to end
        return _start(replica, news.epoch, news.message)
    if not news.started and replica.state in (State.PLANNED, State.WAITING):
        return replace(replica, state=State.WAITING, message=news.message)
    return replica


def lose(replica: Replica) -> Replica:
    """The scheduler has no job of this name that is ours."""
    return replace(replica, state=State.ENDED, message="its job is unknown to the scheduler", address=None)


def refuse(replica: Replica, message: str) -> Replica:
    """Its job can never be made as it is."""
    return replace(replica, state=State.ENDED, message=message, failures=FAILURES_MAX)


def fall_silent(replica: Replica, seconds: float) -> Replica:
    """It was ready and has not been heard for a while. It keeps its address, which may still answer."""
    return replace(replica, state=State.SILENT, message=f"not heard for {seconds:.0f} s")


def leave(replica: Replica, table: int) -> Replica:
    """Take it out of the routing table, of which `table` is the first without it. One that never answered just ends."""
    if replica.address is None:
        return stop(replica)
    return replace(replica, state=State.LEAVING, message="no longer needed", address=None, left_in=table)


def stop(replica: Replica) -> Replica:
    """Ask for its end."""
    if replica.state in (State.STOPPING, State.ENDED):
        return replica
    return replace(replica, state=State.STOPPING, message="", address=None)


def _start(replica: Replica, epoch: int, message: str) -> Replica:
    # Why the last attempt ended says more than that the next one loads.
    told = replica.message if replica.failures else message
    return replace(replica, state=State.STARTING, epoch=epoch, message=told, address=None)


def _fail(replica: Replica, epoch: int, message: str) -> Replica:
    counted = epoch == replica.failed_epoch
    return replace(
        replica,
        state=State.FAILED,
        epoch=epoch,
        # The replica's own reason says more than the exit code that follows it.
        message=replica.message if counted and replica.message else message,
        address=None,
        failures=replica.failures + (not counted),
        failed_epoch=epoch,
    )

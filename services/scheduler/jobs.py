"""A job and its life. Pure: every function takes a job and returns what it becomes.

A job is tried in attempts, numbered by epoch. Only the attempt that the job names now can change it: whatever an
older one still says is refused. An attempt that ends by the platform's doing (node lost or stopped, supervisor
killed) is no failure of the job: it is queued again and its restart budget stays whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from aios.errors import AlreadyExists, NotFound, StaleEpoch
from aios.names import JobName
from services.scheduler import attempts
from services.scheduler.attempts import LIVE, PLATFORM_ENDS, Attempt, AttemptState
from services.scheduler.progress import Progress
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

PAUSE_MAX = timedelta(seconds=60)
"""Longest wait before a failing job is started again."""
STABLE = timedelta(seconds=60)
"""An attempt that ran this long was fine: the next restart is the first again."""

CANCEL_REQUESTED = "CANCEL_REQUESTED"
PREEMPTED = "PREEMPTED"
MAX_RUN_TIME = "MAX_RUN_TIME"
NODE_LOST = "NODE_LOST"
REPLICA_ENDED = "REPLICA_ENDED"
RESIZED = "RESIZED"
DRAINED = "DRAINED"
GIVES_WAY = frozenset({PREEMPTED, RESIZED, DRAINED})
"""Why a job is stopped that is to go on by itself."""


class JobNotFound(NotFound):
    """The project has no such job. Retrying cannot help."""

    reason = "JOB_NOT_FOUND"


class JobExists(AlreadyExists):
    """The project has a job of this name; names are never used twice."""

    reason = "JOB_EXISTS"


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.STARTING, State.CANCELLED}),
        State.STARTING: frozenset(
            {State.RUNNING, State.STOPPING, State.QUEUED, State.SUCCEEDED, State.FAILED}
        ),
        State.RUNNING: frozenset({State.STOPPING, State.QUEUED, State.SUCCEEDED, State.FAILED}),
        State.STOPPING: frozenset({State.CANCELLED, State.QUEUED, State.FAILED}),
        State.SUCCEEDED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
    }
)
FINAL = frozenset(state for state, following in NEXT.items() if not following)
HOLDS_RESOURCES = frozenset({State.STARTING, State.RUNNING, State.STOPPING})

EVENT: Mapping[State, str] = MappingProxyType(
    {
        State.QUEUED: "requeued",
        State.STARTING: "starting",
        State.RUNNING: "running",
        State.STOPPING: "stopping",
        State.SUCCEEDED: "succeeded",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
    }
)
"""What is announced when a job enters a state. A new job is announced as `created`."""


@dataclass(frozen=True)
class Job:
    """One thing to run on the pool."""

    name: JobName
    spec: JobSpec
    state: State
    create_time: datetime
    update_time: datetime
    queued_time: datetime
    """Since when it waits, or waited last: its wait in the trace starts here."""
    reason: str = ""
    message: str = ""
    epoch: int = 0
    failures: int = 0
    """Ends that count against `max_restarts`."""
    streak: int = 0
    """Ends in a row without a stable attempt: makes the pause grow."""
    retry_time: datetime | None = None
    """Not started again before this."""
    ran: timedelta = timedelta()
    """Of all attempts before the present one, from being sent to a node to the end."""
    waited: timedelta = timedelta()
    """Of all waits before the present one."""
    progress: Progress | None = None
    """What it last said; none while it has said nothing."""
    end_time: datetime | None = None
    traceparent: str = ""
    number: int = 0
    """Order of acceptance: age that no clock can shuffle. Given by the store."""
    version: int = 0
    """Grows with every stored change."""
    change: int = field(default=0, compare=False)
    """Number of its last stored change, of all changes of all jobs."""
    attempt: Attempt | None = None


def create(name: JobName, spec: JobSpec, now: datetime, traceparent: str = "") -> Job:
    """A job that waits for its first start."""
    return Job(name, spec, State.QUEUED, now, now, now, traceparent=traceparent)


def assign(job: Job, nodes: Sequence[str], granted: Resources, now: datetime) -> Job:
    """Open the next attempt.

    Args:
        nodes: Of each replica, by rank.
        granted: To one replica.
    """
    replicas = attempts.opened(nodes) if job.spec.replicas > 1 else ()
    attempt = Attempt(
        job.name,
        job.epoch + 1,
        nodes[0],
        AttemptState.ASSIGNED,
        granted,
        assign_time=now,
        replicas=replicas,
    )
    started = _move(job, State.STARTING, now, "ASSIGNED", f"was sent to {attempt.place}")
    waited = job.waited + _span(job.queued_time, now)
    return replace(started, epoch=attempt.epoch, attempt=attempt, retry_time=None, waited=waited)


def cancel(job: Job, now: datetime) -> Job:
    """Ask a job to stop. A job that has ended, or is stopping on request, stays as it is."""
    if job.state in FINAL or (job.state is State.STOPPING and job.reason == CANCEL_REQUESTED):
        return job
    if job.state is State.QUEUED:
        return _move(job, State.CANCELLED, now, CANCEL_REQUESTED, "was cancelled before it started")
    grace = job.spec.stop_grace.total_seconds()
    message = f"was asked to stop; killed {grace:g} s after that"
    if job.state is State.STOPPING:
        return replace(job, reason=CANCEL_REQUESTED, message=message, update_time=now)
    return _move(job, State.STOPPING, now, CANCEL_REQUESTED, message)


def preempt(job: Job, now: datetime, replicas: int = 0) -> Job:
    """Stop what runs: it waits again, and goes on from its last checkpoint. No failure of the job.

    Args:
        replicas: That it is to go on with at once; 0 where it makes room for others.
    """
    if job.state not in (State.STARTING, State.RUNNING):
        return job
    if replicas:
        return _move(job, State.STOPPING, now, RESIZED, f"is stopped to go on with {replicas} replicas")
    return _move(job, State.STOPPING, now, PREEMPTED, "is stopped to make room for others")


def drain(job: Job, now: datetime) -> Job:
    """Stop what runs on a node that is drained: it goes on elsewhere. No failure of the job."""
    if job.state not in (State.STARTING, State.RUNNING):
        return job
    return _move(job, State.STOPPING, now, DRAINED, "is stopped because its node is drained")


def overdue(job: Job, now: datetime) -> bool:
    """Whether it has run for as long as it may, its earlier attempts included."""
    limit, attempt = job.spec.scheduling.max_run_time, job.attempt
    if limit is None or attempt is None or job.state not in (State.STARTING, State.RUNNING):
        return False
    return job.ran + _span(attempt.assign_time, now) > limit


def overrun(job: Job, now: datetime) -> Job:
    """Stop what has run for as long as it may: it fails once it is gone."""
    limit = job.spec.scheduling.max_run_time
    assert limit is not None
    message = f"ran for its {limit.total_seconds():g} s and is stopped"
    return _move(job, State.STOPPING, now, MAX_RUN_TIME, message)


def report(job: Job, said: Attempt, now: datetime) -> Job:
    """Take over what a node says about an attempt. Saying it again changes nothing.

    Raises:
        StaleEpoch: the job has gone on without this attempt; the node must stop it.
    """
    attempt = job.attempt
    if attempt is None or said.epoch != attempt.epoch or not attempt.is_of(said):
        raise StaleEpoch(
            f"{job.name} is at attempt {job.epoch}: attempt {said.epoch} on node {said.node} no longer counts.",
            job=str(job.name),
            epoch=str(said.epoch),
        )
    state = attempt.replicas[said.rank].state if attempt.replicas else attempt.state
    if state is AttemptState.LOST:
        raise StaleEpoch(
            f"Attempt {said.epoch} of {job.name} was given up when its node fell silent.",
            job=str(job.name),
            epoch=str(said.epoch),
        )
    if state is AttemptState.ENDED and said.state in LIVE:
        raise StaleEpoch(
            f"Attempt {said.epoch} of {job.name} has ended.", job=str(job.name), epoch=str(said.epoch)
        )
    if said.state is state:
        return job
    if attempt.replicas:
        return _as_a_gang(job, attempts.reported(attempt, said, now), now)
    if said.state is AttemptState.RUNNING:
        known = replace(
            attempt, state=said.state, host=said.host, ports=said.ports, start_time=said.start_time or now
        )
        if job.state is State.STOPPING:
            return replace(job, attempt=known, update_time=now)
        return replace(
            _move(job, State.RUNNING, now, "RUNNING", f"runs on node {attempt.node}"), attempt=known
        )
    if said.state is AttemptState.ENDED:
        ended = replace(
            attempt,
            state=said.state,
            host=said.host or attempt.host,
            ports=said.ports or attempt.ports,
            exit_code=said.exit_code,
            end_reason=said.end_reason or _given_reason(job),
            start_time=said.start_time or attempt.start_time,
            end_time=said.end_time or now,
        )
        return _after_end(_added_up(replace(job, attempt=ended)), ended, now)
    return job


def progressed(job: Job, said: Progress, now: datetime) -> Progress:
    """What is known of a job's progress once its process has said so.

    Raises:
        StaleEpoch: it is not the process of the present attempt.
    """
    attempt = job.attempt
    if attempt is None or attempt.epoch != said.epoch or attempt.state not in LIVE or job.state in FINAL:
        raise StaleEpoch(
            f"Attempt {said.epoch} of {job.name} is not the one that runs.",
            job=str(job.name),
            epoch=str(said.epoch),
        )
    before, made = job.progress, said.step - said.restored_step
    load_time = before.load_time if before else None
    if (
        made > 0
        and said.steps_per_second > 0
        and (before is None or before.epoch != said.epoch or not load_time)
    ):
        # By one clock: the process says how fast it is, not what time it is there.
        taken = min(timedelta(seconds=made / said.steps_per_second), _span(attempt.assign_time, now))
        load_time = _span(attempt.assign_time, now) - taken
    return replace(said, load_time=load_time, update_time=now)


def lose(job: Job, now: datetime, node: str, reason: str = NODE_LOST, message: str = "") -> Job:
    """Give up what runs on a node that fell silent. The job starts again elsewhere unless it was to stop.

    Of a gang the replicas on other nodes are stopped first.
    """
    assert job.attempt is not None
    message = message or f"node {node} fell silent during attempt {job.epoch}"
    if job.attempt.replicas:
        lost = attempts.lost(job.attempt, node, now)
        return job if lost == job.attempt else _as_a_gang(job, lost, now)
    attempt = replace(job.attempt, state=AttemptState.LOST, end_reason="LEASE_EXPIRED", end_time=now)
    return _after_loss(_added_up(replace(job, attempt=attempt)), now, reason, message)


def due(job: Job, now: datetime) -> bool:
    """Whether its pause is over. A wall clock set back cannot stretch a pause beyond the longest one."""
    return job.retry_time is None or not now < job.retry_time <= now + PAUSE_MAX


def _as_a_gang(job: Job, attempt: Attempt, now: datetime) -> Job:
    """What becomes of a job when one of its processes has: they run when all do, and end when the first fails."""
    if attempt.state is AttemptState.LOST:
        job = _added_up(replace(job, attempt=attempt))
        return _after_loss(job, now, NODE_LOST, f"a node fell silent during attempt {attempt.epoch}")
    if attempt.state is AttemptState.ENDED:
        ended = replace(attempt, end_reason=attempt.end_reason or _given_reason(job))
        return _after_end(_added_up(replace(job, attempt=ended)), ended, now)
    job = replace(job, attempt=attempt, update_time=now)
    if attempt.broken and job.state in (State.STARTING, State.RUNNING):
        message = f"{attempts.why_broken(attempt)}: the other replicas are stopped"
        return _move(job, State.STOPPING, now, REPLICA_ENDED, message)
    if attempt.state is AttemptState.RUNNING and job.state is State.STARTING:
        return _move(job, State.RUNNING, now, "RUNNING", f"runs on {attempt.place}")
    return job


_WHY_STOPPED = {
    PREEMPTED: "to make room for others",
    RESIZED: "to go on with another number of replicas",
    DRAINED: "because its node is drained",
}


def _given_reason(job: Job) -> str:
    """Why the attempt of a job ends that was asked to give way."""
    return job.reason if job.state is State.STOPPING and job.reason in GIVES_WAY else ""


def _after_loss(job: Job, now: datetime, reason: str, message: str) -> Job:
    if job.state is State.STOPPING and job.reason == MAX_RUN_TIME:
        return _move(job, State.FAILED, now, MAX_RUN_TIME, f"ran for as long as it may; {message}")
    if job.state is State.STOPPING and job.reason == CANCEL_REQUESTED:
        return _move(job, State.CANCELLED, now, reason, message)
    return _requeue(job, now, reason, message)


def _after_end(job: Job, attempt: Attempt, now: datetime) -> Job:
    said = _told(attempt)
    if job.state is State.STOPPING and job.reason == MAX_RUN_TIME:
        return _move(job, State.FAILED, now, MAX_RUN_TIME, f"ran for as long as it may: {said}")
    if job.state is State.STOPPING and job.reason == CANCEL_REQUESTED:
        return _move(job, State.CANCELLED, now, job.reason, f"stopped on request: {said}")
    if job.state is State.STOPPING and job.reason in GIVES_WAY:
        # Even with exit code 0: a process that saved its work and left is not one that has finished it.
        return _requeue(job, now, job.reason, f"was stopped {_WHY_STOPPED[job.reason]}")
    job = replace(job, streak=1 if _was_stable(attempt) else job.streak + 1)
    if attempt.end_reason in PLATFORM_ENDS:
        return _requeue(job, now, attempt.end_reason, said, _pause(job.streak))
    reason = attempt.end_reason or "EXIT_CODE"
    if job.spec.kind is Kind.SERVICE:
        return _requeue(job, now, reason, said, _pause(job.streak))
    if attempt.exit_code == 0 and not attempt.end_reason:
        return _move(job, State.SUCCEEDED, now, "COMPLETED", said)
    job = replace(job, failures=job.failures + 1)
    if job.failures > job.spec.max_restarts:
        budget = f"; all {job.spec.max_restarts} restarts are used" if job.spec.max_restarts else ""
        return _move(job, State.FAILED, now, reason, said + budget)
    said += f"; restart {job.failures} of {job.spec.max_restarts}"
    return _requeue(job, now, reason, said, _pause(job.streak))


def _added_up(job: Job) -> Job:
    """With the attempt that has just ended in what it ran."""
    assert job.attempt is not None
    return replace(job, ran=job.ran + _span(job.attempt.assign_time, job.attempt.end_time))


def _requeue(job: Job, now: datetime, reason: str, message: str, pause: timedelta = timedelta()) -> Job:
    limit = job.spec.scheduling.max_run_time
    if limit is not None and job.ran >= limit:
        return _move(job, State.FAILED, now, MAX_RUN_TIME, f"ran for as long as it may; {message}")
    if pause:
        message += f" in {pause.total_seconds():g} s"
    moved = _move(job, State.QUEUED, now, reason, message)
    return replace(moved, queued_time=now, retry_time=now + pause if pause else None)


def _move(job: Job, state: State, now: datetime, reason: str, message: str) -> Job:
    assert state in NEXT[job.state], f"{job.state} -> {state}"
    end_time = now if state in FINAL else None
    return replace(job, state=state, reason=reason, message=message, update_time=now, end_time=end_time)


def _span(start: datetime | None, end: datetime | None) -> timedelta:
    """Between two moments that clocks of different machines may have told."""
    return max(timedelta(), end - start) if start and end else timedelta()


def _pause(streak: int) -> timedelta:
    """None before the first restart, then 1 s, doubled each time."""
    return min(timedelta(seconds=2 ** min(streak - 2, 16)), PAUSE_MAX) if streak > 1 else timedelta()


def _was_stable(attempt: Attempt) -> bool:
    return bool(attempt.start_time and attempt.end_time and attempt.end_time - attempt.start_time >= STABLE)


def _told(attempt: Attempt) -> str:
    if attempt.exit_code is None:
        return f"attempt {attempt.epoch} ended without an exit code: {attempt.end_reason or 'unknown'}"
    how = f"signal {attempt.exit_code - 128}" if attempt.exit_code > 128 else f"exit code {attempt.exit_code}"
    why = f", {attempt.end_reason}" if attempt.end_reason else ""
    return f"attempt {attempt.epoch} ended with {how}{why}"

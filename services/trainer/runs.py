"""A run and its life. Pure: every function takes a run and returns what it becomes.

A run follows its scheduler job; what the job cannot know (what was trained, restored, registered) is added by the
training process of the newest attempt. Reports of an older attempt are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from aios.errors import AlreadyExists, FailedPrecondition, NotFound, StaleEpoch
from aios.names import JobName, RunName

CPU_MILLIS, MEMORY_BYTES = 1000, 1 << 30  # of a run that asks for nothing
MAX_RESTARTS, MAX_RESTARTS_COMMAND = (
    2,
    0,
)  # of a run that says nothing: a script that fails mostly fails again
STOP_GRACE = timedelta(seconds=10)  # the same


class RunNotFound(NotFound):
    """The project has no such run. Retrying cannot help."""

    reason = "RUN_NOT_FOUND"


class RunExists(AlreadyExists):
    """The project has a run of this name."""

    reason = "RUN_EXISTS"


class RunEnded(FailedPrecondition):
    """The run has reached its end: nothing more can be reported."""

    reason = "RUN_ENDED"


class State(StrEnum):
    """Where a run stands."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
_UNDER_WAY = frozenset({State.QUEUED, State.STARTING, State.RUNNING})
NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        # Its job may be requeued and started again at any time, and news of it may skip steps.
        **{state: (_UNDER_WAY | FINAL | {State.STOPPING}) - {state} for state in _UNDER_WAY},
        State.STOPPING: FINAL,
        **{state: frozenset() for state in FINAL},
    }
)

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
"""What is announced when a run enters a state. A new run is announced as `created`."""


@dataclass(frozen=True)
class RunSpec:
    """What to train, on what, with what. Everything is filled in: nothing is left to a default of the day."""

    recipe: str
    """Empty where it has a command."""
    dataset_version: str
    """Empty where it has none."""
    hyperparameters: Mapping[str, Any]
    cpu_millis: int = CPU_MILLIS
    memory_bytes: int = MEMORY_BYTES
    accelerators: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    accelerator_millis: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """A share of one device, in thousandths."""
    accelerator_memory_bytes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of that device's memory."""
    budgets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of what else its node has: scratch, network, counters."""
    seed: int = 0
    model: str = ""
    checkpoint_steps: int = 0
    max_restarts: int = MAX_RESTARTS
    description: str = ""
    command: Sequence[str] = ()
    """Program and arguments of the caller's own."""
    code_version: str = ""
    """The dataset version that holds the command's code."""
    dataset_versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """More data of a command, by name."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    stop_grace_seconds: float = STOP_GRACE.total_seconds()
    priority: int = 0
    queue: str = ""
    scheduling: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What its job says of itself to the scheduler, as JSON."""
    processes: int = 0
    """Ranks that its command is started as; 0 where it is one process."""
    hang_seconds: float = 0.0
    """Without a sign of a rank's training; 0 for no limit."""
    node_network: bool = False
    replicas: int = 1
    """Size of its job as a gang."""
    min_replicas: int = 0
    """How few it may run with; 0 where it has one size."""
    base_model: str = ""
    """The model version that it starts from; empty for most."""
    requirements: str = ""
    """The dataset version that holds the lock of a command's packages; empty where the node's own do."""

    @property
    def inputs(self) -> Sequence[str]:
        """Everything that it reads, as versions."""
        named = (
            self.base_model,
            self.dataset_version,
            self.code_version,
            self.requirements,
            *self.dataset_versions.values(),
        )
        return [version for version in dict.fromkeys(named) if version]


@dataclass(frozen=True)
class Progress:
    """How far a run is; `total_steps` is 0 while unknown."""

    step: int = 0
    total_steps: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Run:
    """One training run."""

    name: RunName
    spec: RunSpec
    state: State
    create_time: datetime
    update_time: datetime
    creator: str = ""
    traceparent: str = ""
    reason: str = ""
    message: str = ""
    epoch: int = 0
    job_epoch: int = 0
    """Newest attempt that the scheduler told of; may be ahead of the one that reported."""
    job_version: int = 0
    """Newest change of the job that was followed."""
    job_created: bool = False
    progress: Progress = field(default_factory=Progress)
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    output: bytes = b""
    """Serialised ModelOutput of the completion, kept until it is registered."""
    completed: bool = False
    model_version: str = ""
    outputs_version: str = ""
    exit_code: int | None = None
    end_time: datetime | None = None
    trial: str = ""
    """`sweeps/{sweep}/trials/{number}` that it is a run of."""
    source: str = ""
    """Id of the run whose newest checkpoint it goes on from, where it has none of its own."""

    @property
    def job(self) -> JobName:
        """Its scheduler job carries its id, so that the two can be told from each other's names."""
        return JobName(self.name.project, self.name.run)

    @property
    def registered(self) -> bool:
        """Nothing is left to register."""
        return not (self.completed and self.spec.model) or bool(self.model_version)


Change = Callable[[Run], Run]
"""One of the functions below, with all but the run given."""


@dataclass(frozen=True)
class JobNews:
    """What the scheduler said of a run's job."""

    state: State
    epoch: int
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    version: int = 0
    """Of the job in the scheduler's log of changes; 0 for the job as it is now, which is always newest."""


def follow(run: Run, news: JobNews, now: datetime) -> Run:
    """The run after news of its job. Older news, and news of a run that has ended, change nothing.

    A job that ends well ends the run only when the training process has completed it and its model is registered:
    until then the run stays RUNNING and the same news must be brought again.
    """
    if run.state in FINAL or news.epoch < run.job_epoch or 0 < news.version <= run.job_version:
        return run
    state, reason, message = news.state, news.reason, news.message
    if state is State.SUCCEEDED and not run.completed:
        state, reason = State.FAILED, "NOT_COMPLETED"
        message = "The process ended with exit code 0 but reported no result: see its log."
    elif state is State.SUCCEEDED and not run.registered:
        state, reason, message = State.RUNNING, "REGISTERING", "The model is being registered."
    if run.state is State.STOPPING and state not in FINAL:
        state, reason, message = State.STOPPING, run.reason, run.message
    if state is not run.state and state not in NEXT[run.state]:
        return run
    after = replace(
        run,
        state=state,
        reason=reason,
        message=message,
        job_epoch=news.epoch,
        job_version=max(news.version, run.job_version),
        exit_code=news.exit_code if state in FINAL else run.exit_code,
        end_time=now if state in FINAL else None,
    )
    return replace(after, update_time=now) if after != run else run


def with_job(run: Run, now: datetime) -> Run:
    """The run whose job the scheduler has accepted."""
    return run if run.job_created else replace(run, job_created=True, update_time=now)


def cancel(
    run: Run, now: datetime, reason: str = "CANCEL_REQUESTED", message: str = "Was asked to stop."
) -> Run:
    """The run after a request to stop. One that has no job yet ends at once; one that has ended stays as it is."""
    if run.state in FINAL or run.state is State.STOPPING:
        return run
    if not run.job_created:
        return replace(
            run,
            state=State.CANCELLED,
            reason=reason,
            message="Cancelled before it started." if reason == "CANCEL_REQUESTED" else message,
            update_time=now,
            end_time=now,
        )
    return replace(run, state=State.STOPPING, reason=reason, message=message, update_time=now)


def begin(run: Run, epoch: int, restored_step: int, metrics: Mapping[str, float], now: datetime) -> Run:
    """The run taken over by the training process of attempt `epoch`, from `restored_step` on.

    Args:
        metrics: The newest of those that were measured up to that step.
    """
    check_epoch(run, epoch)
    state = State.RUNNING if State.RUNNING in NEXT[run.state] else run.state
    return replace(
        run,
        state=state,
        reason="",
        message="",
        epoch=epoch,
        job_epoch=max(epoch, run.job_epoch),
        progress=replace(run.progress, step=restored_step, phase="start"),
        metrics=MappingProxyType(dict(metrics)),
        update_time=now,
    )


def report(
    run: Run, epoch: int, metrics: Mapping[str, float], progress: Progress | None, now: datetime
) -> Run:
    """The run with newer figures."""
    check_epoch(run, epoch)
    return replace(
        run,
        metrics=MappingProxyType({**run.metrics, **metrics}),
        progress=progress or run.progress,
        update_time=now,
    )


def complete(run: Run, epoch: int, output: bytes, outputs_version: str, now: datetime) -> Run:
    """The run with what it made. The first completion counts."""
    if run.completed:
        return run
    check_epoch(run, epoch)
    return replace(run, completed=True, output=output, outputs_version=outputs_version, update_time=now)


def register(run: Run, model_version: str, now: datetime) -> Run:
    """The run with its model in the registry."""
    return run if run.model_version else replace(run, model_version=model_version, update_time=now)


def check_epoch(run: Run, epoch: int) -> None:
    """Refuse what may not change the run.

    Raises:
        StaleEpoch: a newer attempt has begun.
        RunEnded: the run is over.
    """
    if epoch < max(run.epoch, run.job_epoch):
        newest = max(run.epoch, run.job_epoch)
        raise StaleEpoch(
            f"Attempt {epoch} of {run.name} was followed by attempt {newest}: stop.",
            run=str(run.name),
            epoch=str(newest),
        )
    if run.state in FINAL:
        raise RunEnded(f"{run.name} has ended as {run.state}: nothing can be reported.", run=str(run.name))

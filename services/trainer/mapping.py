"""Protos to runs and back."""

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import resources_pb2
from aios.errors import InvalidArgument
from aios.names import DatasetName, DatasetVersionName, check_id
from aios.runtime.telemetry import trace_id_of
from aios.scheduler.v1 import job_pb2
from aios.trainer.v1 import run_pb2
from services.trainer import catalog
from services.trainer.metrics import Point
from services.trainer.runs import (
    CPU_MILLIS,
    MAX_RESTARTS,
    MEMORY_BYTES,
    JobNews,
    Progress,
    Run,
    RunSpec,
    State,
)

RESTARTS_MAX = 100
JOB_COMMAND = ("python", "-m", "services.trainer.job")


def run_to_proto(run: Run) -> run_pb2.Run:
    """The run as callers see it."""
    return run_pb2.Run(
        name=str(run.name),
        spec=_spec_to_proto(run.spec),
        state=run_pb2.Run.State.Value(f"STATE_{run.state.value}"),
        state_reason=run.reason,
        state_message=run.message,
        job=str(run.job) if run.job_created else "",
        epoch=run.epoch,
        progress=run_pb2.Progress(
            step=run.progress.step, total_steps=run.progress.total_steps, phase=run.progress.phase
        ),
        metrics=run.metrics,
        model_version=run.model_version,
        exit_code=run.exit_code,
        trace_id=trace_id_of(run.traceparent),
        create_time=_timestamp(run.create_time),
        update_time=_timestamp(run.update_time),
        end_time=_timestamp(run.end_time),
        creator=run.creator,
    )


def dataset_version_asked(project: str, dataset: str) -> DatasetVersionName:
    """The dataset version that a spec asks for; `latest` where it names none.

    Raises:
        InvalidArgument: it is no dataset of the project.
    """
    full = dataset if dataset.startswith("projects/") else f"projects/{project}/{dataset}"
    if DatasetName.matches(full):
        full += "/versions/latest"
    if not DatasetVersionName.matches(full) or DatasetVersionName.parse(full).project != project:
        raise InvalidArgument.of(
            "spec.dataset",
            f"must be datasets/{{dataset}} or datasets/{{dataset}}/versions/{{version}} of {project}, not {dataset!r}",
        )
    return DatasetVersionName.parse(full)


def spec_from_proto(spec: run_pb2.RunSpec, dataset_version: str) -> RunSpec:
    """The spec with every default filled in.

    Raises:
        InvalidArgument: naming the wrong field.
    """
    given = MessageToDict(spec.hyperparameters)
    resources = spec.resources
    if resources.cpu_millis < 0 or resources.memory_bytes < 0:
        raise InvalidArgument.of("spec.resources", "must not be negative")
    if not 0 <= spec.max_restarts <= RESTARTS_MAX:
        raise InvalidArgument.of("spec.max_restarts", f"must be between 0 and {RESTARTS_MAX}")
    if spec.checkpoint_steps < 0:
        raise InvalidArgument.of("spec.checkpoint_steps", "must not be negative")
    return RunSpec(
        recipe=spec.recipe,
        dataset_version=dataset_version,
        hyperparameters=catalog.hyperparameters(spec.recipe, given),
        cpu_millis=resources.cpu_millis or CPU_MILLIS,
        memory_bytes=resources.memory_bytes or MEMORY_BYTES,
        accelerators=dict(resources.accelerators),
        seed=spec.seed,
        model=check_id(spec.model, "spec.model") if spec.model else "",
        checkpoint_steps=spec.checkpoint_steps,
        max_restarts=spec.max_restarts if spec.HasField("max_restarts") else MAX_RESTARTS,
        description=spec.description,
    )


def job_of(run: Run) -> job_pb2.Job:
    """The scheduler job that trains a run."""
    return job_pb2.Job(
        spec=job_pb2.JobSpec(
            kind=job_pb2.JobSpec.KIND_BATCH,
            command=JOB_COMMAND,
            resources=_resources_to_proto(run.spec),
            max_restarts=run.spec.max_restarts,
            owner=str(run.name),
        )
    )


PREEMPTED = "PREEMPTED"
"""The scheduler's reason for a job that is stopped to make room for others."""


def news_from_proto(job: job_pb2.Job, version: int = 0) -> JobNews:
    """What a job's state says of its run; `version` where it comes from the log of changes."""
    attempt = job.attempt
    state = State(job_pb2.Job.State.Name(job.state).removeprefix("STATE_"))
    if state is State.STOPPING and job.state_reason == PREEMPTED:
        # Nobody asked for the run to end: it saves its work and goes on later.
        state = State.RUNNING
    return JobNews(
        state=state,
        epoch=job.epoch,
        reason=job.state_reason,
        message=job.state_message,
        exit_code=attempt.exit_code if attempt.HasField("exit_code") else None,
        version=version,
    )


def points_from_proto(points: Sequence[run_pb2.MetricPoint]) -> list[Point]:
    """Metric points as reported.

    Raises:
        InvalidArgument: a time that no calendar has.
    """
    try:
        return [Point(point.key, point.value, point.step, point.time.ToDatetime(UTC)) for point in points]
    except (ValueError, OverflowError):
        raise InvalidArgument.of("points", "each time must lie in the years 1 to 9999") from None


def point_to_proto(point: Point) -> run_pb2.MetricPoint:
    """One metric point."""
    return run_pb2.MetricPoint(key=point.key, value=point.value, step=point.step, time=_timestamp(point.time))


def progress_from_proto(progress: run_pb2.Progress) -> Progress:
    """How far a run is."""
    return Progress(progress.step, progress.total_steps, progress.phase)


def _spec_to_proto(spec: RunSpec) -> run_pb2.RunSpec:
    proto = run_pb2.RunSpec(
        recipe=spec.recipe,
        dataset=spec.dataset_version.split("/", 2)[2],
        resources=_resources_to_proto(spec),
        seed=spec.seed,
        model=spec.model,
        checkpoint_steps=spec.checkpoint_steps,
        max_restarts=spec.max_restarts,
        description=spec.description,
    )
    proto.hyperparameters.update(dict(spec.hyperparameters))
    return proto


def _resources_to_proto(spec: RunSpec) -> resources_pb2.Resources:
    return resources_pb2.Resources(
        cpu_millis=spec.cpu_millis, memory_bytes=spec.memory_bytes, accelerators=spec.accelerators
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp

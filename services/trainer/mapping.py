"""Protos to runs and back."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from aios import scheduling, scheduling_proto
from aios.common.v1 import resources_pb2, scheduling_pb2
from aios.errors import InvalidArgument
from aios.names import DatasetName, DatasetVersionName, ModelVersionName, QueueName, RunName, check_id
from aios.runtime.telemetry import trace_id_of
from aios.scheduler.v1 import job_pb2
from aios.scheduling import PRIORITY_MAX
from aios.trainer.v1 import run_pb2
from services.trainer import catalog, optimization
from services.trainer.metrics import Point
from services.trainer.runs import (
    CPU_MILLIS,
    MAX_RESTARTS,
    MAX_RESTARTS_COMMAND,
    MEMORY_BYTES,
    STOP_GRACE,
    JobNews,
    Progress,
    Run,
    RunSpec,
    State,
)

RESTARTS_MAX = 100
STOP_GRACE_SECONDS_MAX = 3600  # what the scheduler grants at most
DATASETS_MAX = 32
PROCESSES_MAX = 1024
REPLICAS_MAX = 1024
LAUNCHER, NO_LAUNCHER = "LAUNCHER_TORCHRUN", "LAUNCHER_UNSPECIFIED"
HANG_SECONDS_MIN = 1
HYPERPARAMETER_BYTES_MAX = 64 << 10  # of a command: they are passed in its environment
JOB_COMMAND = ("python", "-m", "services.trainer.job")
_DATASET_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


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
        outputs=run.outputs_version,
        trial=run.trial,
    )


def versions_asked(project: str, spec: run_pb2.RunSpec) -> dict[str, DatasetVersionName]:
    """Every dataset version that a spec asks for, by the field that does: `dataset`, `code`, `datasets.extra` ...

    Raises:
        InvalidArgument: naming the field.
    """
    asked = {"dataset": spec.dataset, "code": spec.code, "requirements": spec.requirements}
    asked |= {f"datasets.{key}": name for key, name in spec.datasets.items()}
    return {
        field: dataset_version_asked(project, name, f"spec.{field}")
        for field, name in asked.items()
        if name or field.startswith("datasets.")
    }


def dataset_version_asked(project: str, dataset: str, field: str = "spec.dataset") -> DatasetVersionName:
    """The dataset version that a name means; `latest` where it names none.

    Raises:
        InvalidArgument: it is no dataset of the project.
    """
    full = dataset if dataset.startswith("projects/") else f"projects/{project}/{dataset}"
    if DatasetName.matches(full):
        full += "/versions/latest"
    if not DatasetVersionName.matches(full) or DatasetVersionName.parse(full).project != project:
        raise InvalidArgument.of(
            field,
            f"must be datasets/{{dataset}} or datasets/{{dataset}}/versions/{{version}} of {project}, not {dataset!r}",
        )
    return DatasetVersionName.parse(full)


def model_version_asked(project: str, version: str) -> ModelVersionName:
    """The model version that a name means.

    Raises:
        InvalidArgument: it is none of the project.
    """
    full = version if version.startswith("projects/") else f"projects/{project}/{version}"
    if not ModelVersionName.matches(full) or ModelVersionName.parse(full).project != project:
        raise InvalidArgument.of(
            "spec.base_model", f"must be models/{{model}}/versions/{{version}} of {project}, not {version!r}"
        )
    return ModelVersionName.parse(full)


def spec_from_proto(spec: run_pb2.RunSpec, versions: Mapping[str, str]) -> RunSpec:
    """The spec with every default filled in.

    Args:
        versions: What the fields of `versions_asked` mean now.

    Raises:
        InvalidArgument: naming the wrong field.
    """
    if bool(spec.recipe) == bool(spec.command):
        raise InvalidArgument.of("spec.recipe", "name either a recipe or a command")
    given = MessageToDict(spec.hyperparameters)
    if spec.recipe:
        _check_recipe(spec)
        planned = catalog.recipe(spec.recipe).planned
        read = optimization.read(given) if planned else catalog.hyperparameters(spec.recipe, given)
        hyperparameters: Mapping[str, Any] = read
    else:
        _check_command(spec)
        hyperparameters = whole_numbers(given)
    resources = spec.resources
    if resources.cpu_millis < 0 or resources.memory_bytes < 0:
        raise InvalidArgument.of("spec.resources", "must not be negative")
    wrong = scheduling.accelerator_problems(
        resources.accelerators,
        resources.accelerator_millis,
        resources.accelerator_memory_bytes,
        spec.replicas,
    ) + scheduling.budget_problems(resources.budgets)
    if wrong:
        raise InvalidArgument.of_all({f"spec.resources.{path}": problem for path, problem in wrong})
    if not 0 <= spec.max_restarts <= RESTARTS_MAX:
        raise InvalidArgument.of("spec.max_restarts", f"must be between 0 and {RESTARTS_MAX}")
    if spec.checkpoint_steps < 0:
        raise InvalidArgument.of("spec.checkpoint_steps", "must not be negative")
    grace = spec.stop_grace.ToTimedelta() if spec.HasField("stop_grace") else STOP_GRACE
    if not 0 <= grace.total_seconds() <= STOP_GRACE_SECONDS_MAX:
        raise InvalidArgument.of("spec.stop_grace", f"must be 0 to {STOP_GRACE_SECONDS_MAX} s")
    restarts = MAX_RESTARTS if spec.recipe else MAX_RESTARTS_COMMAND
    return RunSpec(
        recipe=spec.recipe,
        dataset_version=versions.get("dataset", ""),
        hyperparameters=hyperparameters,
        cpu_millis=resources.cpu_millis or CPU_MILLIS,
        memory_bytes=resources.memory_bytes or MEMORY_BYTES,
        accelerators=dict(resources.accelerators),
        accelerator_millis=dict(resources.accelerator_millis),
        accelerator_memory_bytes=dict(resources.accelerator_memory_bytes),
        budgets=dict(resources.budgets),
        seed=spec.seed,
        model=check_id(spec.model, "spec.model") if spec.model else "",
        checkpoint_steps=spec.checkpoint_steps,
        max_restarts=spec.max_restarts if spec.HasField("max_restarts") else restarts,
        description=spec.description,
        command=tuple(spec.command),
        code_version=versions.get("code", ""),
        dataset_versions={key: versions[f"datasets.{key}"] for key in sorted(spec.datasets)},
        environment=dict(spec.environment),
        stop_grace_seconds=grace.total_seconds(),
        priority=spec.priority,
        queue=spec.queue,
        scheduling=_scheduling(spec),
        processes=_processes(spec, resources),
        hang_seconds=_hang_seconds(spec),
        node_network=spec.node_network,
        replicas=_replicas(spec),
        min_replicas=spec.min_replicas,
        base_model=versions.get("base_model", ""),
        requirements=versions.get("requirements", ""),
    )


def _scheduling(spec: run_pb2.RunSpec) -> Mapping[str, Any]:
    """What is said to the scheduler, checked by its rules before the run is accepted."""
    field = "spec.scheduling"
    scheduling.check(scheduling_proto.from_proto(spec.scheduling, field), field)
    if abs(spec.priority) > PRIORITY_MAX:
        raise InvalidArgument.of("spec.priority", f"must be {-PRIORITY_MAX} to {PRIORITY_MAX}")
    if spec.queue:
        QueueName.parse(spec.queue, "spec.queue")
    return MessageToDict(spec.scheduling, preserving_proto_field_name=True)


def _check_recipe(spec: run_pb2.RunSpec) -> None:
    """What a recipe needs, and what only a command may have."""
    for field in ("code", "datasets", "environment", "launcher", "node_network", "requirements"):
        if getattr(spec, field):
            raise InvalidArgument.of(f"spec.{field}", "is for a command: a recipe has its own")
    recipe = catalog.recipe(spec.recipe)
    if bool(recipe.files) is not bool(spec.dataset):
        problem = f"is required: {spec.recipe} learns from one" if recipe.files else "is nothing it reads"
        raise InvalidArgument.of("spec.dataset", problem)
    if recipe.base is not bool(spec.base_model):
        problem = f"is required: {spec.recipe} starts from one" if recipe.base else "is nothing it reads"
        raise InvalidArgument.of("spec.base_model", problem)


def _processes(spec: run_pb2.RunSpec, resources: resources_pb2.Resources) -> int:
    """Ranks of a command; 0 where it has no launcher."""
    if not spec.launcher:
        if spec.processes or spec.HasField("hang_timeout"):
            raise InvalidArgument.of(
                "spec.launcher", "is needed for `processes` and `hang_timeout`: say `torchrun`"
            )
        return 0
    if spec.launcher != run_pb2.RunSpec.LAUNCHER_TORCHRUN:
        raise InvalidArgument.of("spec.launcher", f"{spec.launcher} is none")
    cores = (resources.cpu_millis or CPU_MILLIS) // 1000
    devices = sum(resources.accelerators.values()) or len(resources.accelerator_millis)
    ranks = spec.processes or devices or max(1, cores)
    if ranks > 1 and resources.accelerator_millis:
        raise InvalidArgument.of("spec.processes", "must be 1 on a share of a device")
    if not 1 <= ranks <= PROCESSES_MAX:
        raise InvalidArgument.of("spec.processes", f"must be 1 to {PROCESSES_MAX}")
    return ranks


def _replicas(spec: run_pb2.RunSpec) -> int:
    """Size of the job's gang. What the scheduler cannot place it refuses itself."""
    if spec.replicas > 1 and not spec.launcher:
        raise InvalidArgument.of("spec.launcher", "is needed for `replicas`: say `torchrun`")
    if not 0 <= spec.replicas <= REPLICAS_MAX:
        raise InvalidArgument.of("spec.replicas", f"must be 1 to {REPLICAS_MAX}")
    if not 0 <= spec.min_replicas <= max(1, spec.replicas):
        raise InvalidArgument.of("spec.min_replicas", "must be 0, or 1 to `replicas`")
    return spec.replicas or 1


def _hang_seconds(spec: run_pb2.RunSpec) -> float:
    seconds: float = spec.hang_timeout.ToTimedelta().total_seconds()
    if spec.HasField("hang_timeout") and seconds < HANG_SECONDS_MIN:
        raise InvalidArgument.of("spec.hang_timeout", f"must be at least {HANG_SECONDS_MIN} s")
    return seconds


def _check_command(spec: run_pb2.RunSpec) -> None:
    """Names that become variables of the command's environment. The scheduler checks their size."""
    if spec.base_model:
        raise InvalidArgument.of("spec.base_model", "is for a recipe that starts from a model version")
    if len(spec.datasets) > DATASETS_MAX:
        raise InvalidArgument.of("spec.datasets", f"at most {DATASETS_MAX}")
    for key in spec.datasets:
        if not _DATASET_KEY.fullmatch(key) or key in ("dir", "code", "requirements"):
            raise InvalidArgument.of(
                f"spec.datasets.{key[:80]}",
                "must be named by 1-32 lower-case letters, digits and `_`, and not `dir`, `code` or `requirements`",
            )
    for key, value in spec.environment.items():
        if not _VARIABLE.fullmatch(key) or key.startswith("AIOS_") or "\0" in value:
            raise InvalidArgument.of(
                f"spec.environment.{key[:80]}",
                "must be a variable of letters, digits and `_` that does not start with AIOS_, without NUL",
            )
    if any("\0" in word for word in spec.command):
        raise InvalidArgument.of("spec.command", "must have no NUL")
    size = len(json.dumps(MessageToDict(spec.hyperparameters)))
    if size > HYPERPARAMETER_BYTES_MAX:
        raise InvalidArgument.of(
            "spec.hyperparameters", f"at most {HYPERPARAMETER_BYTES_MAX} bytes, not {size}"
        )


def whole_numbers(value: Any) -> Any:
    """JSON has one number type: whole numbers come back as int, at any depth."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def job_of(name: RunName, spec: RunSpec) -> job_pb2.Job:
    """The scheduler job that trains a run."""
    return job_pb2.Job(
        spec=job_pb2.JobSpec(
            kind=job_pb2.JobSpec.KIND_BATCH,
            command=JOB_COMMAND,
            resources=_resources_to_proto(spec),
            max_restarts=spec.max_restarts,
            owner=str(name),
            stop_grace=_duration(spec.stop_grace_seconds),
            priority=spec.priority,
            queue=spec.queue,
            scheduling=_scheduling_to_proto(spec),
            replicas=spec.replicas,
            min_replicas=spec.min_replicas,
            requirements=spec.requirements,
        )
    )


GOES_ON = frozenset({"PREEMPTED", "RESIZED", "DRAINED", "REPLICA_ENDED"})
"""The scheduler's reasons for stopping a job whose end nobody asked for."""


def news_from_proto(job: job_pb2.Job, version: int = 0) -> JobNews:
    """What a job's state says of its run; `version` where it comes from the log of changes."""
    attempt = job.attempt
    state = State(job_pb2.Job.State.Name(job.state).removeprefix("STATE_"))
    if state is State.STOPPING and job.state_reason in GOES_ON:
        # It saves its work and goes on later, or fails when all of it is gone.
        state = State.RUNNING
    return JobNews(
        state=state,
        epoch=job.epoch,
        reason=job.state_reason,
        message=job.state_message,
        exit_code=attempt.exit_code if attempt.HasField("exit_code") else None,
        version=version,
    )


def points_from_proto(points: Sequence[run_pb2.MetricPoint], epoch: int) -> list[Point]:
    """Metric points as attempt `epoch` reports them.

    Raises:
        InvalidArgument: a time that no calendar has.
    """
    try:
        return [
            Point(point.key, point.value, point.step, point.time.ToDatetime(UTC), epoch) for point in points
        ]
    except (ValueError, OverflowError):
        raise InvalidArgument.of("points", "each time must lie in the years 1 to 9999") from None


def point_to_proto(point: Point) -> run_pb2.MetricPoint:
    """One metric point."""
    return run_pb2.MetricPoint(
        key=point.key, value=point.value, step=point.step, time=_timestamp(point.time), epoch=point.epoch
    )


def progress_from_proto(progress: run_pb2.Progress) -> Progress:
    """How far a run is."""
    return Progress(progress.step, progress.total_steps, progress.phase)


def _spec_to_proto(spec: RunSpec) -> run_pb2.RunSpec:
    proto = run_pb2.RunSpec(
        recipe=spec.recipe,
        dataset=_in_project(spec.dataset_version),
        resources=_resources_to_proto(spec),
        seed=spec.seed,
        model=spec.model,
        checkpoint_steps=spec.checkpoint_steps,
        max_restarts=spec.max_restarts,
        description=spec.description,
        command=spec.command,
        code=_in_project(spec.code_version),
        requirements=_in_project(spec.requirements),
        datasets={key: _in_project(version) for key, version in spec.dataset_versions.items()},
        environment=spec.environment,
        stop_grace=_duration(spec.stop_grace_seconds),
        priority=spec.priority,
        queue=spec.queue,
        scheduling=_scheduling_to_proto(spec) if spec.scheduling else None,
        base_model=_in_project(spec.base_model),
        launcher=run_pb2.RunSpec.Launcher.Value(LAUNCHER if spec.processes else NO_LAUNCHER),
        processes=spec.processes,
        hang_timeout=_duration(spec.hang_seconds) if spec.hang_seconds else None,
        node_network=spec.node_network,
        replicas=spec.replicas if spec.replicas > 1 else 0,
        min_replicas=spec.min_replicas,
    )
    proto.hyperparameters.update(dict(spec.hyperparameters))
    return proto


def _scheduling_to_proto(spec: RunSpec) -> scheduling_pb2.Scheduling:
    return ParseDict(dict(spec.scheduling), scheduling_pb2.Scheduling())


def _in_project(version: str) -> str:
    """A full name without its project: `datasets/{dataset}/versions/{version}`."""
    return version.split("/", 2)[2] if version else ""


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _resources_to_proto(spec: RunSpec) -> resources_pb2.Resources:
    return resources_pb2.Resources(
        cpu_millis=spec.cpu_millis,
        memory_bytes=spec.memory_bytes,
        accelerators=spec.accelerators,
        accelerator_millis=spec.accelerator_millis,
        accelerator_memory_bytes=spec.accelerator_memory_bytes,
        budgets=spec.budgets,
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp

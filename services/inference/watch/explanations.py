"""Explanations: accepted here, worked out by a job, kept as versions of a dataset."""

import json
import logging
import uuid

from aios.common.v1 import resources_pb2
from aios.data.v1 import data_service_pb2_grpc
from aios.errors import AiosError, Code, FailedPrecondition, InvalidArgument, NotFound, StaleEpoch
from aios.inference.v1 import monitoring_pb2
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DatasetName, DeploymentName, ExplanationName, JobName, new_id
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import require_job
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from services.inference import store as deployments
from services.inference.watch import payloads, store
from services.inference.watch.task import VARIABLE, Task

COMMAND = ("python", "-m", "services.inference.explain")
CPU_MILLIS, MEMORY_BYTES = 1000, 2 << 30
VERSIONS_MAX = 50
"""In which a prediction is looked for, the newest first: a few KiB of the job's environment."""
_Proto = monitoring_pb2.Explanation
_METHODS = {
    _Proto.METHOD_UNSPECIFIED: "",
    _Proto.METHOD_INTEGRATED_GRADIENTS: "integrated_gradients",
    _Proto.METHOD_OCCLUSION: "occlusion",
    _Proto.METHOD_SHAPLEY: "shapley",
}
_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION})
_FAILED = (job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED)

_log = logging.getLogger(__name__)


class NothingKept(FailedPrecondition):
    """No prediction of the deployment is in a version yet. Deploy it with a payload log, and wait for a window's end."""

    reason = "NOTHING_KEPT"


class Explanations:
    """Explanations of every deployment."""

    def __init__(
        self,
        db: Database,
        data: data_service_pb2_grpc.DataServiceStub,
        scheduler: scheduler_service_pb2_grpc.SchedulerServiceStub,
        clock: Clock,
    ) -> None:
        self._db = db
        self._data = data
        self._scheduler = scheduler
        self._clock = clock

    async def create(self, request: pb.CreateExplanationRequest) -> monitoring_pb2.Explanation:
        """Accept an explanation; its job is made by `round`.

        Raises:
            InvalidArgument: it names no prediction, or two.
            NothingKept: there is nothing to look in.
        """
        name = DeploymentName.parse(request.parent, "parent")
        asked = request.explanation
        if bool(asked.trace_id) == bool(asked.request_id):
            raise InvalidArgument.of("explanation.trace_id", "must be set, or request_id, and not both")
        if asked.instance < 0:
            raise InvalidArgument.of("explanation.instance", "must not be negative")
        if asked.method not in _METHODS:
            raise InvalidArgument.of("explanation.method", "is no method of this release")
        made_id = new_id("explain")

        def write(tx: Tx) -> monitoring_pb2.Explanation:
            deployments.get(tx, name)
            if not store.newest_versions(tx, name, 1):
                raise NothingKept(
                    f"No prediction of {name} is in a version yet: `aios deployment payloads {name.deployment}`.",
                    name=str(name),
                )
            made = monitoring_pb2.Explanation(
                name=str(ExplanationName(name.project, name.deployment, made_id)),
                trace_id=asked.trace_id,
                request_id=asked.request_id,
                instance=asked.instance,
                method=asked.method,
                target=asked.target,
                state=_Proto.STATE_RUNNING,
                job=str(JobName(name.project, made_id)),
                create_time=store.stamp(tx.now()),
            )
            store.add_explanation(tx, made)
            return made

        return await self._db.once(request, write, monitoring_pb2.Explanation)

    async def get(self, name: ExplanationName) -> monitoring_pb2.Explanation:
        """One explanation."""
        return (await self._db.read(lambda tx: store.explanation(tx, name)))[0]

    async def page(self, request: pb.ListExplanationsRequest) -> tuple[list[monitoring_pb2.Explanation], str]:
        """A page of a deployment's explanations, newest first, and the token of the next."""
        name = DeploymentName.parse(request.parent, "parent")
        return await self._db.read(lambda tx: store.explanation_page(tx, name, request))

    async def complete(self, request: pb.CompleteExplanationRequest) -> monitoring_pb2.Explanation:
        """Make a version of what a job found. Repeated, it is the same version.

        Raises:
            StaleEpoch: a newer attempt has begun.
        """
        name = ExplanationName.parse(request.name)
        found, epoch = await self._db.read(lambda tx: store.explanation(tx, name))
        require_job(found.job, request.epoch)
        if request.epoch < epoch:
            raise StaleEpoch(f"Attempt {request.epoch} of {found.job} was followed by {epoch}: stop.")
        dataset = DatasetName(name.project, f"{name.deployment}-explanations")
        what = found.trace_id or found.request_id
        made = await payloads.commit(self._data, dataset, request.files, f"{name.explanation} of {what}")
        await payloads.record(self._data, name.project, [(request.revision, made)])

        def write(tx: Tx) -> monitoring_pb2.Explanation:
            now, _ = store.explanation(tx, name)
            now.version, now.revision, now.state = made, request.revision, _Proto.STATE_SUCCEEDED
            now.end_time.CopyFrom(store.stamp(tx.now()))
            store.save_explanation(tx, now, epoch=request.epoch)
            return now

        return await self._db.write(write)

    async def round(self) -> None:
        """Make jobs of what was accepted, and notice jobs that ended without a result. Safe to repeat."""
        for found in await self._db.read(store.running_explanations):
            try:
                await self._look_after(found)
            except AiosError as error:
                if error.code in _REFUSALS:
                    await self._fail(found.name, error.message)
                else:
                    _log.warning("%s waits: %s", found.name, error.message)

    async def _look_after(self, found: monitoring_pb2.Explanation) -> None:
        try:
            job = await self._scheduler.GetJob(scheduler_service_pb2.GetJobRequest(name=found.job))
        except NotFound:
            await self._create_job(found)
            return
        if job.state in _FAILED:
            await self._fail(found.name, await self._why(job))
        elif job.state == job_pb2.Job.STATE_SUCCEEDED:
            await self._fail(found.name, "Its job ended and handed over nothing: see its log.")

    async def _create_job(self, found: monitoring_pb2.Explanation) -> None:
        name = ExplanationName.parse(found.name)
        of = DeploymentName(name.project, name.deployment)

        def read(tx: Tx) -> Task:
            return Task(
                name=found.name,
                trace_id=found.trace_id,
                request_id=found.request_id,
                instance=found.instance,
                method=_METHODS[found.method],
                target=found.target,
                versions=store.newest_versions(tx, of, VERSIONS_MAX),
                models=store.models_of_revisions(tx, of),
            )

        task = await self._db.read(read)
        job = job_pb2.Job(
            spec=job_pb2.JobSpec(
                kind=job_pb2.JobSpec.KIND_BATCH,
                command=COMMAND,
                environment={VARIABLE: json.dumps(task.to_json(), sort_keys=True)},
                resources=resources_pb2.Resources(cpu_millis=CPU_MILLIS, memory_bytes=MEMORY_BYTES),
                owner=found.name,
            )
        )
        await self._scheduler.CreateJob(
            scheduler_service_pb2.CreateJobRequest(
                parent=f"projects/{name.project}",
                job_id=JobName.parse(found.job).job,
                job=job,
                request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, found.name)),
            )
        )

    async def _why(self, job: job_pb2.Job) -> str:
        """The last line of its log, where it says one."""
        request = scheduler_service_pb2.ReadJobLogsRequest(name=job.name)
        said = b""
        try:
            async for each in self._scheduler.ReadJobLogs(request, timeout=5):
                said = (said + each.data)[-4_000:]
        except AiosError:
            return job.state_message
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:1_000] if lines else job.state_message

    async def _fail(self, text: str, message: str) -> None:
        name = ExplanationName.parse(text)

        def write(tx: Tx) -> None:
            now, epoch = store.explanation(tx, name)
            if now.state != _Proto.STATE_RUNNING:
                return
            now.state, now.state_message = _Proto.STATE_FAILED, message
            now.end_time.CopyFrom(store.stamp(tx.now()))
            store.save_explanation(tx, now, epoch=epoch)

        await self._db.write(write)

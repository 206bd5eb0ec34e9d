"""Methods of transforms. A transform is its scheduler job, and what it made is in the lineage: no table of its own."""

import json
import uuid
from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from aios.common.v1 import resources_pb2
from aios.data.v1 import data_service_pb2, dataset_pb2, transform_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as pb
from aios.errors import AlreadyExists, InvalidArgument, NotFound, StaleEpoch
from aios.names import DatasetName, DatasetVersionName, JobName, TransformName, check_id, new_id
from aios.records import Tx
from aios.runtime import telemetry
from aios.runtime.context import require_job
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2
from aios.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.data import dataset_store, layout, lineage_store, transform_mapping, transforms
from services.data.cluster import RAY_ADDRESS, Cluster
from services.data.datasets import MAIN
from services.data.keys import ProjectKeys
from services.data.ledger import Draft
from services.data.lineage import Direction, Edge, Relation
from services.data.logs import Change, Log
from services.data.manifests import Origin
from services.data.rpcs import Context, Parts, Rpcs, project_of
from services.data.transform_mapping import Accepted
from services.data.transform_types import TYPES
from services.data.transforms import NotATransform, ReportMissing, Spec, TransformNotFound

COMMAND = ("python", "-m", "services.data.job")
CPU_MILLIS = 1000
REPORT = "report.json"
REPORT_BYTES_MAX = 1 << 20  # of one answer
MAX_RESTARTS = (
    0  # what fails is the data or the parameters; an attempt that a node lost is followed by another anyway
)
_STATES: Mapping[int, "transform_pb2.Transform.State.ValueType"] = {
    job_pb2.Job.STATE_QUEUED: transform_pb2.Transform.STATE_QUEUED,
    job_pb2.Job.STATE_SUCCEEDED: transform_pb2.Transform.STATE_SUCCEEDED,
    job_pb2.Job.STATE_FAILED: transform_pb2.Transform.STATE_FAILED,
    job_pb2.Job.STATE_CANCELLED: transform_pb2.Transform.STATE_CANCELLED,
}


class TransformServicer(Rpcs, transform_service_pb2_grpc.TransformServiceServicer):
    """The caller may touch the project: the interceptor has seen to it."""

    def __init__(
        self, parts: Parts, scheduler: SchedulerServiceStub, keys: ProjectKeys, cluster: Cluster
    ) -> None:
        super().__init__(parts)
        self._scheduler = scheduler
        self._keys = keys
        self._cluster = cluster

    async def CreateTransform(
        self, request: pb.CreateTransformRequest, context: Context
    ) -> transform_pb2.Transform:
        project = project_of(request.parent)
        name = transforms.name_of(project, _id_of(request))
        found = await self._find(name)
        if found is not None:
            if request.request_id and found.request_id == request.request_id:
                return await self._shown(found)
            raise AlreadyExists(f"{name} exists: choose another transform_id.", name=str(name))
        spec, size = await self._pinned(project, request.transform.spec)
        record = {
            **spec.to_json(),
            "request_id": request.request_id,
            "trace_id": telemetry.trace_id_of(telemetry.current_traceparent()),
        }
        on_ray = self._cluster.serves(spec, size)
        environment = {transform_mapping.VARIABLE: json.dumps(record, sort_keys=True)}
        job = job_pb2.Job(
            spec=job_pb2.JobSpec(
                kind=job_pb2.JobSpec.KIND_BATCH,
                command=COMMAND,
                environment=environment | ({RAY_ADDRESS: self._cluster.address} if on_ray else {}),
                node_network=on_ray,
                resources=resources_pb2.Resources(
                    cpu_millis=CPU_MILLIS, memory_bytes=transforms.memory_bytes(size)
                ),
                max_restarts=MAX_RESTARTS,
                owner=str(name),
            )
        )
        made = await self._scheduler.CreateJob(
            scheduler_service_pb2.CreateJobRequest(
                parent=request.parent,
                job_id=name.transform,
                job=job,
                request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{request.request_id or new_id()}")),
            )
        )
        return await self._shown(Accepted(name, spec, request.request_id, record["trace_id"], made))

    async def GetTransform(
        self, request: pb.GetTransformRequest, context: Context
    ) -> transform_pb2.Transform:
        return await self._shown(await self._get(TransformName.parse(request.name)))

    async def ListTransforms(
        self, request: pb.ListTransformsRequest, context: Context
    ) -> pb.ListTransformsResponse:
        page = await self._scheduler.ListJobs(
            scheduler_service_pb2.ListJobsRequest(
                parent=f"projects/{project_of(request.parent)}",
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        found = [accepted for job in page.jobs if (accepted := transform_mapping.accepted(job)) is not None]
        shown = [await self._shown(each) for each in found]
        return pb.ListTransformsResponse(transforms=shown, next_page_token=page.next_page_token)

    async def ListTransformTypes(
        self, request: pb.ListTransformTypesRequest, context: Context
    ) -> pb.ListTransformTypesResponse:
        return pb.ListTransformTypesResponse(
            types=[transform_mapping.type_to_proto(name, each) for name, each in TYPES.items()]
        )

    async def GetTransformReport(
        self, request: pb.GetTransformReportRequest, context: Context
    ) -> pb.GetTransformReportResponse:
        name = TransformName.parse(request.name)
        made = (await self._shown(await self._get(name))).output_version
        if not made:
            raise ReportMissing(f"{name} has made nothing, or not yet.", name=str(name))
        version = DatasetVersionName.parse(made)
        digest = (await self._db.read(lambda tx: dataset_store.get_version(tx, version))).manifest_sha256
        manifest = await self._contents.manifest(name.project, digest)
        found = next((each for each in manifest.files if each.path == REPORT), None)
        if found is None or found.size_bytes > REPORT_BYTES_MAX:
            raise ReportMissing(
                f"Pull {REPORT} of {made}: it has too many files, or is too large.", name=str(name)
            )
        await self._blobs.ready(name.project)
        stored = await self._blobs.get(layout.blob(name.project, found.sha256), REPORT_BYTES_MAX)
        answer = pb.GetTransformReportResponse()
        answer.report.update(json.loads(stored))
        return answer

    async def CompleteTransform(
        self, request: pb.CompleteTransformRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        name = TransformName.parse(request.name)
        spec = (await self._attempt(name, request.epoch)).spec
        stated = request.dataset_version.origin
        origin = Origin(
            code_sha256=stated.code_sha256,
            transform=spec.label,
            parameters=transform_mapping.as_json(spec.parameters),
            inputs=tuple(spec.reads),
            schema=stated.schema,
            licence=stated.licence,
            privacy=tuple(stated.privacy),
        )
        manifest = await self._manifest(request.dataset_version, origin, name.project)
        dataset = DatasetName(name.project, spec.output)
        await self._make_dataset(dataset)
        message = f"{spec.type} of {'/'.join(spec.input.split('/')[3::2])}"
        # Repeated, it finds the version that it made: content and origin are the same.
        commit = data_service_pb2.CreateDatasetVersionRequest(parent=str(dataset))
        made = await self._commits.commit(dataset, manifest, MAIN, message, "", commit)
        await self._record(name, spec, made.name)
        return made

    async def GetTransformKey(
        self, request: pb.GetTransformKeyRequest, context: Context
    ) -> pb.GetTransformKeyResponse:
        name = TransformName.parse(request.name)
        found = await self._attempt(name, request.epoch)
        keyed, on_ray = transforms.type_of(found.spec.type).keyed, RAY_ADDRESS in found.job.spec.environment
        if not keyed and not on_ray:
            raise NotATransform(
                f"{found.spec.type} pseudonymises nothing, and {name} uses no Ray cluster: it needs no key.",
                name=str(name),
            )
        return pb.GetTransformKeyResponse(
            key=self._keys.derive(name.project, str(found.spec.parameters["key"])) if keyed else b"",
            ray_token=self._cluster.token() if on_ray else "",
        )

    async def _pinned(self, project: str, asked: transform_pb2.TransformSpec) -> tuple[Spec, int]:
        """What is asked for with nothing left open, and how many bytes that reads."""
        at = "transform.spec"
        transforms.type_of(asked.type)
        transforms.check_inputs(asked.type, asked.inputs)
        given = transform_mapping.whole_numbers(MessageToDict(asked.parameters))
        if len(json.dumps(given)) > transforms.PARAMETERS_BYTES_MAX:
            raise InvalidArgument.of(
                f"{at}.parameters", f"must not be longer than {transforms.PARAMETERS_BYTES_MAX} bytes"
            )
        parameters = transforms.parameters_of(asked.type, given)
        named = {"": transform_mapping.version_asked(project, asked.input, f"{at}.input")}
        for key, text in asked.inputs.items():
            named[key] = transform_mapping.version_asked(project, text, f"{at}.inputs.{key}")

        def resolve(tx: Tx) -> tuple[dict[str, str], int]:
            found = {key: dataset_store.get_version(tx, version) for key, version in named.items()}
            return {key: str(each.name) for key, each in found.items()}, sum(
                each.size_bytes for each in found.values()
            )

        pinned, size = await self._db.read(resolve)
        source = pinned.pop("")
        return Spec(asked.type, source, check_id(asked.output, f"{at}.output"), parameters, pinned), size

    async def _attempt(self, name: TransformName, epoch: int) -> Accepted:
        """The transform, for a caller that is the newest attempt of its job."""
        require_job(str(JobName(name.project, name.transform)), epoch)
        found = await self._get(name)
        if epoch < found.job.epoch:
            raise StaleEpoch(
                f"Attempt {epoch} of {name} was followed by attempt {found.job.epoch}: stop.",
                name=str(name),
                epoch=str(found.job.epoch),
            )
        return found

    async def _get(self, name: TransformName) -> Accepted:
        found = await self._find(name)
        if found is None:
            raise TransformNotFound(f"{name} does not exist.", name=str(name))
        return found

    async def _find(self, name: TransformName) -> Accepted | None:
        job = JobName(name.project, name.transform)
        try:
            return transform_mapping.accepted(
                await self._scheduler.GetJob(scheduler_service_pb2.GetJobRequest(name=str(job)))
            )
        except NotFound:
            return None

    async def _shown(self, found: Accepted) -> transform_pb2.Transform:
        job = found.job
        edges = await self._db.read(
            lambda tx: lineage_store.edges_at(tx, found.name.project, [job.name], Direction.DOWN)
        )
        made = next((edge.target for edge in edges if edge.relation is Relation.PRODUCED), "")
        state = _STATES.get(job.state, transform_pb2.Transform.STATE_RUNNING)
        message = job.state_message
        if state == transform_pb2.Transform.STATE_SUCCEEDED and not made:
            state = transform_pb2.Transform.STATE_FAILED
            message = "Its process ended with exit code 0 and handed over nothing: see the log of its job."
        shown = transform_pb2.Transform(
            name=str(found.name),
            spec=transform_mapping.spec_to_proto(found.spec),
            state=state,
            state_message=message,
            output_version=made,
            job=job.name,
            trace_id=found.trace_id,
            create_time=job.create_time,
        )
        if job.HasField("end_time"):
            shown.end_time.CopyFrom(job.end_time)
        return shown

    async def _record(self, name: TransformName, spec: Spec, made: str) -> None:
        """Say in the lineage which job it was."""
        job = str(JobName(name.project, name.transform))
        edges = [Edge(source, job, Relation.INPUT) for source in spec.reads]
        edges.append(Edge(job, made, Relation.PRODUCED))

        def decide(tx: Tx) -> Draft | Message:
            new = lineage_store.missing(tx, name.project, edges)
            body = [[edge.source, edge.target, edge.relation.value] for edge in new]
            return Draft(Change.RECORDED, {"edges": body}) if new else data_service_pb2.Lineage()

        log = Log.lineage(name.project)
        await self._ledger.change(
            log, decide, lambda tx: data_service_pb2.Lineage(), data_service_pb2.Lineage
        )


def _id_of(request: pb.CreateTransformRequest) -> str:
    """The id that a caller chose, or one that a repeated request comes to again."""
    if request.transform_id:
        return check_id(request.transform_id, "transform_id")
    kind = request.transform.spec.type
    prefix = kind if kind in TYPES else "transform"
    if not request.request_id:
        return new_id(prefix)
    return f"{prefix}-{uuid.uuid5(uuid.NAMESPACE_URL, f'{request.parent}/{request.request_id}').hex[:12]}"

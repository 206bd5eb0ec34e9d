"""The inference service's RPCs: convert, call, convert."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict

from aios.inference.v1 import deployment_pb2, inference_service_pb2, inference_service_pb2_grpc
from aios.names import DeploymentName, JobName, ProjectName, RevisionName
from aios.records import Event
from aios.runtime.context import principal, require_job
from aios.runtime.interceptors import UNARY_SECONDS_MAX
from aios.runtime.watch import serve_watch
from services.inference import mapping, policies_mapping
from services.inference.monitor import Counts
from services.inference.predictor import Predictor
from services.inference.releases import Releases
from services.inference.service import Deployments
from services.inference.watching import Watching


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """See the proto for what each method promises."""

    def __init__(
        self, deployments: Deployments, releases: Releases, watching: Watching, predictor: Predictor
    ) -> None:
        self._deployments = deployments
        self._releases = releases
        self._watching = watching
        self._predictor = predictor

    async def CreateDeployment(
        self, request: inference_service_pb2.CreateDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._deployments.create(request)

    async def GetDeployment(
        self, request: inference_service_pb2.GetDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        deployment = await self._deployments.get(DeploymentName.parse(request.name))
        return mapping.deployment_to_proto(deployment)

    async def ListDeployments(
        self, request: inference_service_pb2.ListDeploymentsRequest, context: Any
    ) -> inference_service_pb2.ListDeploymentsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        found, token, revision = await self._deployments.page(project, request)
        return inference_service_pb2.ListDeploymentsResponse(
            deployments=map(mapping.deployment_to_proto, found), next_page_token=token, revision=revision
        )

    async def UpdateDeployment(
        self, request: inference_service_pb2.UpdateDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._deployments.update(request)

    async def DeleteDeployment(
        self, request: inference_service_pb2.DeleteDeploymentRequest, context: Any
    ) -> Empty:
        await self._deployments.delete(DeploymentName.parse(request.name))
        return Empty()

    async def WatchDeployments(
        self, request: inference_service_pb2.WatchDeploymentsRequest, context: Any
    ) -> AsyncIterator[inference_service_pb2.WatchDeploymentsResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        async for response in serve_watch(
            self._deployments.feed, "deployment", project, request.start_revision, _watch_response
        ):
            yield response

    async def ListRevisions(
        self, request: inference_service_pb2.ListRevisionsRequest, context: Any
    ) -> inference_service_pb2.ListRevisionsResponse:
        name = DeploymentName.parse(request.parent, "parent")
        found, token = await self._deployments.history(name, request)
        return inference_service_pb2.ListRevisionsResponse(
            revisions=map(mapping.revision_to_proto, found), next_page_token=token
        )

    async def ListTrafficChanges(
        self, request: inference_service_pb2.ListTrafficChangesRequest, context: Any
    ) -> inference_service_pb2.ListTrafficChangesResponse:
        name = DeploymentName.parse(request.parent, "parent")
        found, token = await self._deployments.traffic(name, request)
        return inference_service_pb2.ListTrafficChangesResponse(
            changes=map(mapping.change_to_proto, found), next_page_token=token
        )

    async def ListFigures(
        self, request: inference_service_pb2.ListFiguresRequest, context: Any
    ) -> inference_service_pb2.ListFiguresResponse:
        project = ProjectName.parse(request.parent, "parent").project
        return inference_service_pb2.ListFiguresResponse(figures=await self._watching.figures(project))

    async def ScaleDeployment(
        self, request: inference_service_pb2.ScaleDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._releases.scale(request)

    async def PromoteDeployment(
        self, request: inference_service_pb2.PromoteDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._releases.promote(request.name)

    async def RollbackDeployment(
        self, request: inference_service_pb2.RollbackDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._releases.roll_back(request)

    async def PauseDeployment(
        self, request: inference_service_pb2.PauseDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._releases.pause(request.name, True)

    async def ResumeDeployment(
        self, request: inference_service_pb2.ResumeDeploymentRequest, context: Any
    ) -> deployment_pb2.Deployment:
        return await self._releases.pause(request.name, False)

    async def ReportQuality(
        self, request: inference_service_pb2.ReportQualityRequest, context: Any
    ) -> deployment_pb2.Revision:
        return await self._releases.quality(request)

    async def Predict(
        self, request: inference_service_pb2.PredictRequest, context: Any
    ) -> inference_service_pb2.PredictResponse:
        authorization = dict(context.invocation_metadata())["authorization"]
        seconds = min(context.time_remaining() or UNARY_SECONDS_MAX, UNARY_SECONDS_MAX)
        return await self._predictor.predict(request, authorization, seconds)

    async def GetReplicaSpec(
        self, request: inference_service_pb2.GetReplicaSpecRequest, context: Any
    ) -> inference_service_pb2.ReplicaSpec:
        job = _own_job(request.job, principal().epoch or 0)
        return mapping.replica_spec_to_proto(await self._deployments.replica_spec(job))

    async def ReportReplica(
        self, request: inference_service_pb2.ReportReplicaRequest, context: Any
    ) -> inference_service_pb2.ReportReplicaResponse:
        job = _own_job(request.job, request.epoch)
        state, address = mapping.said_state(request), mapping.said_address(request)
        await self._deployments.report(job, request.epoch, state, request.message, address)
        if request.HasField("work"):
            self._watching.note_work(job, request.epoch, mapping.work_from_proto(request.work))
        return inference_service_pb2.ReportReplicaResponse()

    async def WatchRoutes(
        self, request: inference_service_pb2.WatchRoutesRequest, context: Any
    ) -> AsyncIterator[inference_service_pb2.WatchRoutesResponse]:
        async for table in self._deployments.watch_routes():
            yield inference_service_pb2.WatchRoutesResponse(
                revision=table.number, deployments=map(mapping.route_to_proto, table.deployments)
            )

    async def ConfirmRoutes(self, request: inference_service_pb2.ConfirmRoutesRequest, context: Any) -> Empty:
        await self._deployments.confirm_routes(request.revision)
        return Empty()

    async def ReportTraffic(self, request: inference_service_pb2.ReportTrafficRequest, context: Any) -> Empty:
        counts: dict[RevisionName, dict[str, Counts]] = defaultdict(dict)
        for each in request.counts:
            name = RevisionName.parse(each.revision, "counts.revision")
            counts[name][each.door] = policies_mapping.counts_from_proto(each)
        await self._watching.report(counts)
        return Empty()


def _own_job(text: str, epoch: int) -> JobName:
    name = JobName.parse(text, "job")
    require_job(str(name), epoch)
    return name


def _watch_response(events: Sequence[Event], revision: int) -> inference_service_pb2.WatchDeploymentsResponse:
    return inference_service_pb2.WatchDeploymentsResponse(
        events=[
            inference_service_pb2.DeploymentEvent(
                type=event.type,
                deployment=ParseDict(
                    dict(event.payload), deployment_pb2.Deployment(), ignore_unknown_fields=True
                ),
                revision=event.revision,
            )
            for event in events
        ],
        revision=revision,
    )

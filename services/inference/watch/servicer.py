"""The RPCs of watching: convert, call, convert."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DeploymentName, ExplanationName, JobName
from aios.runtime.context import require_job
from services.inference.watch.explanations import Explanations
from services.inference.watch.payloads import PayloadLogs


class MonitoringServicer(monitoring_service_pb2_grpc.MonitoringServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, payloads: PayloadLogs, explanations: Explanations) -> None:
        self._payloads = payloads
        self._explanations = explanations

    async def GetPayloadLog(
        self, request: pb.GetPayloadLogRequest, context: Any
    ) -> monitoring_pb2.PayloadLogStatus:
        return await self._payloads.status(DeploymentName.parse(request.name))

    async def ReportPayloads(self, request: pb.ReportPayloadsRequest, context: Any) -> Empty:
        job = JobName.parse(request.job, "job")
        require_job(str(job), request.epoch)
        await self._payloads.report(job, request.epoch, request.file)
        return Empty()

    async def CreateExplanation(
        self, request: pb.CreateExplanationRequest, context: Any
    ) -> monitoring_pb2.Explanation:
        return await self._explanations.create(request)

    async def GetExplanation(
        self, request: pb.GetExplanationRequest, context: Any
    ) -> monitoring_pb2.Explanation:
        return await self._explanations.get(ExplanationName.parse(request.name))

    async def ListExplanations(
        self, request: pb.ListExplanationsRequest, context: Any
    ) -> pb.ListExplanationsResponse:
        found, token = await self._explanations.page(request)
        return pb.ListExplanationsResponse(explanations=found, next_page_token=token)

    async def CompleteExplanation(
        self, request: pb.CompleteExplanationRequest, context: Any
    ) -> monitoring_pb2.Explanation:
        return await self._explanations.complete(request)

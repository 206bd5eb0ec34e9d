"""The RPCs of watching: convert, call, convert."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DeploymentName, JobName
from aios.runtime.context import require_job
from services.inference.watch.feedback import FeedbackLog
from services.inference.watch.payloads import PayloadLogs


class MonitoringServicer(monitoring_service_pb2_grpc.MonitoringServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, payloads: PayloadLogs, feedback: FeedbackLog) -> None:
        self._payloads = payloads
        self._feedback = feedback

    async def GetPayloadLog(
        self, request: pb.GetPayloadLogRequest, context: Any
    ) -> monitoring_pb2.PayloadLogStatus:
        return await self._payloads.status(DeploymentName.parse(request.name))

    async def ReportPayloads(self, request: pb.ReportPayloadsRequest, context: Any) -> Empty:
        job = JobName.parse(request.job, "job")
        require_job(str(job), request.epoch)
        await self._payloads.report(job, request.epoch, request.file)
        return Empty()

    async def CreateFeedback(
        self, request: pb.CreateFeedbackRequest, context: Any
    ) -> pb.CreateFeedbackResponse:
        name = DeploymentName.parse(request.parent, "parent")
        return pb.CreateFeedbackResponse(accepted=await self._feedback.add(name, request.feedback))

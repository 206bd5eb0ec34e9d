"""The RPCs of watching: convert, call, convert."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import AlertName, DeploymentName, DriftReportName, ExplanationName, JobName
from aios.runtime.context import require_job
from services.inference.watch.alerts import Alerts
from services.inference.watch.drift import DriftReports
from services.inference.watch.explanations import Explanations
from services.inference.watch.feedback import FeedbackDesk
from services.inference.watch.payloads import PayloadLogs


class MonitoringServicer(monitoring_service_pb2_grpc.MonitoringServiceServicer):
    """See the proto for what each method promises."""

    def __init__(
        self,
        payloads: PayloadLogs,
        explanations: Explanations,
        feedback: FeedbackDesk,
        drift: DriftReports,
        alerts: Alerts,
    ) -> None:
        self._payloads = payloads
        self._explanations = explanations
        self._feedback = feedback
        self._drift = drift
        self._alerts = alerts

    async def GetPayloadLog(
        self, request: pb.GetPayloadLogRequest, context: Any
    ) -> monitoring_pb2.PayloadLogStatus:
        return await self._payloads.status(DeploymentName.parse(request.name))

    async def ReportPayloads(self, request: pb.ReportPayloadsRequest, context: Any) -> Empty:
        job = JobName.parse(request.job, "job")
        require_job(str(job), request.epoch)
        await self._payloads.report(job, request.epoch, request.file)
        return Empty()

    async def ReportFeedback(
        self, request: pb.ReportFeedbackRequest, context: Any
    ) -> pb.ReportFeedbackResponse:
        return await self._feedback.report(request)

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

    async def CreateDriftReport(
        self, request: pb.CreateDriftReportRequest, context: Any
    ) -> monitoring_pb2.DriftReport:
        return await self._drift.create(request)

    async def GetDriftReport(
        self, request: pb.GetDriftReportRequest, context: Any
    ) -> monitoring_pb2.DriftReport:
        return await self._drift.get(DriftReportName.parse(request.name))

    async def ListDriftReports(
        self, request: pb.ListDriftReportsRequest, context: Any
    ) -> pb.ListDriftReportsResponse:
        found, token = await self._drift.page(request)
        return pb.ListDriftReportsResponse(drift_reports=found, next_page_token=token)

    async def CreateAlert(self, request: pb.CreateAlertRequest, context: Any) -> monitoring_pb2.Alert:
        return await self._alerts.create(request)

    async def GetAlert(self, request: pb.GetAlertRequest, context: Any) -> monitoring_pb2.Alert:
        return await self._alerts.get(AlertName.parse(request.name))

    async def ListAlerts(self, request: pb.ListAlertsRequest, context: Any) -> pb.ListAlertsResponse:
        found, token = await self._alerts.page(request)
        return pb.ListAlertsResponse(alerts=found, next_page_token=token)

    async def DeleteAlert(self, request: pb.DeleteAlertRequest, context: Any) -> Empty:
        await self._alerts.delete(AlertName.parse(request.name))
        return Empty()

"""What deployments do in production: predictions that are kept and explained, drift, feedback, alerts."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aios.client.connection import Connection, pages, request_id
from aios.client.datasets import Datasets
from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import AlertName, DeploymentName

POLL_SECONDS = 0.5
TRACE = re.compile(r"[0-9a-f]{32}")


class Monitoring:
    """`client.monitoring`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = monitoring_service_pb2_grpc.MonitoringServiceStub(connection.channel)

    async def payload_log(self, deployment: str) -> monitoring_pb2.PayloadLogStatus:
        """How far a deployment's payload log is, and what was dropped."""
        return await self._stub.GetPayloadLog(pb.GetPayloadLogRequest(name=self._deployment(deployment)))

    async def explain(
        self,
        deployment: str,
        prediction: str,
        *,
        instance: int = 0,
        method: str = "",
        target: str = "",
    ) -> monitoring_pb2.Explanation:
        """Have a kept prediction explained, in a job.

        Args:
            prediction: Its trace id, or the id of its request.
            method: `integrated-gradients`, `occlusion` or `shapley`; what fits where empty.
            target: The label, or the index of the output, to be explained; the likeliest where empty.
        """
        kind = f"METHOD_{method.replace('-', '_').upper() or 'UNSPECIFIED'}"
        asked = monitoring_pb2.Explanation(
            instance=instance, method=monitoring_pb2.Explanation.Method.Value(kind), target=target
        )
        if TRACE.fullmatch(prediction):
            asked.trace_id = prediction
        else:
            asked.request_id = prediction
        return await self._stub.CreateExplanation(
            pb.CreateExplanationRequest(
                parent=self._deployment(deployment), explanation=asked, request_id=request_id()
            )
        )

    async def explanation(self, name: str, *, wait: bool = False) -> monitoring_pb2.Explanation:
        """One explanation, by its full name; once it has ended where `wait` says so."""
        while True:
            found = await self._stub.GetExplanation(pb.GetExplanationRequest(name=name))
            if not wait or found.state != monitoring_pb2.Explanation.STATE_RUNNING:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def explanations(
        self, deployment: str, limit: int | None = None
    ) -> AsyncIterator[monitoring_pb2.Explanation]:
        """A deployment's explanations, newest first."""
        request = pb.ListExplanationsRequest(parent=self._deployment(deployment))
        async for each in pages(self._stub.ListExplanations, request, "explanations", limit):
            yield each

    async def feedback(
        self, deployment: str, truths: Mapping[str, str | float], *, instance: int = 0
    ) -> pb.ReportFeedbackResponse:
        """Say what predictions should have been.

        Args:
            truths: By trace id, or the id of the request: the right class, or the right number.
            instance: Which instance of each request, from 0.

        Returns:
            How many were compared with their answers, and how many wait for them.
        """
        said = []
        for prediction, truth in truths.items():
            each = monitoring_pb2.Feedback(instance=instance)
            if TRACE.fullmatch(prediction):
                each.trace_id = prediction
            else:
                each.request_id = prediction
            if isinstance(truth, str):
                each.label = truth
            else:
                each.value = truth
            said.append(each)
        return await self._stub.ReportFeedback(
            pb.ReportFeedbackRequest(name=self._deployment(deployment), feedback=said)
        )

    async def report_drift(
        self, deployment: str, *, since: datetime | None = None, against: str = "", psi_limit: float = 0.0
    ) -> monitoring_pb2.DriftReport:
        """Have kept predictions compared with what the model was trained on, in a transform.

        Args:
            since: Of the oldest prediction; all that are kept where None.
            against: A dataset version to compare with instead.
        """
        asked = monitoring_pb2.DriftReport(psi_limit=psi_limit)
        if since is not None:
            stamp = Timestamp()
            stamp.FromDatetime(since)
            asked.since.CopyFrom(stamp)
        if against:
            asked.against = str(Datasets(self._connection).version_name(against))
        return await self._stub.CreateDriftReport(
            pb.CreateDriftReportRequest(
                parent=self._deployment(deployment), drift_report=asked, request_id=request_id()
            )
        )

    async def drift_report(self, name: str, *, wait: bool = False) -> monitoring_pb2.DriftReport:
        """One drift report, by its full name; once it has ended where `wait` says so."""
        while True:
            found = await self._stub.GetDriftReport(pb.GetDriftReportRequest(name=name))
            if not wait or found.state != monitoring_pb2.DriftReport.STATE_RUNNING:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def drift_reports(
        self, deployment: str, limit: int | None = None
    ) -> AsyncIterator[monitoring_pb2.DriftReport]:
        """A deployment's drift reports, newest first."""
        request = pb.ListDriftReportsRequest(parent=self._deployment(deployment))
        async for each in pages(self._stub.ListDriftReports, request, "drift_reports", limit):
            yield each

    async def create_alert(
        self,
        name: str,
        deployment: str,
        metric: str,
        threshold: float = 0.0,
        *,
        for_seconds: int = 0,
        every_seconds: int = 0,
        webhook: str = "",
    ) -> monitoring_pb2.Alert:
        """Add a rule on a deployment. Its secret is told here alone.

        Args:
            metric: `errors` (percent), `p99` (milliseconds), `drift` (PSI), `live_accuracy` (share) or `no_replica`.
            for_seconds: How long it must be broken before it fires.
            every_seconds: Between two drift reports.
        """
        rule = monitoring_pb2.Alert(
            deployment=self._deployment(deployment),
            metric=monitoring_pb2.Alert.Metric.Value(f"METRIC_{metric.upper()}"),
            threshold=threshold,
            for_seconds=for_seconds,
            every_seconds=every_seconds,
            webhook=webhook,
        )
        return await self._stub.CreateAlert(
            pb.CreateAlertRequest(
                parent=self._connection.project, alert_id=name, alert=rule, request_id=request_id()
            )
        )

    async def alert(self, name: str) -> monitoring_pb2.Alert:
        """One alert."""
        return await self._stub.GetAlert(pb.GetAlertRequest(name=self._alert(name)))

    async def alerts(self, limit: int | None = None) -> AsyncIterator[monitoring_pb2.Alert]:
        """The project's alerts, newest first."""
        request = pb.ListAlertsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListAlerts, request, "alerts", limit):
            yield each

    async def delete_alert(self, name: str) -> None:
        """Remove an alert."""
        await self._stub.DeleteAlert(pb.DeleteAlertRequest(name=self._alert(name)))

    def _alert(self, name: str) -> str:
        return str(self._connection.name(AlertName, name))

    def _deployment(self, name: str) -> str:
        return str(self._connection.name(DeploymentName, name))

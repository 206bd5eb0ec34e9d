"""What deployments do in production: predictions that are kept, feedback, explanations, drift."""

from collections.abc import Sequence

from aios.client.connection import Connection
from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DeploymentName

FEEDBACK_AT_ONCE = 1_000


class Monitoring:
    """`client.monitoring`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = monitoring_service_pb2_grpc.MonitoringServiceStub(connection.channel)

    async def payload_log(self, deployment: str) -> monitoring_pb2.PayloadLogStatus:
        """How far a deployment's payload log is, and what was dropped."""
        return await self._stub.GetPayloadLog(pb.GetPayloadLogRequest(name=self._deployment(deployment)))

    async def feedback(self, deployment: str, said: Sequence[monitoring_pb2.Feedback]) -> int:
        """Say what turned out to be right for predictions. Returns how many were taken."""
        taken = 0
        for start in range(0, len(said), FEEDBACK_AT_ONCE):
            request = pb.CreateFeedbackRequest(
                parent=self._deployment(deployment), feedback=said[start : start + FEEDBACK_AT_ONCE]
            )
            taken += (await self._stub.CreateFeedback(request)).accepted
        return taken

    def _deployment(self, name: str) -> str:
        return str(self._connection.name(DeploymentName, name))

"""What deployments do in production: predictions that are kept, and explanations of them."""

import asyncio
import re
from collections.abc import AsyncIterator

from aios.client.connection import Connection, pages, request_id
from aios.inference.v1 import monitoring_pb2, monitoring_service_pb2_grpc
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DeploymentName

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

    def _deployment(self, name: str) -> str:
        return str(self._connection.name(DeploymentName, name))

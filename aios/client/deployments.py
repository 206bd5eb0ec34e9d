"""Deployments: a model version behind a stable name."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from aios.client.connection import Connection, pages, request_id
from aios.common.v1 import resources_pb2
from aios.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition
from aios.inference.v1 import deployment_pb2, inference_service_pb2_grpc
from aios.inference.v1 import inference_service_pb2 as pb
from aios.names import DeploymentName, ModelVersionName

READY_SECONDS = 120.0
"""Ten times what a first start on two busy cores takes."""
POLL_SECONDS = 0.25
ROLLED_BACK = "rolled back"
"""How the message of a revision begins that was on trial."""

Report = Callable[[deployment_pb2.Deployment], None]


_SETTLED = frozenset({deployment_pb2.Deployment.STATE_READY, deployment_pb2.Deployment.STATE_ASLEEP})


class RevisionFailed(FailedPrecondition):
    """The new revision cannot start, or its trial was ended. An older one still answers if there was one."""

    reason = "REVISION_FAILED"


class Deployments:
    """`client.deployments`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(connection.channel)

    async def deploy(
        self,
        model_version: str,
        name: str,
        *,
        replicas: int = 0,
        resources: resources_pb2.Resources | None = None,
        batch_delay_micros: int = 0,
        rollout: deployment_pb2.RolloutPolicy | None = None,
        scaling: deployment_pb2.ScalingPolicy | None = None,
        payload_log: deployment_pb2.PayloadLog | None = None,
        wait: bool = False,
        progress: Report | None = None,
    ) -> deployment_pb2.Deployment:
        """Serve a model version under a name, replacing what the name served once the new one answers.

        Args:
            rollout: How it takes over: as soon as it answers where None.
            scaling: How many replicas there are by load; always `replicas` where None.
            payload_log: What is kept of its predictions; nothing where None.
            wait: Return when it answers, or a trial has ended; otherwise at once.
        """
        target = self._connection.name(DeploymentName, name)
        spec = deployment_pb2.DeploymentSpec(
            model_version=str(self._connection.name(ModelVersionName, model_version)),
            replicas=replicas,
            resources=resources,
            batch_delay_micros=batch_delay_micros,
            rollout=rollout,
            scaling=scaling,
            payload_log=payload_log,
        )
        try:
            made = await self._stub.CreateDeployment(
                pb.CreateDeploymentRequest(
                    parent=target.parent,
                    deployment_id=target.deployment,
                    deployment=deployment_pb2.Deployment(spec=spec),
                    request_id=request_id(),
                )
            )
        except AlreadyExists:
            made = await self._stub.UpdateDeployment(
                pb.UpdateDeploymentRequest(
                    deployment=deployment_pb2.Deployment(name=str(target), spec=spec), request_id=request_id()
                )
            )
        if not wait:
            return made
        policy = made.spec.rollout
        seconds = READY_SECONDS + 2 * policy.step_seconds * max(1, len(policy.steps))
        return await self.wait(made.name, seconds=seconds, progress=progress)

    async def wait(
        self, name: str, *, seconds: float = READY_SECONDS, progress: Report | None = None
    ) -> deployment_pb2.Deployment:
        """The deployment once its newest revision answers.

        Raises:
            RevisionFailed: it cannot start, or its trial was ended.
            DeadlineExceeded: `seconds` have passed; it goes on starting.
        """
        deployment = await self.get(name)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if progress is not None:
                        progress(deployment)
                    if deployment.state in _SETTLED:
                        return deployment
                    await self._raise_if_failed(deployment)
                    await asyncio.sleep(POLL_SECONDS)
                    deployment = await self.get(name)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{deployment.name} does not answer after {seconds:g} s: "
                f"{deployment.state_message or 'its replicas still start'}.",
                reason="DEPLOYMENT_NOT_READY",
            ) from None

    async def get(self, name: str) -> deployment_pb2.Deployment:
        """One deployment."""
        return await self._stub.GetDeployment(pb.GetDeploymentRequest(name=self._name(name)))

    async def list(self, limit: int | None = None) -> AsyncIterator[deployment_pb2.Deployment]:
        """The project's deployments, by name."""
        request = pb.ListDeploymentsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListDeployments, request, "deployments", limit):
            yield each

    async def history(self, name: str, limit: int | None = None) -> AsyncIterator[deployment_pb2.Revision]:
        """A deployment's revisions, newest first: what was live when."""
        request = pb.ListRevisionsRequest(parent=self._name(name))
        async for each in pages(self._stub.ListRevisions, request, "revisions", limit):
            yield each

    async def traffic(
        self, name: str, limit: int | None = None
    ) -> AsyncIterator[deployment_pb2.TrafficChange]:
        """How a deployment's requests were shared out since when, and why, newest first."""
        request = pb.ListTrafficChangesRequest(parent=self._name(name))
        async for each in pages(self._stub.ListTrafficChanges, request, "changes", limit):
            yield each

    async def figures(self) -> Sequence[deployment_pb2.RevisionFigures]:
        """What each revision of the project's deployments did in the last seconds."""
        found = await self._stub.ListFigures(pb.ListFiguresRequest(parent=self._connection.project))
        return list(found.figures)

    async def scale(
        self,
        name: str,
        replicas: int | None = None,
        *,
        scaling: deployment_pb2.ScalingPolicy | None = None,
    ) -> deployment_pb2.Deployment:
        """Set how many replicas there are, or the rule for it, without a new revision."""
        return await self._stub.ScaleDeployment(
            pb.ScaleDeploymentRequest(name=self._name(name), replicas=replicas, scaling=scaling)
        )

    async def promote(self, name: str) -> deployment_pb2.Deployment:
        """Give the revision on trial all requests now."""
        return await self._stub.PromoteDeployment(pb.PromoteDeploymentRequest(name=self._name(name)))

    async def rollback(self, name: str, revision: int = 0, reason: str = "") -> deployment_pb2.Deployment:
        """End the trial; without one, have a former revision's spec take over: the one before where none is named."""
        return await self._stub.RollbackDeployment(
            pb.RollbackDeploymentRequest(name=self._name(name), revision=revision, reason=reason)
        )

    async def pause(self, name: str) -> deployment_pb2.Deployment:
        """Keep trials at their step."""
        return await self._stub.PauseDeployment(pb.PauseDeploymentRequest(name=self._name(name)))

    async def resume(self, name: str) -> deployment_pb2.Deployment:
        """Let trials go on by themselves."""
        return await self._stub.ResumeDeployment(pb.ResumeDeploymentRequest(name=self._name(name)))

    async def report_quality(
        self, name: str, revision: int, quality: Mapping[str, float]
    ) -> deployment_pb2.Revision:
        """Say how good a revision's answers are."""
        return await self._stub.ReportQuality(
            pb.ReportQualityRequest(name=f"{self._name(name)}/revisions/{revision}", quality=quality)
        )

    async def delete(self, name: str) -> None:
        """Take a deployment down."""
        await self._stub.DeleteDeployment(pb.DeleteDeploymentRequest(name=self._name(name)))

    async def _raise_if_failed(self, deployment: deployment_pb2.Deployment) -> None:
        if deployment.state != deployment_pb2.Deployment.STATE_DEGRADED:
            return
        async for revision in self.history(deployment.name, 1):
            if revision.state == deployment_pb2.Revision.STATE_FAILED:
                raise RevisionFailed(f"{revision.name} {_failure(revision)}.", revision=revision.name)

    def _name(self, name: str) -> str:
        return str(self._connection.name(DeploymentName, name))


def _failure(revision: deployment_pb2.Revision) -> str:
    """What became of a failed revision, in words."""
    said = revision.state_message
    return f"was {said}" if said.startswith(ROLLED_BACK) else f"cannot start: {said}"

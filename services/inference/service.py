"""What the inference service does, between its doors and its records."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.errors import FailedPrecondition, NotFound, OutOfRange
from aios.inference.v1 import deployment_pb2, inference_service_pb2
from aios.names import DeploymentName, JobName, ModelVersionName, ProjectName, check_id
from aios.records import Database, Feed, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from services.inference import deployments, mapping, replicas, rollout, routes, store
from services.inference.deployments import Deployment, Spec
from services.inference.replicas import Address
from services.inference.revisions import Artifact, Revision
from services.inference.rollout import Rollout, TrafficChange
from services.inference.routes import DeploymentRoute
from services.inference.stopwatches import Stopwatches

HEARTBEAT_SECONDS = 5.0
"""A routing table is sent again after this, so that a watcher knows that it has the newest."""


class ModelVersionNotFound(NotFound):
    """The project has no such model version. Register it first."""

    reason = "MODEL_VERSION_NOT_FOUND"


class SignatureMissing(FailedPrecondition):
    """The model version does not say what it takes and gives. Register it again with a signature."""

    reason = "SIGNATURE_MISSING"


class RoutesUnknown(OutOfRange):
    """That routing table has not been sent to anyone. Watch the routes again."""

    reason = "ROUTES_UNKNOWN"


class RoutingTable(NamedTuple):
    """The whole routing table at one moment."""

    number: int
    deployments: tuple[DeploymentRoute, ...]


class Deployments:
    """Deployments and their replicas. What needs the scheduler is done by the reconciler, from what is stored here."""

    def __init__(
        self,
        db: Database,
        data: data_service_pb2_grpc.DataServiceStub,
        silence: Stopwatches[JobName],
        clock: Clock,
    ) -> None:
        self.feed = Feed(db)
        self._db = db
        self._data = data
        self._silence = silence
        self._clock = clock

    async def create(
        self, request: inference_service_pb2.CreateDeploymentRequest
    ) -> deployment_pb2.Deployment:
        """Accept a deployment.

        Raises:
            InvalidArgument: naming each wrong field.
            ModelVersionNotFound: the project has no such model version.
            DeploymentExists: the id is taken.
        """
        project = ProjectName.parse(request.parent, "parent").project
        name = DeploymentName(
            project, check_id(request.deployment_id, "deployment_id", deployments.ID_LENGTH_MAX)
        )
        spec = deployments.complete(mapping.spec_from_proto(request.deployment.spec))
        spec, artifact = await self._resolve(project, spec)
        deployments.check_redaction(spec, mapping.tensors_of(artifact.signature))
        creator, traceparent = principal().subject, telemetry.current_traceparent()

        def write(tx: Tx) -> deployment_pb2.Deployment:
            now, number = tx.now(), store.next_number(tx, name)
            deployment = Deployment(name, spec, number, create_time=now, update_time=now)
            first = Revision(
                deployment.revision(number),
                spec,
                artifact,
                now,
                wanted=spec.replicas,
                creator=creator,
                traceparent=traceparent,
            )
            return mapping.deployment_to_proto(store.add(tx, Rollout(deployment, (first,))).deployment)

        return await self._db.once(request, write, deployment_pb2.Deployment)

    async def get(self, name: DeploymentName) -> Deployment:
        """One deployment."""
        return await self._db.read(lambda tx: store.get(tx, name))

    async def page(
        self, project: str, request: inference_service_pb2.ListDeploymentsRequest
    ) -> tuple[list[Deployment], str, int]:
        """A page of deployments, the next page's token, and the revision of the log that both are of."""
        return await self._db.read(lambda tx: (*store.page(tx, project, request), tx.revision()))

    async def update(
        self, request: inference_service_pb2.UpdateDeploymentRequest
    ) -> deployment_pb2.Deployment:
        """Make a new revision of a changed spec. A spec that stays as it is makes one only where the last has failed.

        Raises:
            InvalidArgument: an unknown path in the mask, or a wrong value.
            EtagMismatch: the spec changed since the caller read it.
        """
        name = DeploymentName.parse(request.deployment.name, "deployment.name")
        wanted = mapping.spec_from_proto(request.deployment.spec)
        before = await self._db.read(lambda tx: store.rollout(tx, name))
        # Outside of the transaction, since it asks another service. What the mask leaves alone is read again within.
        asked = deployments.complete(
            deployments.edit(before.deployment.spec, wanted, request.update_mask.paths)
        )
        artifact = before.latest.artifact
        if asked.model_version != before.deployment.spec.model_version:
            asked, artifact = await self._resolve(name.project, asked)
        deployments.check_redaction(asked, mapping.tensors_of(artifact.signature))
        wanted = replace(wanted, model_version=asked.model_version)
        creator, traceparent = principal().subject, telemetry.current_traceparent()

        def write(tx: Tx) -> deployment_pb2.Deployment:
            before, now = store.rollout(tx, name), tx.now()
            number = before.latest.number + 1
            spec = deployments.complete(
                deployments.edit(before.deployment.spec, wanted, request.update_mask.paths)
            )
            deployment = deployments.update(before.deployment, spec, request.deployment.etag, number, now)
            if spec == before.latest.spec and not before.failed:
                return mapping.deployment_to_proto(before.deployment)
            same_model = spec.model_version == before.latest.spec.model_version
            made = Revision(
                deployment.revision(number),
                spec,
                before.latest.artifact if same_model else artifact,
                now,
                wanted=_first_wanted(spec, before),
                creator=creator,
                traceparent=traceparent,
            )
            after = store.settle(tx, before, Rollout(deployment, (*before.revisions, made)))
            assert after is not None
            return mapping.deployment_to_proto(after.deployment)

        return await self._db.once(request, write, deployment_pb2.Deployment)

    async def delete(self, name: DeploymentName) -> None:
        """Begin to take a deployment down."""

        def write(tx: Tx) -> None:
            before = store.rollout(tx, name)
            deployment = rollout.delete(before.deployment, tx.now())
            store.settle(tx, before, replace(before, deployment=deployment))

        await self._db.write(write)

    async def traffic(
        self, name: DeploymentName, request: inference_service_pb2.ListTrafficChangesRequest
    ) -> tuple[list[TrafficChange], str]:
        """A page of the changes of a deployment's shares, newest first."""
        return await self._db.read(lambda tx: store.traffic_page(tx, name, request))

    async def history(
        self, name: DeploymentName, request: inference_service_pb2.ListRevisionsRequest
    ) -> tuple[list[Revision], str]:
        """A page of a deployment's revisions, newest first."""
        return await self._db.read(lambda tx: store.revision_page(tx, name, request))

    async def replica_spec(self, job: JobName) -> Revision:
        """The revision that a replica must serve."""
        _, revision, _ = await self._db.read(lambda tx: store.rollout_of(tx, job))
        return revision

    async def report(
        self, job: JobName, epoch: int, state: replicas.State, message: str, address: Address
    ) -> None:
        """Take over what a replica says of itself. Costs no write where it says nothing new.

        Raises:
            StaleEpoch: a newer attempt serves in its place.
        """

        def change(replica: replicas.Replica) -> replicas.Replica:
            return replicas.report(replica, epoch, state, message, address)

        _, _, replica = await self._db.read(lambda tx: store.rollout_of(tx, job))
        if change(replica) != replica:
            await self._db.write(lambda tx: store.change_replica(tx, job, change))
        self._silence.restart(job, self._clock.monotonic())

    async def watch_routes(self) -> AsyncIterator[RoutingTable]:
        """The routing table: now, at each change, and every few seconds."""
        sent, since = -1, 0.0
        while True:
            revision = self.feed.current_revision()
            table = await self._db.read(_table)
            if table.number != sent or self._clock.monotonic() - since >= HEARTBEAT_SECONDS:
                sent, since = table.number, self._clock.monotonic()
                yield table
            try:
                async with asyncio.timeout(since + HEARTBEAT_SECONDS - self._clock.monotonic()):
                    await self.feed.wait(revision)
            except TimeoutError:
                pass

    async def confirm_routes(self, number: int) -> None:
        """Note that a routing table is in force, and take the steps that wait for it.

        Raises:
            RoutesUnknown: there is no such table yet.
        """

        def write(tx: Tx) -> None:
            state = store.routing_state(tx)
            if number > state.number:
                raise RoutesUnknown(
                    f"The newest routing table is {state.number}, not {number}: watch the routes again.",
                    revision=str(number),
                    newest=str(state.number),
                )
            if number > state.confirmed:
                store.confirm(tx, number)
                for each in store.rollouts(tx):
                    store.settle(tx, each, each)

        await self._db.write(write)

    async def _resolve(self, project: str, spec: Spec) -> tuple[Spec, Artifact]:
        """The spec with the number that its model version means now, and what there is to serve."""
        asked = ModelVersionName.parse(spec.model_version, "deployment.spec.model_version")
        missing = ModelVersionNotFound(
            f"{asked} does not exist in project {project}: see `aios model list`.", name=str(asked)
        )
        if asked.project != project:
            raise missing
        try:
            found = await self._data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=str(asked)))
        except NotFound:
            raise missing from None
        if not found.signature.inputs or not found.signature.outputs:
            raise SignatureMissing(
                f"{found.name} does not say what it takes and gives: register it with a signature.",
                name=found.name,
            )
        artifact = Artifact(found.manifest_sha256, found.signature.SerializeToString(deterministic=True))
        return replace(spec, model_version=found.name), artifact


def _first_wanted(spec: Spec, before: Rollout) -> int:
    """With how many replicas a new revision starts: as many as the live one needs, where load decides."""
    if not spec.scaling.maximum or before.live is None:
        return spec.replicas
    return max(1, spec.scaling.minimum, min(before.live.wanted, spec.scaling.maximum))


def _table(tx: Tx) -> RoutingTable:
    return RoutingTable(store.routing_state(tx).number, routes.table(store.rollouts(tx)))

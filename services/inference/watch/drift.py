"""Drift reports: accepted here, worked out by a transform of the data service, kept with their figures."""

import contextlib
import logging
import uuid
from datetime import UTC

from google.protobuf.json_format import MessageToDict

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, transform_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as transforms
from aios.errors import AiosError, AlreadyExists, Code, FailedPrecondition, InvalidArgument
from aios.inference.v1 import monitoring_pb2
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DatasetName, DatasetVersionName, DeploymentName, DriftReportName, TransformName, new_id
from aios.records import Database, Tx
from services.inference import store as deployments
from services.inference.watch import drift_store, figures, payloads
from services.inference.watch.explanations import NothingKept
from services.inference.watch.store import stamp

PSI_LIMIT = 0.2
PSI_LIMIT_MAX = 100.0
_Proto = monitoring_pb2.DriftReport
_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.NOT_FOUND})
_ENDED = (transform_pb2.Transform.STATE_FAILED, transform_pb2.Transform.STATE_CANCELLED)

_log = logging.getLogger(__name__)


class BaselineUnknown(FailedPrecondition):
    """The lineage does not say what one version the model was trained on. Say with which one to compare."""

    reason = "BASELINE_UNKNOWN"


class DriftReports:
    """Drift reports of every deployment."""

    def __init__(
        self,
        db: Database,
        data: data_service_pb2_grpc.DataServiceStub,
        transforms: transform_service_pb2_grpc.TransformServiceStub,
    ) -> None:
        self._db = db
        self._data = data
        self._transforms = transforms

    async def create(self, request: pb.CreateDriftReportRequest) -> monitoring_pb2.DriftReport:
        """Accept a report; `round` has it worked out.

        Raises:
            NothingKept: the deployment keeps nothing, or has kept nothing since then.
            BaselineUnknown: nothing says what to compare with.
        """
        name = DeploymentName.parse(request.parent, "parent")
        asked = request.drift_report
        if not 0 <= asked.psi_limit <= PSI_LIMIT_MAX:
            raise InvalidArgument.of("drift_report.psi_limit", f"must be between 0 and {PSI_LIMIT_MAX:g}")
        model_version = await self._db.read(lambda tx: _served(tx, name))
        against = await self._against(name.project, model_version, asked.against)
        since = asked.since.ToDatetime(UTC) if asked.HasField("since") else None
        made_id = new_id("drift")

        def write(tx: Tx) -> monitoring_pb2.DriftReport:
            if not drift_store.files(tx, name, model_version, since):
                raise NothingKept(
                    f"No prediction of {model_version} was kept{' since then' if since else ''}: "
                    f"`aios deployment payloads {name.deployment}`.",
                    name=str(name),
                )
            made = monitoring_pb2.DriftReport(
                name=str(DriftReportName(name.project, name.deployment, made_id)),
                since=asked.since if since else None,
                against=against,
                psi_limit=asked.psi_limit or PSI_LIMIT,
                state=_Proto.STATE_RUNNING,
                model_version=model_version,
                transform=str(TransformName(name.project, made_id)),
                create_time=stamp(tx.now()),
            )
            drift_store.add(tx, made)
            return made

        return await self._db.once(request, write, monitoring_pb2.DriftReport)

    async def get(self, name: DriftReportName) -> monitoring_pb2.DriftReport:
        """One report."""
        return await self._db.read(lambda tx: drift_store.get(tx, name))

    async def page(self, request: pb.ListDriftReportsRequest) -> tuple[list[monitoring_pb2.DriftReport], str]:
        """A page of a deployment's reports, newest first, and the token of the next."""
        name = DeploymentName.parse(request.parent, "parent")
        return await self._db.read(lambda tx: drift_store.page(tx, name, request))

    async def round(self) -> None:
        """Take every report one step further. Safe to repeat."""
        for found in await self._db.read(drift_store.running):
            try:
                await self._advance(found)
            except AiosError as error:
                if error.code in _REFUSALS:
                    await self._fail(found, error.message)
                else:
                    _log.warning("%s waits: %s", found.name, error.message)

    async def _advance(self, found: monitoring_pb2.DriftReport) -> None:
        if not found.predictions:
            await self._submit(found)
            return
        transform = await self._transforms.GetTransform(transforms.GetTransformRequest(name=found.transform))
        if transform.state in _ENDED:
            why = f"{transform.state_message or 'its transform failed'}: `aios transform logs {found.name.rsplit('/', 1)[1]}`"
            await self._fail(found, why)
        elif transform.state == transform_pb2.Transform.STATE_SUCCEEDED:
            answer = await self._transforms.GetTransformReport(
                transforms.GetTransformReportRequest(name=found.transform)
            )
            figures.read_report(found, MessageToDict(answer.report))
            found.version = transform.output_version
            await self._end(found, _Proto.STATE_SUCCEEDED)

    async def _submit(self, found: monitoring_pb2.DriftReport) -> None:
        """Make a version of the predictions, and a transform that reads it."""
        name = DriftReportName.parse(found.name)
        of = DeploymentName(name.project, name.deployment)
        since = found.since.ToDatetime(UTC) if found.HasField("since") else None
        files = await self._db.read(lambda tx: drift_store.files(tx, of, found.model_version, since))
        compared = DatasetName(name.project, f"{name.deployment}-drift-input")
        found.predictions = await payloads.commit(
            self._data, compared, files, f"Predictions of {found.model_version} for {name.drift_report}"
        )
        spec = transform_pb2.TransformSpec(
            type="drift",
            input=found.predictions,
            inputs={"baseline": found.against},
            output=f"{name.deployment}-drift",
        )
        spec.parameters.update({"psi_limit": found.psi_limit, "model": found.model_version})
        # One of a round that was cut off is there already: its predictions are older by moments.
        with contextlib.suppress(AlreadyExists):
            await self._transforms.CreateTransform(
                transforms.CreateTransformRequest(
                    parent=f"projects/{name.project}",
                    transform_id=name.drift_report,
                    transform=transform_pb2.Transform(spec=spec),
                    request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, found.name)),
                )
            )
        await self._db.write(lambda tx: drift_store.save(tx, found))

    async def _against(self, project: str, model_version: str, asked: str) -> str:
        if asked:
            full = f"{asked}/versions/latest" if DatasetName.matches(asked) else asked
            DatasetVersionName.parse(full, "drift_report.against")
            version = await self._data.GetDatasetVersion(data_service_pb2.GetDatasetVersionRequest(name=full))
            return version.name
        up = data_service_pb2.GetLineageRequest.DIRECTION_UP
        lineage = await self._data.GetLineage(
            data_service_pb2.GetLineageRequest(
                parent=f"projects/{project}", resource=model_version, direction=up
            )
        )
        given = figures.trained_on(model_version, ((each.source, each.target) for each in lineage.edges))
        if len(given) != 1:
            told = (
                f"was given {', '.join(given)}" if given else "was trained on nothing that the lineage knows"
            )
            raise BaselineUnknown(
                f"{model_version} {told}: say which dataset version to compare with (against).",
                name=model_version,
            )
        return given[0]

    async def _fail(self, found: monitoring_pb2.DriftReport, message: str) -> None:
        found.state_message = message
        await self._end(found, _Proto.STATE_FAILED)

    async def _end(
        self, found: monitoring_pb2.DriftReport, state: "monitoring_pb2.DriftReport.State.ValueType"
    ) -> None:
        found.state = state

        def write(tx: Tx) -> None:
            found.end_time.CopyFrom(stamp(tx.now()))
            drift_store.save(tx, found)

        await self._db.write(write)


def _served(tx: Tx, name: DeploymentName) -> str:
    """The model version that answers, or that is to."""
    seen = deployments.rollout(tx, name)
    return (seen.live or seen.latest).spec.model_version

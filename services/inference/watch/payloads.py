"""Kept predictions: replicas add files, and what a window came to becomes a version of a dataset."""

import contextlib
import logging
import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from aios.errors import AiosError, AlreadyExists, InvalidArgument
from aios.inference.v1 import monitoring_pb2
from aios.names import DatasetName, DeploymentName, JobName, RevisionName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.inference import store as deployments
from services.inference.watch import feedback, feedback_store, store
from services.inference.watch.files import File, dataset_of

GRACE = timedelta(seconds=5)
"""For the last files of a window to arrive. One that comes later makes a version of its own."""
_log = logging.getLogger(__name__)


class PayloadLogs:
    """The log of every deployment."""

    def __init__(self, db: Database, data: data_service_pb2_grpc.DataServiceStub, clock: Clock) -> None:
        self._db = db
        self._data = data
        self._clock = clock

    async def status(self, name: DeploymentName) -> monitoring_pb2.PayloadLogStatus:
        """How far a deployment's log is."""

        def read(tx: Tx) -> monitoring_pb2.PayloadLogStatus:
            deployments.get(tx, name)
            return store.payload_status(tx, name)

        found = await self._db.read(read)
        if found.rows:
            found.dataset = str(dataset_of(name))
        return found

    async def report(self, job: JobName, epoch: int, said: monitoring_pb2.PayloadFile) -> None:
        """Add a file to the log; one that is there already adds nothing.

        Raises:
            InvalidArgument: it says of itself what cannot be.
        """
        if len(said.sha256) != 64 or said.size_bytes <= 0 or said.rows <= 0 or said.dropped < 0:
            raise InvalidArgument.of("file", "must have a digest, a size and rows")
        start, end = (each.ToDatetime(UTC) for each in (said.start_time, said.end_time))

        def write(tx: Tx) -> None:
            _, revision, _ = deployments.rollout_of(tx, job)
            seconds = revision.spec.payload_log.window_seconds
            if not seconds:
                raise InvalidArgument.of("job", f"{revision.name} keeps nothing")
            window = datetime.fromtimestamp(end.timestamp() // seconds * seconds, UTC)
            path = f"{window:%Y%m%dT%H%M%SZ}/{revision.number}-{job.job}-{epoch}-{said.sha256[:12]}.parquet"
            file = File(
                path, said.sha256, said.size_bytes, said.rows, start, end, window + timedelta(seconds=seconds)
            )
            if store.add_file(tx, revision.name, file, said.dropped):
                feedback_store.add_answers(tx, revision.name, feedback.answered(said))

        await self._db.write(write)

    async def round(self) -> None:
        """Make versions of the windows that are over."""
        due = await self._db.read(lambda tx: store.due_files(tx, self._clock.now() - GRACE))
        windows: dict[tuple[DeploymentName, datetime], list[tuple[RevisionName, File]]] = defaultdict(list)
        for revision, file in due:
            name = DeploymentName(revision.project, revision.deployment)
            windows[name, file.window_end].append((revision, file))
        for (name, end), files in sorted(windows.items(), key=lambda each: each[0][1]):
            try:
                await self._commit(name, end, files)
            except AiosError as error:
                _log.warning("kept predictions of %s until %s wait: %s", name, end, error.message)

    async def _commit(
        self, name: DeploymentName, end: datetime, files: Sequence[tuple[RevisionName, File]]
    ) -> None:
        rows = sum(file.rows for _, file in files)
        message = f"{rows} predictions until {end:%Y-%m-%d %H:%M:%S} UTC"
        made = await commit(self._data, dataset_of(name), [file.to_proto() for _, file in files], message)
        await record(self._data, name.project, [(str(each), made) for each in {each for each, _ in files}])
        paths = [file.path for _, file in files]
        await self._db.write(lambda tx: store.mark_committed(tx, name, paths, made))


async def commit(
    data: data_service_pb2_grpc.DataServiceStub,
    dataset: DatasetName,
    files: Sequence[file_pb2.File],
    message: str,
    *,
    branch: str = "",
    inputs: Sequence[str] = (),
) -> str:
    """Make a version of files that are uploaded; the dataset too, where it is not there. May be repeated.

    Returns:
        Its name.
    """
    version = dataset_pb2.DatasetVersion(
        files=sorted(files, key=lambda each: each.path),
        message=message,
        origin=dataset_pb2.Origin(inputs=inputs),
    )
    content = " ".join(f"{each.path}:{each.sha256}" for each in version.files)
    request = data_service_pb2.CreateDatasetVersionRequest(
        parent=str(dataset),
        dataset_version=version,
        branch=branch,
        request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{dataset} {branch} {content}")),
    )
    try:
        return (await data.CreateDatasetVersion(request)).name
    except AiosError as error:
        if error.reason != "DATASET_NOT_FOUND":
            raise
    with contextlib.suppress(AlreadyExists):
        await data.CreateDataset(
            data_service_pb2.CreateDatasetRequest(
                parent=f"projects/{dataset.project}",
                dataset_id=dataset.dataset,
                dataset=dataset_pb2.Dataset(description="Made by the inference service."),
            )
        )
    return (await data.CreateDatasetVersion(request)).name


async def record(
    data: data_service_pb2_grpc.DataServiceStub, project: str, made: Sequence[tuple[str, str]]
) -> None:
    """Say in the lineage what made which versions."""
    edges = [
        data_service_pb2.LineageEdge(source=source, target=target, relation="produced")
        for source, target in made
    ]
    await data.RecordLineage(data_service_pb2.RecordLineageRequest(parent=f"projects/{project}", edges=edges))

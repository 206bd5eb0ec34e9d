"""What runs leave, as versions of the project's dataset for it."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from aios.errors import AlreadyExists
from aios.names import RunName
from services.trainer.tracking.artifact_store import File

OUTPUTS = "run-outputs"
"""The dataset of a project whose versions are what its runs leave behind."""


def listed(held: Iterable[File]) -> list[file_pb2.File]:
    """Logged artifacts as files of a version."""
    return [file_pb2.File(path=each.path, sha256=each.sha256, size_bytes=each.size_bytes) for each in held]


async def commit(
    data: data_service_pb2_grpc.DataServiceStub,
    project: str,
    files: Sequence[file_pb2.File],
    message: str,
    run: RunName | None,
) -> str:
    """Make a version of files, with the run that left them as its source; returns its name. May repeat."""
    parent = f"projects/{project}"
    dataset = f"{parent}/datasets/{OUTPUTS}"
    with suppress(AlreadyExists):
        await data.CreateDataset(
            data_service_pb2.CreateDatasetRequest(
                parent=parent,
                dataset_id=OUTPUTS,
                dataset=dataset_pb2.Dataset(description="What runs left behind."),
            )
        )
    content = dataset_pb2.DatasetVersion(files=files, message=message)
    version = await data.CreateDatasetVersion(
        data_service_pb2.CreateDatasetVersionRequest(parent=dataset, dataset_version=content)
    )
    if run is not None:
        edge = data_service_pb2.LineageEdge(source=str(run), target=version.name, relation="produced")
        await data.RecordLineage(data_service_pb2.RecordLineageRequest(parent=parent, edges=[edge]))
    return version.name

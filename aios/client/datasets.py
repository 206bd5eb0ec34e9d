"""Datasets: versions of files, pushed and pulled."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

from aios.client import transfer
from aios.client.connection import Connection, pages, request_id
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc, dataset_pb2
from aios.errors import AlreadyExists, InvalidArgument
from aios.names import DatasetName, DatasetVersionName


class Datasets:
    """`client.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = data_service_pb2_grpc.DataServiceStub(connection.channel)
        self._store = transfer.Store(self._stub, connection.http, connection.project)

    async def push(
        self,
        name: str,
        source: str | Path | Mapping[str, str | Path],
        *,
        message: str = "",
        progress: transfer.Report | None = None,
    ) -> dataset_pb2.DatasetVersion:
        """Store a file, a directory, or files by their path in the version, as the dataset's next version.

        The dataset is made when it does not exist. Content that is already stored is not sent again, and content
        equal to the newest version makes no new one.
        """
        dataset = self._connection.name(DatasetName, name)
        given = (
            {path: Path(file) for path, file in source.items()}
            if isinstance(source, Mapping)
            else Path(source)
        )
        files = await transfer.push(self._store, given, progress)
        create = pb.CreateDatasetRequest(
            parent=dataset.parent, dataset_id=dataset.dataset, request_id=request_id()
        )
        with suppress(AlreadyExists):
            await self._stub.CreateDataset(create)
        version = dataset_pb2.DatasetVersion(files=files, message=message)
        return await self._stub.CreateDatasetVersion(
            pb.CreateDatasetVersionRequest(
                parent=str(dataset), dataset_version=version, request_id=request_id()
            )
        )

    async def pull(
        self, name: str, destination: str | Path, *, progress: transfer.Report | None = None
    ) -> list[Path]:
        """Fetch a version's files into a directory; the newest version where none is named."""
        version = await self.version(name)
        return await transfer.pull(self._store, version.name, Path(destination), progress)

    async def get(self, name: str) -> dataset_pb2.Dataset:
        """One dataset."""
        return await self._stub.GetDataset(
            pb.GetDatasetRequest(name=str(self._connection.name(DatasetName, name)))
        )

    async def version(self, name: str) -> dataset_pb2.DatasetVersion:
        """One version with its files: `digits/{version}`, or `digits` for the newest."""
        return await self._stub.GetDatasetVersion(
            pb.GetDatasetVersionRequest(name=str(self.version_name(name)))
        )

    async def list(self, limit: int | None = None) -> AsyncIterator[dataset_pb2.Dataset]:
        """The project's datasets, by name."""
        request = pb.ListDatasetsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListDatasets, request, "datasets", limit):
            yield each

    async def versions(
        self, name: str, limit: int | None = None
    ) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """A dataset's versions, newest first, without their files."""
        parent = str(self._connection.name(DatasetName, name))
        request = pb.ListDatasetVersionsRequest(parent=parent)
        async for each in pages(self._stub.ListDatasetVersions, request, "dataset_versions", limit):
            yield each

    def version_name(self, name: str) -> DatasetVersionName:
        """The full name of a version; `latest` where only the dataset is named."""
        try:
            return self._connection.name(DatasetVersionName, name)
        except InvalidArgument:
            dataset = self._connection.name(DatasetName, name)
            return DatasetVersionName(dataset.project, dataset.dataset, "latest")

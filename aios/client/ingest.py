"""What devices publish over MQTT, as versions of datasets."""

from collections.abc import AsyncIterator, Sequence

from aios.client.connection import Connection, pages, request_id
from aios.data.v1 import ingest_pb2, ingest_service_pb2_grpc
from aios.data.v1 import ingest_service_pb2 as pb
from aios.names import DatasetName, DeviceName, IngestSourceName


class Ingest:
    """`client.ingest`. Sources and devices go by their ids, or by full names."""

    def __init__(self, connection: Connection) -> None:
        self._project = connection.credentials.project
        self._stub = ingest_service_pb2_grpc.IngestServiceStub(connection.channel)

    async def create(
        self,
        source: str,
        dataset: str,
        columns: Sequence[ingest_pb2.IngestColumn],
        *,
        time_column: str = "",
        window_seconds: int = 0,
        window_rows: int = 0,
        max_lateness_seconds: int = 0,
    ) -> ingest_pb2.IngestSource:
        """Make a source whose messages become versions of a dataset. 0 is the usual: 60 s, 10000 rows, 30 s."""
        if not DatasetName.matches(dataset):
            dataset = f"projects/{self._project}/datasets/{dataset}"
        asked = ingest_pb2.IngestSource(
            dataset=dataset,
            columns=columns,
            time_column=time_column,
            window_seconds=window_seconds,
            window_rows=window_rows,
            max_lateness_seconds=max_lateness_seconds,
        )
        return await self._stub.CreateIngestSource(
            pb.CreateIngestSourceRequest(
                parent=f"projects/{self._project}",
                ingest_source_id=source,
                ingest_source=asked,
                request_id=request_id(),
            )
        )

    async def get(self, source: str) -> ingest_pb2.IngestSource:
        """A source, with what it has taken in."""
        return await self._stub.GetIngestSource(pb.GetIngestSourceRequest(name=self._source(source)))

    async def list(self, limit: int | None = None) -> AsyncIterator[ingest_pb2.IngestSource]:
        """The project's sources, by name."""
        request = pb.ListIngestSourcesRequest(parent=f"projects/{self._project}")
        async for each in pages(self._stub.ListIngestSources, request, "ingest_sources", limit):
            yield each

    async def delete(self, source: str) -> None:
        """Remove a source with its devices and what waits in it. Its dataset stays."""
        await self._stub.DeleteIngestSource(pb.DeleteIngestSourceRequest(name=self._source(source)))

    async def create_device(self, source: str, device: str) -> ingest_pb2.Device:
        """Let a device in. The answer has its password, which is not kept."""
        return await self._stub.CreateDevice(
            pb.CreateDeviceRequest(parent=self._source(source), device_id=device)
        )

    async def get_device(self, source: str, device: str) -> ingest_pb2.Device:
        """One device."""
        return await self._stub.GetDevice(pb.GetDeviceRequest(name=self._device(source, device)))

    async def devices(self, source: str, limit: int | None = None) -> AsyncIterator[ingest_pb2.Device]:
        """Devices of a source, by name."""
        request = pb.ListDevicesRequest(parent=self._source(source))
        async for each in pages(self._stub.ListDevices, request, "devices", limit):
            yield each

    async def delete_device(self, source: str, device: str) -> None:
        """Shut a device out, within 5 s."""
        await self._stub.DeleteDevice(pb.DeleteDeviceRequest(name=self._device(source, device)))

    async def dead(self, source: str, limit: int | None = None) -> AsyncIterator[ingest_pb2.DeadMessage]:
        """Messages that became no rows, newest first."""
        request = pb.ListDeadMessagesRequest(parent=self._source(source))
        async for each in pages(self._stub.ListDeadMessages, request, "dead_messages", limit):
            yield each

    def _source(self, source: str) -> str:
        if IngestSourceName.matches(source):
            return source
        return str(IngestSourceName.parse(f"projects/{self._project}/ingestSources/{source}", "source"))

    def _device(self, source: str, device: str) -> str:
        return str(DeviceName.parse(f"{self._source(source)}/devices/{device}", "device"))

"""Methods of sources and devices: convert, call, convert."""

import secrets

from google.protobuf.empty_pb2 import Empty

from aios.data.v1 import ingest_pb2, ingest_service_pb2_grpc
from aios.data.v1 import ingest_service_pb2 as pb
from aios.names import DeviceName, IngestSourceName, check_id
from aios.records import Tx
from aios.runtime.context import principal
from services.data.intake import mapping, sources, store
from services.data.rpcs import Context, Rpcs, project_of

PASSWORD_BYTES = 32


class IngestServicer(Rpcs, ingest_service_pb2_grpc.IngestServiceServicer):
    """The caller may touch the project: the interceptor has seen to it."""

    async def CreateIngestSource(
        self, request: pb.CreateIngestSourceRequest, context: Context
    ) -> ingest_pb2.IngestSource:
        name = IngestSourceName(
            project_of(request.parent), check_id(request.ingest_source_id, "ingest_source_id")
        )
        source = sources.checked(mapping.source_from_proto(request.ingest_source, name))

        def create(tx: Tx) -> ingest_pb2.IngestSource:
            return store.add_source(tx, source, principal().subject)

        return await self._db.once(request, create, ingest_pb2.IngestSource)

    async def GetIngestSource(
        self, request: pb.GetIngestSourceRequest, context: Context
    ) -> ingest_pb2.IngestSource:
        name = IngestSourceName.parse(request.name)
        return await self._db.read(lambda tx: store.show_source(tx, name))

    async def ListIngestSources(
        self, request: pb.ListIngestSourcesRequest, context: Context
    ) -> pb.ListIngestSourcesResponse:
        project = project_of(request.parent)
        found, token = await self._db.read(lambda tx: store.sources_page(tx, request, project))
        return pb.ListIngestSourcesResponse(ingest_sources=found, next_page_token=token)

    async def DeleteIngestSource(self, request: pb.DeleteIngestSourceRequest, context: Context) -> Empty:
        name = IngestSourceName.parse(request.name)
        await self._db.write(lambda tx: store.delete_source(tx, name))
        return Empty()

    async def CreateDevice(self, request: pb.CreateDeviceRequest, context: Context) -> ingest_pb2.Device:
        source = IngestSourceName.parse(request.parent, "parent")
        name = DeviceName(source.project, source.ingest_source, check_id(request.device_id, "device_id"))
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        made = await self._db.write(lambda tx: store.add_device(tx, name, password))
        made.password = password
        return made

    async def GetDevice(self, request: pb.GetDeviceRequest, context: Context) -> ingest_pb2.Device:
        name = DeviceName.parse(request.name)
        return await self._db.read(lambda tx: store.get_device(tx, name))

    async def ListDevices(self, request: pb.ListDevicesRequest, context: Context) -> pb.ListDevicesResponse:
        source = IngestSourceName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: store.devices_page(tx, request, source))
        return pb.ListDevicesResponse(devices=found, next_page_token=token)

    async def DeleteDevice(self, request: pb.DeleteDeviceRequest, context: Context) -> Empty:
        name = DeviceName.parse(request.name)
        await self._db.write(lambda tx: store.delete_device(tx, name))
        return Empty()

    async def ListDeadMessages(
        self, request: pb.ListDeadMessagesRequest, context: Context
    ) -> pb.ListDeadMessagesResponse:
        source = IngestSourceName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: store.dead_page(tx, request, source))
        return pb.ListDeadMessagesResponse(dead_messages=found, next_page_token=token)

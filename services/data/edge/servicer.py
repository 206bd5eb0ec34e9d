"""Methods of edge devices and of what is signed for them: convert, call, convert."""

import secrets

from google.protobuf.empty_pb2 import Empty

from aios.data.v1 import edge_pb2, edge_service_pb2_grpc
from aios.data.v1 import edge_service_pb2 as pb
from aios.names import EdgeDeviceName, ModelVersionName, check_id
from services.data import layout, model_store
from services.data.edge import devices, store
from services.data.edge.devices import EdgeBundleInvalid
from services.data.intake.servicer import PASSWORD_BYTES
from services.data.rpcs import Context, Rpcs, project_of


class EdgeServicer(Rpcs, edge_service_pb2_grpc.EdgeServiceServicer):
    """The caller may touch the project: the interceptor has seen to it."""

    async def CreateEdgeDevice(
        self, request: pb.CreateEdgeDeviceRequest, context: Context
    ) -> edge_pb2.EdgeDevice:
        name = EdgeDeviceName(project_of(request.parent), check_id(request.edge_device_id, "edge_device_id"))
        follows = devices.check_follows(request.edge_device.follows, name.project, "edge_device.follows")
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        made = await self._db.write(lambda tx: store.add_device(tx, name, follows, password))
        made.password = password
        return made

    async def GetEdgeDevice(self, request: pb.GetEdgeDeviceRequest, context: Context) -> edge_pb2.EdgeDevice:
        name = EdgeDeviceName.parse(request.name)
        return await self._db.read(lambda tx: store.get_device(tx, name))

    async def ListEdgeDevices(
        self, request: pb.ListEdgeDevicesRequest, context: Context
    ) -> pb.ListEdgeDevicesResponse:
        project = project_of(request.parent)
        found, token = await self._db.read(lambda tx: store.devices_page(tx, request, project))
        return pb.ListEdgeDevicesResponse(edge_devices=found, next_page_token=token)

    async def DeleteEdgeDevice(self, request: pb.DeleteEdgeDeviceRequest, context: Context) -> Empty:
        name = EdgeDeviceName.parse(request.name)
        await self._db.write(lambda tx: store.delete_device(tx, name))
        return Empty()

    async def CreateEdgeBundle(
        self, request: pb.CreateEdgeBundleRequest, context: Context
    ) -> edge_pb2.EdgeBundle:
        name = ModelVersionName.parse(request.parent, "parent")
        version = await self._db.read(lambda tx: model_store.get_version(tx, name))
        signed = request.edge_bundle
        content = await self._contents.manifest(name.project, version.manifest_sha256)
        file = devices.check_bundle(
            signed.manifest, signed.signature, signed.public_key, version, content.files
        )
        await self._blobs.ready(name.project)
        if self._blobs.key_of(layout.blob(name.project, file.sha256)):
            raise EdgeBundleInvalid(
                f"The files of projects/{name.project} are encrypted by keys that no device is given."
            )
        bundle = store.Bundle(
            version.name,
            signed.manifest,
            signed.signature,
            signed.public_key,
            file.sha256,
            file.size_bytes,
        )
        return await self._db.write(lambda tx: store.keep_bundle(tx, bundle))

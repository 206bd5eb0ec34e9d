"""Devices that run models where no platform is."""

from collections.abc import AsyncIterator

from aios.client.connection import Connection, pages
from aios.data.v1 import edge_pb2, edge_service_pb2_grpc
from aios.data.v1 import edge_service_pb2 as pb
from aios.names import EdgeDeviceName, ModelVersionName


class Edge:
    """`client.edge`. Devices go by their ids, or by full names."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = edge_service_pb2_grpc.EdgeServiceStub(connection.channel)

    async def create_device(self, device: str, follows: str) -> edge_pb2.EdgeDevice:
        """Let a device in. The answer has its password, which is not kept.

        Args:
            follows: `buyers/@production`: whatever version the alias names; or `buyers/3`.
        """
        return await self._stub.CreateEdgeDevice(
            pb.CreateEdgeDeviceRequest(
                parent=self._connection.project,
                edge_device_id=device,
                edge_device=edge_pb2.EdgeDevice(follows=self._version(follows)),
            )
        )

    async def get_device(self, device: str) -> edge_pb2.EdgeDevice:
        """One device, with what it runs and what it has answered."""
        return await self._stub.GetEdgeDevice(pb.GetEdgeDeviceRequest(name=self._device(device)))

    async def devices(self, limit: int | None = None) -> AsyncIterator[edge_pb2.EdgeDevice]:
        """The project's devices, by name."""
        request = pb.ListEdgeDevicesRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListEdgeDevices, request, "edge_devices", limit):
            yield each

    async def delete_device(self, device: str) -> None:
        """Shut a device out, within 5 s. What it runs it goes on running."""
        await self._stub.DeleteEdgeDevice(pb.DeleteEdgeDeviceRequest(name=self._device(device)))

    async def keep_bundle(self, version: str, bundle: edge_pb2.EdgeBundle) -> edge_pb2.EdgeBundle:
        """Give a signed version to the devices that follow it."""
        return await self._stub.CreateEdgeBundle(
            pb.CreateEdgeBundleRequest(parent=self._version(version), edge_bundle=bundle)
        )

    def _device(self, device: str) -> str:
        return str(self._connection.name(EdgeDeviceName, device))

    def _version(self, version: str) -> str:
        return str(self._connection.name(ModelVersionName, version))

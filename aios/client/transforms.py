"""Transforms: data prepared on the pool, version by version."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aios.client.connection import Connection, pages, request_id
from aios.client.datasets import Datasets
from aios.client.jobs import RECONNECTS_MAX, Jobs
from aios.client.pull import pull
from aios.client.transfer import Store
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, transform_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as pb
from aios.errors import NotFound, Unavailable
from aios.names import TransformName
from aios.transfer import download

FINAL = frozenset(
    {
        transform_pb2.Transform.STATE_SUCCEEDED,
        transform_pb2.Transform.STATE_FAILED,
        transform_pb2.Transform.STATE_CANCELLED,
    }
)
POLL_SECONDS = 0.5
REPORT, PAGE = "report.json", "report.html"
"""What a transform says of its result, for programs and for people."""


class Transforms:
    """`client.transforms`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = transform_service_pb2_grpc.TransformServiceStub(connection.channel)
        data = data_service_pb2_grpc.DataServiceStub(connection.channel)
        self._store = Store(data, connection.http, connection.project)

    async def submit(
        self,
        type: str,  # noqa: A002 - as the contract calls it
        input: str,  # noqa: A002
        output: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        transform_id: str = "",
        request: str = "",
    ) -> transform_pb2.Transform:
        """Submit a transform; once this returns, it will not be lost.

        Args:
            input: `titanic` for its newest version, or `titanic/{version}`.
            output: Dataset that the result becomes a version of.
            inputs: Further versions by name, where the type reads more than one.
            request: Idempotency key, where a retry must outlive this process.
        """
        spec = transform_pb2.TransformSpec(type=type, input=self._version(input), output=output)
        spec.parameters.update(dict(parameters or {}))
        for key, name in (inputs or {}).items():
            spec.inputs[key] = self._version(name)
        return await self._stub.CreateTransform(
            pb.CreateTransformRequest(
                parent=self._connection.project,
                transform_id=transform_id,
                transform=transform_pb2.Transform(spec=spec),
                request_id=request or request_id(),
            )
        )

    async def get(self, name: str) -> transform_pb2.Transform:
        """One transform."""
        return await self._stub.GetTransform(pb.GetTransformRequest(name=self._name(name)))

    async def list(self, limit: int | None = None) -> AsyncIterator[transform_pb2.Transform]:
        """The project's transforms, newest first."""
        request = pb.ListTransformsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListTransforms, request, "transforms", limit):
            yield each

    async def types(self) -> AsyncIterator[transform_pb2.TransformType]:
        """What can be done to data."""
        for each in (await self._stub.ListTransformTypes(pb.ListTransformTypesRequest())).types:
            yield each

    async def wait(self, name: str) -> transform_pb2.Transform:
        """The transform once it has ended, however it ended."""
        failures = 0
        while True:
            try:
                found = await self.get(name)
                failures = 0
                if found.state in FINAL:
                    return found
            except Unavailable:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def logs(self, name: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """What its process wrote. With `follow`, until it has ended."""
        async for piece in Jobs(self._connection).logs((await self.get(name)).job, follow=follow):
            yield piece

    async def report(self, version: str) -> dict[str, Any]:
        """What the transform that made a version says of it.

        Raises:
            NotFound: no transform made it.
        """
        found: dict[str, Any] = json.loads(await self._file(self._version(version), REPORT))
        return found

    async def page(self, version: str, target: str | Path) -> Path:
        """The same as a page for people, put into a file."""
        content = await self._file(self._version(version), PAGE)
        await asyncio.to_thread(Path(target).write_bytes, content)
        return Path(target)

    async def newest(self, type: str, version: str) -> str:  # noqa: A002 - as the contract calls it
        """What the newest transform of a type made of a version; empty where there is none."""
        full = (await Datasets(self._connection).version(version)).name
        async for each in self.list():
            if each.spec.type == type and each.spec.input == full and each.output_version:
                return each.output_version
        return ""

    async def _file(self, version: str, path: str) -> bytes:
        """A small file of a version, checked."""
        request = data_service_pb2.ListDownloadsRequest(parent=version, paths=[path])
        found = (await self._store.data.ListDownloads(request)).downloads
        if not found:
            raise NotFound(f"{version} holds no {path}: no transform made it.", reason="NO_REPORT")
        file = found[0].file
        with TemporaryDirectory(prefix="aios-report-") as scratch:
            target = Path(scratch, path)
            if found[0].parts:
                await pull(self._store, version, Path(scratch))
            else:
                await download(
                    self._store.http,
                    found[0].url,
                    file.sha256,
                    file.size_bytes,
                    target,
                    key=found[0].encryption_key,
                )
            return await asyncio.to_thread(target.read_bytes)

    def _version(self, name: str) -> str:
        """The full name of a version; `latest` where only the dataset is named."""
        return str(Datasets(self._connection).version_name(name))

    def _name(self, name: str) -> str:
        return str(self._connection.name(TransformName, name))

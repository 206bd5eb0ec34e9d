"""The model registry, and the lineage of whatever has a name."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aios.client import openlineage, signatures, transfer
from aios.client.connection import Connection, pages, request_id
from aios.client.pull import pull
from aios.common.v1 import tensor_pb2
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc, model_pb2
from aios.errors import AlreadyExists
from aios.names import ModelName, ModelVersionName


class Models:
    """`client.models`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = data_service_pb2_grpc.DataServiceStub(connection.channel)
        self._store = transfer.Store(self._stub, connection.http, connection.project)

    async def get(self, name: str) -> model_pb2.Model:
        """One model."""
        return await self._stub.GetModel(pb.GetModelRequest(name=str(self._connection.name(ModelName, name))))

    async def version(self, name: str) -> model_pb2.ModelVersion:
        """One version with its files: `digits/3`, `digits/latest` or `digits/@champion`."""
        full = self._connection.name(ModelVersionName, name)
        return await self._stub.GetModelVersion(pb.GetModelVersionRequest(name=str(full)))

    async def list(self, limit: int | None = None) -> AsyncIterator[model_pb2.Model]:
        """The project's models, by name."""
        request = pb.ListModelsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListModels, request, "models", limit):
            yield each

    async def versions(self, name: str, limit: int | None = None) -> AsyncIterator[model_pb2.ModelVersion]:
        """A model's versions, newest first, without their files."""
        parent = str(self._connection.name(ModelName, name))
        request = pb.ListModelVersionsRequest(parent=parent)
        async for each in pages(self._stub.ListModelVersions, request, "model_versions", limit):
            yield each

    async def register(
        self,
        source: str | Path,
        name: str,
        signature: tensor_pb2.Signature | None = None,
        *,
        card: str = "",
        progress: transfer.Report | None = None,
    ) -> model_pb2.ModelVersion:
        """Store files as the next version of a model, which is made where there is none.

        Args:
            source: A file, or a directory.
            signature: What the model takes and gives; a language model's directory says it by itself.
        """
        model = self._connection.name(ModelName, name)
        signature = signature or await asyncio.to_thread(signatures.of_directory, Path(source))
        files = await transfer.push(self._store, Path(source), progress)
        with suppress(AlreadyExists):
            await self._stub.CreateModel(
                pb.CreateModelRequest(parent=model.parent, model_id=model.model, request_id=request_id())
            )
        version = model_pb2.ModelVersion(files=files, signature=signature, card=card)
        return await self._stub.CreateModelVersion(
            pb.CreateModelVersionRequest(parent=str(model), model_version=version, request_id=request_id())
        )

    async def set_alias(self, name: str, alias: str) -> model_pb2.Model:
        """Point an alias at a version, moving it when it exists."""
        version = self._connection.name(ModelVersionName, name)
        return await self._stub.SetModelAlias(
            pb.SetModelAliasRequest(
                model=version.parent, alias=alias.removeprefix("@"), version=version.version
            )
        )

    async def delete_alias(self, name: str, alias: str) -> model_pb2.Model:
        """Remove an alias; its version stays."""
        model = self._connection.name(ModelName, name)
        request = pb.DeleteModelAliasRequest(model=str(model), alias=alias.removeprefix("@"))
        return await self._stub.DeleteModelAlias(request)

    async def log(self, name: str, limit: int | None = None) -> AsyncIterator[pb.LogEntry]:
        """Everything that happened to a model, newest first: registrations, promotions, deletions."""
        request = pb.ListModelLogRequest(parent=str(self._connection.name(ModelName, name)))
        async for each in pages(self._stub.ListModelLog, request, "entries", limit):
            yield each

    async def delete(self, name: str, *, dry_run: bool = False) -> pb.Deletion:
        """Remove a version, `digits/3`, unless an alias names it or a deployment serves it; or a model, `digits`, with all
        of its versions and aliases, unless a deployment serves one.
        """
        if "/" not in name.removeprefix(f"{self._connection.project}/").removeprefix("models/"):
            model = str(self._connection.name(ModelName, name))
            return await self._stub.DeleteModel(pb.DeleteModelRequest(name=model, validate_only=dry_run))
        version = self._connection.name(ModelVersionName, name)
        request = pb.DeleteModelVersionRequest(name=str(version), validate_only=dry_run)
        return await self._stub.DeleteModelVersion(request)

    async def pull(
        self, name: str, destination: str | Path, *, progress: transfer.Report | None = None
    ) -> Sequence[Path]:
        """Fetch a version's files into a directory."""
        full = self._connection.name(ModelVersionName, name)
        return await pull(self._store, str(full), Path(destination), progress)


class Lineage:
    """`client.lineage`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = data_service_pb2_grpc.DataServiceStub(connection.channel)

    async def get(self, resource: str, direction: str = "both") -> list[pb.LineageEdge]:
        """The edges around a resource, nearest first.

        Args:
            resource: A full name, or one without its project: `deployments/digits`.
            direction: `up` for what it came from, `down` for what came from it, or `both`.
        """
        name = resource if resource.startswith("projects/") else f"{self._connection.project}/{resource}"
        way = pb.GetLineageRequest.Direction.Value(f"DIRECTION_{direction.upper()}")
        request = pb.GetLineageRequest(parent=self._connection.project, resource=name, direction=way)
        return list((await self._stub.GetLineage(request)).edges)

    async def openlineage(self, resource: str, direction: str = "both") -> list[dict[str, Any]]:
        """The same as OpenLineage events, one for everything that ran."""
        found = [(edge.source, edge.target) for edge in await self.get(resource, direction)]
        address = self._connection.credentials.address
        return [dict(each) for each in openlineage.events(found, address, datetime.now(UTC))]

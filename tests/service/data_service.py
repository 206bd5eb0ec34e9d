"""The data service in this process, on a real S3 server, and callers of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx

from aios.blobs import Blobs
from aios.common.v1 import file_pb2, tensor_pb2
from aios.config import Settings
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from aios.records import Database
from aios.runtime import tokens
from aios.runtime.channel import connect
from aios.runtime.server import Server, Service
from services.data import store
from services.data.app import MIGRATIONS
from services.data.ingest import Ingest
from services.data.servicer import DataServicer

KEY = tokens.new_key()
PROJECT = "projects/demo"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Platform:
    """A running data service."""

    address: str
    ingest: Ingest
    blobs: Blobs
    db: Database
    clock: Clock
    http: httpx.AsyncClient
    _channels: list[grpc.aio.Channel]

    def caller(self, role: str = "editor", project: str = "demo", **more: Any) -> "Caller":
        """Somebody with a token."""
        claims = {"sub": role, "jti": role, "project": project, "role": role, **more}
        token = tokens.mint(KEY, claims, ttl_seconds=600)
        channel = connect(self.address, lambda: token)
        self._channels.append(channel)
        return Caller(data_service_pb2_grpc.DataServiceStub(channel), self.http, f"projects/{project}")

    def worker(self, run: str, epoch: int) -> "Caller":
        """One attempt of a run's job."""
        return self.caller("worker", job=f"{PROJECT}/jobs/{run}", epoch=epoch)


@dataclass
class Caller:
    """One client, in one project."""

    api: data_service_pb2_grpc.DataServiceStub
    http: httpx.AsyncClient
    project: str

    async def begin(self, data: bytes) -> pb.Upload:
        return await self.api.BeginUpload(
            pb.BeginUploadRequest(parent=self.project, sha256=digest(data), size_bytes=len(data))
        )

    async def put(self, upload: pb.Upload, data: bytes) -> int:
        return (await self.http.put(upload.url, content=data, headers=dict(upload.headers))).status_code

    async def complete(self, upload: pb.Upload) -> pb.Upload:
        return await self.api.CompleteUpload(pb.CompleteUploadRequest(name=upload.name))

    async def store(self, path: str, data: bytes) -> file_pb2.File:
        """Upload one file as any client does."""
        upload = await self.begin(data)
        if not upload.exists:
            # 412: the same content came in from somebody else meanwhile.
            assert await self.put(upload, data) in (200, 412)
            await self.complete(upload)
        return file(path, data)

    async def store_all(self, contents: dict[str, bytes]) -> list[file_pb2.File]:
        return list(await asyncio.gather(*(self.store(path, data) for path, data in contents.items())))

    async def dataset(self, dataset_id: str, **more: Any) -> str:
        made = await self.api.CreateDataset(
            pb.CreateDatasetRequest(parent=self.project, dataset_id=dataset_id, **more)
        )
        return made.name

    async def commit(self, parent: str, files: list[file_pb2.File], message: str = "", **more: Any) -> Any:
        request = pb.CreateDatasetVersionRequest(parent=parent, **more)
        request.dataset_version.files.extend(files)
        request.dataset_version.message = message
        return await self.api.CreateDatasetVersion(request)

    async def register(self, model: str, files: list[file_pb2.File], **more: Any) -> Any:
        request = pb.CreateModelVersionRequest(parent=f"{self.project}/models/{model}")
        request.model_version.files.extend(files)
        request.model_version.signature.CopyFrom(signature())
        for field, value in more.items():
            getattr(request.model_version, field).update(value) if isinstance(value, dict) else setattr(
                request.model_version, field, value
            )
        return await self.api.CreateModelVersion(request)

    async def checkpoint(self, run: str, epoch: int, step: int, files: list[file_pb2.File]) -> Any:
        request = pb.CreateCheckpointRequest(parent=f"{self.project}/runs/{run}")
        request.checkpoint.step, request.checkpoint.epoch = step, epoch
        request.checkpoint.files.extend(files)
        return await self.api.CreateCheckpoint(request)

    async def read(self, parent: str) -> dict[str, bytes]:
        """Everything that a version holds, by presigned GET."""
        listed = await self.api.ListDownloads(pb.ListDownloadsRequest(parent=parent))
        contents = {}
        for each in listed.downloads:
            response = await self.http.get(each.url)
            assert response.status_code == 200, response.text
            contents[each.file.path] = response.content
        return contents


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(path: str, data: bytes) -> file_pb2.File:
    return file_pb2.File(path=path, sha256=digest(data), size_bytes=len(data))


def signature() -> tensor_pb2.Signature:
    return tensor_pb2.Signature(
        inputs=[tensor_pb2.TensorSpec(name="image", datatype="FP32", shape=[1, 28, 28])],
        outputs=[tensor_pb2.TensorSpec(name="logits", datatype="FP32", shape=[10])],
        max_batch_size=32,
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Platform]:
    """Serve until the block ends."""
    async with AsyncExitStack() as stack:
        clock = Clock()
        db = await Database.open(settings, "data", store.metadata, MIGRATIONS, clock)
        stack.push_async_callback(db.close)
        blobs = await Blobs.open(settings)
        stack.push_async_callback(blobs.close)
        ingest = Ingest(db, blobs, clock)
        stack.push_async_callback(ingest.close)
        keys = settings.home / "jwks.json"
        keys.write_text(json.dumps(tokens.jwks(KEY.public_key())))
        servicer = DataServicer(db, blobs, ingest, clock)
        add = data_service_pb2_grpc.add_DataServiceServicer_to_server
        server = Server("127.0.0.1:0", [Service(add, servicer)], tokens.Verifier(keys))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        platform = Platform(f"127.0.0.1:{server.port}", ingest, blobs, db, clock, http, [])
        yield platform
        for channel in platform._channels:
            await channel.close()


def settings_at(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    return Settings.load({"AIOS_HOME": str(home)})

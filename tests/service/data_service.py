"""The data service in this process, on a real S3 server, and callers of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
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
from aios.data.v1 import annotation_service_pb2_grpc, data_service_pb2_grpc, privacy_service_pb2_grpc
from aios.data.v1 import data_service_pb2 as pb
from aios.names import ModelVersionName
from aios.records import Database
from aios.runtime import tokens
from aios.runtime.channel import connect
from aios.runtime.server import Server, Service
from services.data import adopt, reindex, store
from services.data.annotation.servicer import AnnotationServicer
from services.data.app import MIGRATIONS
from services.data.ingest import Ingest
from services.data.privacy_rpcs import PrivacyServicer
from services.data.rpcs import Parts
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
    parts: Parts
    clock: Clock
    http: httpx.AsyncClient
    deployed: dict[str, list[str]]
    """Model version to the deployments that the inference service would name."""
    _channels: list[grpc.aio.Channel]

    @property
    def ingest(self) -> Ingest:
        return self.parts.ingest

    @property
    def blobs(self) -> Blobs:
        return self.parts.blobs

    @property
    def db(self) -> Database:
        return self.parts.db

    def caller(self, role: str = "editor", project: str = "demo", **more: Any) -> "Caller":
        """Somebody with a token."""
        token = token_of(role, project, **more)
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

    async def put_parts(self, upload: pb.Upload, data: bytes, numbers: Sequence[int] = ()) -> None:
        """Put parts, those that are not there where none is named."""
        size = upload.part_size_bytes
        wanted = numbers or [
            number for number in range(1, -(-len(data) // size) + 1) if number not in upload.stored_parts
        ]
        pieces = {number: data[(number - 1) * size : number * size] for number in wanted}
        parts = [pb.UploadPart(number=number, sha256=digest(piece)) for number, piece in pieces.items()]
        signed = await self.api.SignUploadParts(pb.SignUploadPartsRequest(name=upload.name, parts=parts))
        for part in signed.parts:
            answer = await self.http.put(part.url, content=pieces[part.number], headers=dict(part.headers))
            assert answer.status_code == 200, answer.text

    async def complete(self, upload: pb.Upload) -> pb.Upload:
        return await self.api.CompleteUpload(pb.CompleteUploadRequest(name=upload.name))

    async def store(self, path: str, data: bytes) -> file_pb2.File:
        """Upload one file as any client does."""
        upload = await self.begin(data)
        if upload.part_size_bytes:
            await self.put_parts(upload, data)
            await self.complete(upload)
        elif not upload.exists:
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
            ranges = [(part.url, part.offset_bytes, part.size_bytes) for part in each.parts]
            content = b""
            for url, offset, size in ranges or [(each.url, 0, each.file.size_bytes)]:
                wanted = {"range": f"bytes={offset}-{offset + size - 1}"} if each.parts else {}
                response = await self.http.get(url, headers=wanted)
                assert response.status_code in (200, 206), response.text
                content += response.content
            contents[each.file.path] = content
        return contents


def token_of(role: str, project: str = "demo", **more: Any) -> str:
    """A token that the service accepts."""
    claims = {"sub": role, "jti": role, "project": project, "role": role, **more}
    return tokens.mint(KEY, claims, ttl_seconds=600)


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
async def running(settings: Settings, blobs_type: type[Blobs] = Blobs) -> AsyncIterator[Platform]:
    """Serve until the block ends; on an index that was lost, as the service does it."""
    async with AsyncExitStack() as stack:
        clock = Clock()
        db = await Database.open(settings, "data", store.metadata, MIGRATIONS, clock)
        stack.push_async_callback(db.close)
        blobs = await blobs_type.open(settings)
        stack.push_async_callback(blobs.close)
        deployed: dict[str, list[str]] = {}

        async def deployments(version: ModelVersionName) -> list[str]:
            return deployed.get(str(version), [])

        parts = Parts.of(db, blobs, clock, deployments)
        stack.push_async_callback(parts.close)
        await reindex.rebuild_if_lost(parts)
        await adopt.adopt(parts)
        await parts.ledger.settle_once()
        keys = settings.home / "jwks.json"
        keys.write_text(json.dumps(tokens.jwks(KEY.public_key())))
        servicer = DataServicer(parts)
        add = data_service_pb2_grpc.add_DataServiceServicer_to_server
        private = privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server
        label = annotation_service_pb2_grpc.add_AnnotationServiceServicer_to_server
        services = [Service(add, servicer), Service(label, AnnotationServicer(parts))]
        services.append(Service(private, PrivacyServicer(parts)))
        server = Server("127.0.0.1:0", services, tokens.Verifier(keys), heard=parts.audit.hear)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        platform = Platform(f"127.0.0.1:{server.port}", parts, clock, http, deployed, [])
        yield platform
        for channel in platform._channels:
            await channel.close()


def settings_at(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    return Settings.load({"AIOS_HOME": str(home)})

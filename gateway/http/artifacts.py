"""Bytes of MLflow's artifacts: what its clients PUT and GET below `mlflow-artifacts/artifacts`.

They send content without saying its digest, which the store wants first: so what comes is written to a file, hashed on
its way, and sent on from there. What goes out is passed on as it comes, and checked: a client whose copy would differ
sees its connection end early. The caller's own token says who may; memory holds a few pieces of each transfer.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from aios import seal, sse, transfer
from aios.client.transfer import Store, put_blob
from aios.data.v1.data_service_pb2_grpc import DataServiceStub
from aios.errors import AiosError, DataLoss, InvalidArgument, ResourceExhausted, Unavailable, Unimplemented
from aios.identity.v1.identity_service_pb2 import GetCallerRequest
from aios.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from aios.runtime import telemetry
from aios.trainer.v1 import artifact_service_pb2 as pb
from aios.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from gateway.http import dialects, problems
from gateway.http.exchange import authorization
from gateway.http.pages import ANY_CALLER, Stated, asked_by
from gateway.http.problems import BodyTooLarge, MethodNotAllowed

PATH = "/api/2.0/mlflow-artifacts"
SERVICE = "/aios.trainer.v1.ArtifactService"
BYTES_MAX = 16 << 30  # of one artifact: it lies on this machine's disk on its way
AT_ONCE = 8  # uploads; the others wait for their turn
PIECE_BYTES = 1 << 20
NO_PARTS = "Multipart upload is not supported for the current artifact repository"
"""What its clients understand: they send the file whole."""
INFO: Mapping[str, Any] = {
    "store_type": None,
    "workspaces_enabled": False,
    "trace_archival_enabled": False,
    "multipart_uploads_enabled": False,
    "multipart_downloads_enabled": False,
    "presigned_upload_run_id_supported": False,
    "presigned_upload_model_id_supported": False,
    "features_enabled": {},
}
"""What MLflow's clients ask a server that they do not know."""
Metadata = Sequence[tuple[str, str]]
Answer = Callable[[Request, Metadata], Awaitable[Response]]


class Artifacts:
    """The routes' handlers.

    Args:
        channels: To each service, by domain, without a token of their own.
        spool: A folder for what is on its way in. What a former process left there is removed.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], spool: Path) -> None:
        self._artifacts = ArtifactServiceStub(channels["trainer"])
        self._data = DataServiceStub(channels["data"])
        self._identity = IdentityServiceStub(channels["identity"])
        self._http = transfer.client()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._spool = spool
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in spool.iterdir():
            left.unlink()

    def routes(self) -> list[Stated]:
        """For the gateway's router."""
        answers: Mapping[str, Mapping[str, tuple[str, Answer]]] = {
            f"{PATH}/artifacts/{{path:path}}": {
                "GET": (asked_by(f"{SERVICE}/GetArtifact"), self._get),
                "PUT": (asked_by(f"{SERVICE}/PutArtifact"), self._put),
                "DELETE": (asked_by(f"{SERVICE}/DeleteArtifact"), self._delete),
            },
            f"{PATH}/mpu/{{path:path}}": {"POST": (ANY_CALLER, self._no_parts)},
            "/api/3.0/mlflow/server-info": {"GET": (ANY_CALLER, self._info)},
        }
        return [_route(path, methods) for path, methods in answers.items()]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _info(self, request: Request, metadata: Metadata) -> Response:
        await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
        return JSONResponse(INFO)

    async def _no_parts(self, request: Request, metadata: Metadata) -> Response:
        await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
        raise Unimplemented(NO_PARTS)

    async def _get(self, request: Request, metadata: Metadata) -> Response:
        asked = pb.GetArtifactRequest(path=request.path_params["path"])
        found = await self._artifacts.GetArtifact(asked, metadata=metadata)
        stack = AsyncExitStack()
        try:
            key = found.encryption_key
            wanted = {"accept-encoding": "identity", **sse.headers(key)}
            sending = self._http.stream("GET", found.url, headers=wanted)
            answer = await stack.enter_async_context(sending)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            await stack.aclose()
            raise Unavailable("The object store does not deliver: try again.") from error

        async def pieces() -> AsyncIterator[bytes]:
            sha256, opened = hashlib.sha256(), seal.cipher(key)
            async with stack:
                async for piece in answer.aiter_raw(PIECE_BYTES):
                    plain = opened(piece)
                    sha256.update(plain)
                    yield plain
            if sha256.hexdigest() != found.sha256:
                raise DataLoss(f"{asked.path!r} is not what was stored.")

        headers = {
            "content-length": str(found.file_size),
            "content-type": "application/octet-stream",
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }
        return StreamingResponse(pieces(), headers=headers)

    async def _put(self, request: Request, metadata: Metadata) -> Response:
        path = request.path_params["path"]
        await self._artifacts.PutArtifact(
            pb.PutArtifactRequest(path=path, validate_only=True), metadata=metadata
        )
        caller = await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
        stub = cast(DataServiceStub, _Caller(self._data, metadata))
        async with self._turns:
            with tempfile.NamedTemporaryFile(dir=self._spool) as file:
                sha256, size = await _spooled(request, file)
                store = Store(stub, self._http, caller.project)
                await put_blob(store, sha256, Path(file.name), lambda moved: None)
        put = pb.PutArtifactRequest(path=path, sha256=sha256, size_bytes=size)
        await self._artifacts.PutArtifact(put, metadata=metadata)
        return JSONResponse({})

    async def _delete(self, request: Request, metadata: Metadata) -> Response:
        asked = pb.DeleteArtifactRequest(path=request.path_params["path"])
        await self._artifacts.DeleteArtifact(asked, metadata=metadata)
        return JSONResponse({})


class _Caller:
    """A stub whose every call carries the caller's own token."""

    def __init__(self, stub: Any, metadata: Metadata) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, method: str) -> Any:
        return partial(getattr(self._stub, method), metadata=self._metadata)


async def _spooled(request: Request, file: Any) -> tuple[str, int]:
    """Write a request's body to a file. Returns its SHA-256 and size.

    Raises:
        BodyTooLarge: before the rest of it is read.
        InvalidArgument: it ended before it was whole.
        ResourceExhausted: the disk is full.
    """
    sha256, size, kept = hashlib.sha256(), 0, bytearray()

    def write(data: bytes) -> None:
        sha256.update(data)
        file.write(data)

    try:
        async for piece in request.stream():
            size += len(piece)
            if size > BYTES_MAX:
                raise BodyTooLarge(f"an artifact has at most {BYTES_MAX} bytes", limit_bytes=str(BYTES_MAX))
            kept += piece
            if len(kept) >= PIECE_BYTES:
                await asyncio.to_thread(write, bytes(kept))
                kept.clear()
        await asyncio.to_thread(write, bytes(kept))
        await asyncio.to_thread(file.flush)
    except ClientDisconnect:
        raise InvalidArgument("the body ended before it was whole") from None
    except OSError as error:
        raise ResourceExhausted(
            f"The gateway cannot keep the artifact on its way: {error.strerror}."
        ) from error
    return sha256.hexdigest(), size


def _route(path: str, answers: Mapping[str, tuple[str, Answer]]) -> Stated:
    async def answer(request: Request) -> Response:
        try:
            if request.method not in answers:
                allow = ", ".join(sorted(answers))
                raise MethodNotAllowed(f"{path} does not take {request.method}: use {allow}", allow=allow)
            _, method = answers[request.method]
            return await method(request, authorization(request.headers))
        except AiosError as error:
            trace = telemetry.trace_id_of(request.headers.get("traceparent", ""))
            body = problems.problem(error, trace) | dialects.problem(error)
            return Response(problems.encode(body), problems.status(error), problems.headers(error))

    return Stated(path, {method: permission for method, (permission, _) in answers.items()}, answer)

"""The RPCs of artifacts: convert, call, convert."""

from typing import Any

from aios.runtime.context import principal
from aios.trainer.v1 import artifact_service_pb2 as pb
from aios.trainer.v1 import artifact_service_pb2_grpc
from services.trainer.tracking import paths
from services.trainer.tracking.artifacts import Artifacts


class ArtifactServicer(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        found = paths.place(request.path)
        held = await self._artifacts.files(principal().project, found)
        sizes = {file.path: file.size_bytes for file in held}
        return pb.ListArtifactsResponse(
            files=[
                pb.ArtifactInfo(path=name, is_dir=is_dir, file_size=None if is_dir else size)
                for name, is_dir, size in paths.below(sizes, found.path)
            ]
        )

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> pb.GetArtifactResponse:
        found = await self._artifacts.download(request.path)
        return pb.GetArtifactResponse(
            url=found.url,
            file_size=found.file.size_bytes,
            sha256=found.file.sha256,
            encryption_key=found.encryption_key,
        )

    async def PutArtifact(self, request: pb.PutArtifactRequest, context: Any) -> pb.PutArtifactResponse:
        await self._artifacts.put(
            request.path, request.sha256, request.size_bytes, validate_only=request.validate_only
        )
        return pb.PutArtifactResponse()

    async def DeleteArtifact(
        self, request: pb.DeleteArtifactRequest, context: Any
    ) -> pb.DeleteArtifactResponse:
        await self._artifacts.remove(request.path)
        return pb.DeleteArtifactResponse()

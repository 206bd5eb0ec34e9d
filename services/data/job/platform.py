"""The platform as one attempt of a transform sees it: over the public door, with the attempt's own token."""

import json
from collections.abc import Sequence
from pathlib import Path

from aios import transfer
from aios.client.datasets import list_files
from aios.client.pull import pull
from aios.client.push import push_files
from aios.client.transfer import Store, find
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as pb
from aios.names import JobName, TransformName
from aios.runtime.channel import door_channel
from aios.runtime.token_files import TokenSource
from services.data.job import code
from services.data.job.work import Model
from services.data.transforms import Spec

FEATURES = "features.json"
"""Of a model over a table: the names of its features, in order."""
COMPLETE_SECONDS = 60.0  # a version of many files is checked meanwhile


class Platform:
    """Calls of one attempt.

    Args:
        address: The public door, `http://host:port` or `https://host:port`.
        job: `projects/{project}/jobs/{job}`; the transform has the same id.
    """

    def __init__(self, address: str, token: TokenSource, job: str, epoch: int) -> None:
        name = JobName.parse(job, "AIOS_JOB")
        self.transform = str(TransformName(name.project, name.job))
        self._epoch = epoch
        self._channel = door_channel(address, token)
        self._data = data_service_pb2_grpc.DataServiceStub(self._channel)
        self._transforms = transform_service_pb2_grpc.TransformServiceStub(self._channel)
        self._http = transfer.client()
        self._store = Store(self._data, self._http, f"projects/{name.project}")

    async def origin(self, version: str) -> dataset_pb2.Origin:
        """Where a version came from, and what is known of people in it."""
        request = data_service_pb2.GetDatasetVersionRequest(name=version)
        return (await self._data.GetDatasetVersion(request)).origin

    async def download(self, version: str, folder: Path) -> None:
        """Fetch every file of a version, each checked."""
        await pull(self._store, version, folder)

    async def model(self, version: str, folder: Path) -> Model:
        """What a model version says of its features and classes."""
        found = await self._data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=version))
        features: list[str] = []
        if any(each.path == FEATURES for each in found.files):
            await pull(self._store, version, folder, paths=[FEATURES])
            features = json.loads((folder / FEATURES).read_text())
        return Model([str(each) for each in features], list(found.signature.labels))

    async def secrets(self) -> pb.GetTransformKeyResponse:
        """What this transform alone is told."""
        request = pb.GetTransformKeyRequest(name=self.transform, epoch=self._epoch)
        return await self._transforms.GetTransformKey(request)

    async def complete(
        self, folder: Path, schema: str, licence: str, privacy: Sequence[str]
    ) -> dataset_pb2.DatasetVersion:
        """Store a folder as what the transform made."""
        version = dataset_pb2.DatasetVersion(
            origin=dataset_pb2.Origin(
                code_sha256=code.sha256(), schema=schema, licence=licence, privacy=privacy
            )
        )
        await list_files(self._store, version, await push_files(self._store, find(folder), None))
        request = pb.CompleteTransformRequest(name=self.transform, epoch=self._epoch, dataset_version=version)
        return await self._transforms.CompleteTransform(request, timeout=COMPLETE_SECONDS)

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()
        await self._channel.close()


def spec_of(spec: Spec) -> str:
    """One line for the log."""
    return f"{spec.label} of {spec.input} into datasets/{spec.output}: {dict(spec.parameters)}"

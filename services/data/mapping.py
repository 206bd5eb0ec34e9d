"""Protos to domain and back."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import file_pb2, tensor_pb2
from aios.data.v1 import data_service_pb2, dataset_pb2, model_pb2
from aios.names import DatasetVersionName
from services.data.checkpoints import Checkpoint
from services.data.datasets import Dataset, DatasetVersion
from services.data.lineage import Direction, Edge, Walk
from services.data.manifests import File
from services.data.models import Model, ModelVersion, Signature, Tensor
from services.data.uploads import Upload

_DIRECTIONS: Mapping[int, Direction] = {
    data_service_pb2.GetLineageRequest.DIRECTION_UP: Direction.UP,
    data_service_pb2.GetLineageRequest.DIRECTION_DOWN: Direction.DOWN,
}


def files_from_proto(files: Iterable[file_pb2.File]) -> list[File]:
    return [File(file.path, file.sha256, file.size_bytes) for file in files]


def file_to_proto(file: File) -> file_pb2.File:
    return file_pb2.File(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes)


def blob_to_event(upload: Upload) -> dict[str, Any]:
    """A blob is no resource of the contract, so its event states what there is to say."""
    # 64-bit numbers are strings in the JSON form of protos, and here too.
    return {"sha256": upload.sha256, "size_bytes": str(upload.size_bytes)}


def dataset_to_proto(dataset: Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=str(dataset.name),
        description=dataset.description,
        latest_version=f"{dataset.name}/versions/{dataset.latest}" if dataset.latest else "",
        create_time=stamp(dataset.create_time),
    )


def dataset_version_to_proto(
    version: DatasetVersion, files: Sequence[File] = ()
) -> dataset_pb2.DatasetVersion:
    parent = DatasetVersionName(version.name.project, version.name.dataset, version.parent)
    return dataset_pb2.DatasetVersion(
        name=str(version.name),
        manifest_sha256=version.manifest_sha256,
        files=map(file_to_proto, files),
        file_count=version.file_count,
        size_bytes=version.size_bytes,
        message=version.message,
        parent_version=str(parent) if version.parent else "",
        create_time=stamp(version.create_time),
        creator=version.creator,
    )


def model_to_proto(model: Model) -> model_pb2.Model:
    return model_pb2.Model(
        name=str(model.name),
        description=model.description,
        latest_version=f"{model.name}/versions/{model.latest}" if model.latest else "",
        aliases={alias: str(number) for alias, number in model.aliases.items()},
        create_time=stamp(model.create_time),
    )


def model_version_to_proto(version: ModelVersion, files: Sequence[File] = ()) -> model_pb2.ModelVersion:
    return model_pb2.ModelVersion(
        name=str(version.name),
        manifest_sha256=version.manifest_sha256,
        files=map(file_to_proto, files),
        size_bytes=version.size_bytes,
        signature=signature_to_proto(version.signature),
        metrics=version.metrics,
        run=str(version.run) if version.run else "",
        create_time=stamp(version.create_time),
        creator=version.creator,
    )


def signature_from_proto(proto: tensor_pb2.Signature) -> Signature:
    return Signature(
        inputs=tuple(_tensor_from_proto(each) for each in proto.inputs),
        outputs=tuple(_tensor_from_proto(each) for each in proto.outputs),
        max_batch_size=proto.max_batch_size,
        labels=tuple(proto.labels),
    )


def signature_to_proto(signature: Signature) -> tensor_pb2.Signature:
    return tensor_pb2.Signature(
        inputs=map(_tensor_to_proto, signature.inputs),
        outputs=map(_tensor_to_proto, signature.outputs),
        max_batch_size=signature.max_batch_size,
        labels=signature.labels,
    )


def checkpoint_to_proto(checkpoint: Checkpoint) -> model_pb2.Checkpoint:
    return model_pb2.Checkpoint(
        name=str(checkpoint.name),
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics=checkpoint.metrics,
        create_time=stamp(checkpoint.create_time),
    )


def direction_from_proto(direction: int) -> Direction:
    return _DIRECTIONS.get(direction, Direction.BOTH)


def lineage_to_proto(walk: Walk) -> data_service_pb2.Lineage:
    return data_service_pb2.Lineage(edges=map(edge_to_proto, walk.edges), truncated=walk.truncated)


def edge_to_proto(edge: Edge) -> data_service_pb2.LineageEdge:
    return data_service_pb2.LineageEdge(source=edge.source, target=edge.target, relation=edge.relation.value)


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


def _tensor_from_proto(proto: tensor_pb2.TensorSpec) -> Tensor:
    return Tensor(proto.name, proto.datatype, tuple(proto.shape))


def _tensor_to_proto(tensor: Tensor) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)

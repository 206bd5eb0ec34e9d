"""Protos to domain and back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import file_pb2, tensor_pb2
from aios.data.v1 import data_service_pb2, dataset_pb2, model_pb2
from aios.names import DatasetName, DatasetVersionName, ModelName
from services.data.checkpoints import Checkpoint
from services.data.datasets import Dataset, DatasetVersion
from services.data.lineage import Direction, Edge, Walk
from services.data.logs import Entry
from services.data.manifests import VERSION_ID_CHARS, File, Manifest, Origin
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
        branches=dataset.branches,
        tags=dataset.tags,
    )


def dataset_version_to_proto(
    version: DatasetVersion, manifest: Manifest | None = None
) -> dataset_pb2.DatasetVersion:
    parent = DatasetVersionName(version.name.project, version.name.dataset, version.parent)
    return dataset_pb2.DatasetVersion(
        name=str(version.name),
        manifest_sha256=version.manifest_sha256,
        files=map(file_to_proto, manifest.files if manifest else ()),
        file_count=version.file_count,
        size_bytes=version.size_bytes,
        message=version.message,
        parent_version=str(parent) if version.parent else "",
        create_time=stamp(version.create_time),
        creator=version.creator,
        index_sha256=version.index_sha256,
        origin=origin_to_proto(manifest.origin) if manifest else None,
    )


def origin_from_proto(proto: dataset_pb2.Origin) -> Origin:
    return Origin(
        run=proto.run,
        code_sha256=proto.code_sha256,
        transform=proto.transform,
        parameters=MessageToDict(proto.parameters),
        inputs=tuple(proto.inputs),
        schema=proto.schema,
        licence=proto.licence,
        privacy=tuple(proto.privacy),
        label_project=proto.label_project,
    )


def origin_to_proto(origin: Origin) -> dataset_pb2.Origin:
    return ParseDict(
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(origin).items()},
        dataset_pb2.Origin(),
    )


def entry_to_proto(entry: Entry, name: DatasetName | ModelName) -> data_service_pb2.LogEntry:
    body = entry.body
    version = body.get("version") or body.get("number") or entry.manifest[:VERSION_ID_CHARS]
    return data_service_pb2.LogEntry(
        sequence=entry.sequence,
        type=entry.change,
        version=f"{name}/versions/{version}" if version else "",
        ref=body.get("branch") or body.get("ref") or body.get("alias") or "",
        message=body.get("message", ""),
        creator=entry.creator,
        create_time=stamp(entry.time),
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
        card=version.card,
        rejected=version.rejected,
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

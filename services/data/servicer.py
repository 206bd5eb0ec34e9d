"""The public face: convert, call, convert."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.blobs import Blobs
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc, dataset_pb2, model_pb2
from aios.errors import Aborted, InvalidArgument
from aios.names import (
    CheckpointName,
    DatasetName,
    DatasetVersionName,
    JobName,
    ModelName,
    ModelVersionName,
    ProjectName,
    RunName,
    UploadName,
    check_id,
)
from aios.records import Database, Page, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import principal, require_job
from services.data import checkpoints, datasets, layout, lineage, manifests, mapping, models, store
from services.data.checkpoints import Checkpoint
from services.data.ingest import Ingest
from services.data.lineage import Direction, Edge
from services.data.manifests import Kind, Manifest

Context = Any

DOWNLOADS, DOWNLOADS_MAX = 500, 3_000  # a page of 3,000 URLs and longest paths stays below 4 MiB


class DataServicer(data_service_pb2_grpc.DataServiceServicer):
    """Datasets, models, checkpoints and lineage. The caller may touch the project: the interceptor has seen to it."""

    def __init__(self, db: Database, blobs: Blobs, ingest: Ingest, clock: Clock) -> None:
        self._db = db
        self._blobs = blobs
        self._ingest = ingest
        self._clock = clock

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: Context) -> pb.Upload:
        project = _project(request.parent)
        sha256 = manifests.check_sha256(request.sha256, "sha256")
        size = manifests.check_size(request.size_bytes, "size_bytes")
        upload, door = await self._ingest.begin(project, sha256, size)
        if door is None:
            return pb.Upload(name=str(upload.name), exists=True)
        return pb.Upload(
            name=str(upload.name),
            url=door.url,
            headers=door.headers,
            expire_time=mapping.stamp(door.expire_time),
        )

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Context) -> pb.Upload:
        name = UploadName.parse(request.name)
        await self._ingest.complete(name)
        return pb.Upload(name=str(name), exists=True)

    async def ListDownloads(
        self, request: pb.ListDownloadsRequest, context: Context
    ) -> pb.ListDownloadsResponse:
        page = Page.of(request, DOWNLOADS, DOWNLOADS_MAX)

        def read(tx: Tx) -> tuple[str, list[manifests.File], str]:
            project, manifest = _manifest_of(tx, request.parent)
            if page.after is not None and page.after[0] != manifest:
                raise Aborted(f"{request.parent} means another version now: list again from the start.")
            return project, *store.files_page(tx, project, manifest, page)

        project, files, token = await self._db.read(read)
        downloads = [
            pb.Download(
                file=mapping.file_to_proto(file),
                url=self._blobs.presigned_get(layout.blob(project, file.sha256)).url,
            )
            for file in files
        ]
        return pb.ListDownloadsResponse(downloads=downloads, next_page_token=token)

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> dataset_pb2.Dataset:
        name = DatasetName(_project(request.parent), check_id(request.dataset_id, "dataset_id"))
        description = datasets.check_text(request.dataset.description, "dataset.description")
        dataset = datasets.Dataset(name, description, "", self._clock.now())
        return await self._db.once(
            request, lambda tx: mapping.dataset_to_proto(store.add_dataset(tx, dataset)), dataset_pb2.Dataset
        )

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> dataset_pb2.Dataset:
        name = DatasetName.parse(request.name)
        return mapping.dataset_to_proto(await self._db.read(lambda tx: store.get_dataset(tx, name)))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        project = _project(request.parent)
        found, token = await self._db.read(lambda tx: store.datasets_page(tx, request, project))
        return pb.ListDatasetsResponse(datasets=map(mapping.dataset_to_proto, found), next_page_token=token)

    async def CreateDatasetVersion(
        self, request: pb.CreateDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        name = DatasetName.parse(request.parent, "parent")
        files = mapping.files_from_proto(request.dataset_version.files)
        manifest = Manifest.of(Kind.DATASET, files, "dataset_version.files")
        message = datasets.check_text(request.dataset_version.message, "dataset_version.message")
        creator, now = principal().subject, self._clock.now()
        await self._db.read(lambda tx: store.get_dataset(tx, name))
        await self._ingest.publish(name.project, manifest)

        def write(tx: Tx) -> dataset_pb2.DatasetVersion:
            made = store.commit_dataset_version(tx, name, manifest, message, creator, now)
            return mapping.dataset_version_to_proto(made)

        return await self._db.once(request, write, dataset_pb2.DatasetVersion)

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        name = DatasetVersionName.parse(request.name)

        def read(tx: Tx) -> dataset_pb2.DatasetVersion:
            version = store.get_dataset_version(tx, name)
            return mapping.dataset_version_to_proto(
                version, store.files_of(tx, name.project, version.manifest_sha256)
            )

        return await self._db.read(read)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        name = DatasetName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: store.dataset_versions_page(tx, request, name))
        return pb.ListDatasetVersionsResponse(
            dataset_versions=map(mapping.dataset_version_to_proto, found), next_page_token=token
        )

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> model_pb2.Model:
        name = ModelName(_project(request.parent), check_id(request.model_id, "model_id"))
        description = datasets.check_text(request.model.description, "model.description")
        model = models.Model(name, description, 0, self._clock.now())
        return await self._db.once(
            request, lambda tx: mapping.model_to_proto(store.add_model(tx, model)), model_pb2.Model
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        name = ModelName.parse(request.name)
        return mapping.model_to_proto(await self._db.read(lambda tx: store.get_model(tx, name)))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        project = _project(request.parent)
        found, token = await self._db.read(lambda tx: store.models_page(tx, request, project))
        return pb.ListModelsResponse(models=map(mapping.model_to_proto, found), next_page_token=token)

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        name = ModelName.parse(request.parent, "parent")
        # The call may make the model, so both must be names that a caller may give.
        check_id(name.project, "parent")
        check_id(name.model, "parent")
        asked, caller, now = request.model_version, principal(), self._clock.now()
        manifest = Manifest.of(Kind.MODEL, mapping.files_from_proto(asked.files), "model_version.files")
        run = _run_of(asked.run, "model_version.run") if asked.run else None
        models.check_claim(run, name, by_service=caller.role == "service")
        candidate = models.Candidate(
            models.check_signature(mapping.signature_from_proto(asked.signature), "model_version.signature"),
            models.check_metrics(dict(asked.metrics), "model_version.metrics"),
            run,
            caller.subject,
            now,
        )
        await self._ingest.publish(name.project, manifest)

        def write(tx: Tx) -> model_pb2.ModelVersion:
            return mapping.model_version_to_proto(store.register_model_version(tx, name, manifest, candidate))

        return await self._db.once(request, write, model_pb2.ModelVersion)

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        name = ModelVersionName.parse(request.name)

        def read(tx: Tx) -> model_pb2.ModelVersion:
            version = store.get_model_version(tx, name)
            return mapping.model_version_to_proto(
                version, store.files_of(tx, name.project, version.manifest_sha256)
            )

        return await self._db.read(read)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        name = ModelName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: store.model_versions_page(tx, request, name))
        return pb.ListModelVersionsResponse(
            model_versions=map(mapping.model_version_to_proto, found), next_page_token=token
        )

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> model_pb2.Model:
        name = ModelName.parse(request.model, "model")
        alias = models.check_alias(request.alias, "alias")
        version = ModelVersionName.parse(f"{name}/versions/{request.version}", "version")
        return mapping.model_to_proto(
            await self._db.write(lambda tx: store.set_alias(tx, name, alias, version))
        )

    async def CreateCheckpoint(
        self, request: pb.CreateCheckpointRequest, context: Context
    ) -> model_pb2.Checkpoint:
        run, asked = _run_of(request.parent, "parent"), request.checkpoint
        checkpoints.check_position(asked.epoch, asked.step, "checkpoint")
        # A run's job has the id of the run.
        require_job(str(JobName(run.project, run.run)), asked.epoch)
        manifest = Manifest.of(Kind.CHECKPOINT, mapping.files_from_proto(asked.files), "checkpoint.files")
        metrics = models.check_metrics(dict(asked.metrics), "checkpoint.metrics")
        checkpoint = Checkpoint(run, asked.epoch, asked.step, manifest.sha256, metrics, self._clock.now())
        await self._ingest.publish(run.project, manifest)
        stored = await self._db.write(lambda tx: store.add_checkpoint(tx, checkpoint, manifest))
        return mapping.checkpoint_to_proto(stored)

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: Context
    ) -> pb.ListCheckpointsResponse:
        run = RunName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: store.checkpoints_page(tx, request, run))
        return pb.ListCheckpointsResponse(
            checkpoints=map(mapping.checkpoint_to_proto, found), next_page_token=token
        )

    async def RecordLineage(self, request: pb.RecordLineageRequest, context: Context) -> Empty:
        project = _project(request.parent)
        if not 0 < len(request.edges) <= lineage.RECORD_MAX:
            raise InvalidArgument.of("edges", f"must be 1 to {lineage.RECORD_MAX} edges")
        edges = [
            lineage.check_edge(edge.source, edge.target, edge.relation, project, f"edges[{index}]")
            for index, edge in enumerate(request.edges)
        ]
        await self._db.write(lambda tx: store.add_edges(tx, project, edges))
        return Empty()

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.Lineage:
        project = _project(request.parent)
        start = lineage.check_node(request.resource, project, "resource")
        direction = mapping.direction_from_proto(request.direction)

        def read(tx: Tx) -> lineage.Walk:
            def neighbours(names: Iterable[str], way: Direction) -> list[Edge]:
                return store.edges_at(tx, project, names, way)

            return lineage.walk(_settled(tx, start), direction, neighbours)

        return mapping.lineage_to_proto(await self._db.read(read))


def _project(parent: str) -> str:
    return check_id(ProjectName.parse(parent, "parent").project, "parent")


def _run_of(text: str, field: str) -> RunName:
    run = RunName.parse(text, field)
    check_id(run.project, field)
    check_id(run.run, field)
    return run


def _manifest_of(tx: Tx, parent: str) -> tuple[str, str]:
    """Project and manifest of anything that has files."""
    if DatasetVersionName.matches(parent):
        dataset_version = store.get_dataset_version(tx, DatasetVersionName.parse(parent))
        return dataset_version.name.project, dataset_version.manifest_sha256
    if ModelVersionName.matches(parent):
        model_version = store.get_model_version(tx, ModelVersionName.parse(parent))
        return model_version.name.project, model_version.manifest_sha256
    if CheckpointName.matches(parent):
        checkpoint = store.get_checkpoint(tx, CheckpointName.parse(parent))
        return checkpoint.run.project, checkpoint.manifest_sha256
    raise InvalidArgument.of("parent", "must name a dataset version, model version or checkpoint")


def _settled(tx: Tx, name: str) -> str:
    """The lasting name of a version that is named as `latest` or by alias: lineage knows only those."""
    if DatasetVersionName.matches(name):
        return str(store.get_dataset_version(tx, DatasetVersionName.parse(name)).name)
    if ModelVersionName.matches(name):
        return str(store.get_model_version(tx, ModelVersionName.parse(name)).name)
    return name

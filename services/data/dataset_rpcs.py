"""Methods of datasets."""

from collections.abc import Sequence

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import dataset_pb2
from aios.errors import InvalidArgument
from aios.names import DatasetName, DatasetVersionName, LabelProjectName, RunName, check_id
from aios.records import Page, Tx
from services.data import blob_store, dataset_store, datasets, entry_store, manifests, mapping
from services.data.annotation import store as label_store
from services.data.annotation.projects import VersionLabelled
from services.data.datasets import MAIN, RefNotFound, RefTaken, VersionNamed
from services.data.ledger import Draft
from services.data.logs import Change, Log
from services.data.manifests import File, Origin
from services.data.rpcs import Context, Rpcs, project_of

CHANGES, CHANGES_MAX = 500, 3_000


class DatasetRpcs(Rpcs):
    """Datasets, their versions, branches and tags."""

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> dataset_pb2.Dataset:
        name = DatasetName(project_of(request.parent), check_id(request.dataset_id, "dataset_id"))
        description = datasets.check_text(request.dataset.description, "dataset.description")

        def decide(tx: Tx) -> Draft:
            dataset_store.require_no_dataset(tx, name)
            return Draft(Change.CREATED, {"description": description})

        return await self._ledger.change(
            Log.of(name), decide, lambda tx: _dataset(tx, name), dataset_pb2.Dataset, request
        )

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> dataset_pb2.Dataset:
        name = DatasetName.parse(request.name)
        return await self._db.read(lambda tx: _dataset(tx, name))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        project = project_of(request.parent)
        found, token = await self._db.read(lambda tx: dataset_store.datasets_page(tx, request, project))
        return pb.ListDatasetsResponse(datasets=map(mapping.dataset_to_proto, found), next_page_token=token)

    async def CreateDatasetVersion(
        self, request: pb.CreateDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        name = DatasetName.parse(request.parent, "parent")
        asked = request.dataset_version
        branch = datasets.check_ref(request.branch, "branch") if request.branch else MAIN
        message = datasets.check_text(asked.message, "dataset_version.message")
        origin = _origin(mapping.origin_from_proto(asked.origin), name.project)
        await self._db.read(lambda tx: _require_known(tx, name, origin))
        manifest = await self._manifest(asked, origin, name.project)
        return await self._commits.commit(name, manifest, branch, message, request.base_version, request)

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        name = DatasetVersionName.parse(request.name)
        version = await self._db.read(lambda tx: dataset_store.get_version(tx, name))
        manifest = await self._contents.manifest(name.project, version.manifest_sha256)
        return mapping.dataset_version_to_proto(version, manifest)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        name = DatasetName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: dataset_store.versions_page(tx, request, name))
        return pb.ListDatasetVersionsResponse(
            dataset_versions=map(mapping.dataset_version_to_proto, found), next_page_token=token
        )

    async def DiffDatasetVersions(
        self, request: pb.DiffDatasetVersionsRequest, context: Context
    ) -> pb.DiffDatasetVersionsResponse:
        name = DatasetVersionName.parse(request.name)
        page = Page.of(request, CHANGES, CHANGES_MAX)

        def read(tx: Tx) -> tuple[str, str]:
            later = dataset_store.get_version(tx, name)
            base = DatasetVersionName(name.project, name.dataset, later.parent)
            if request.base:
                base = DatasetVersionName.parse(request.base, "base")
                if base.project != name.project:
                    raise InvalidArgument.of("base", f"must lie in projects/{name.project}")
            elif not later.parent:
                raise InvalidArgument.of("base", "must be given: this version has no parent")
            return later.manifest_sha256, dataset_store.get_version(tx, base).manifest_sha256

        after, before = await self._db.read(read)
        changes = await self._contents.changes(name.project, after, before)
        start = page.number()
        answer = pb.DiffDatasetVersionsResponse(
            added=sum(each.before is None for each in changes),
            removed=sum(each.after is None for each in changes),
        )
        answer.modified = len(changes) - answer.added - answer.removed
        for change in changes[start : start + page.size]:
            shown = answer.changes.add(path=change.path)
            for field, state in (("before", change.before), ("after", change.after)):
                if state is not None:
                    getattr(shown, field).CopyFrom(mapping.file_to_proto(File(change.path, *state)))
        if start + page.size < len(changes):
            answer.next_page_token = page.token(start + page.size)
        return answer

    async def ListDatasetLog(
        self, request: pb.ListDatasetLogRequest, context: Context
    ) -> pb.ListDatasetLogResponse:
        name = DatasetName.parse(request.parent, "parent")

        def read(tx: Tx) -> pb.ListDatasetLogResponse:
            dataset_store.get_dataset(tx, name)
            found, token = entry_store.entries_page(tx, request, Log.of(name))
            entries = [mapping.entry_to_proto(entry, name) for entry in found]
            return pb.ListDatasetLogResponse(entries=entries, next_page_token=token)

        return await self._db.read(read)

    async def SetDatasetRef(self, request: pb.SetDatasetRefRequest, context: Context) -> dataset_pb2.Dataset:
        name = DatasetName.parse(request.dataset, "dataset")
        ref = datasets.check_ref(request.ref, "ref")
        wanted = DatasetVersionName.parse(f"{name}/versions/{request.version}", "version")

        def decide(tx: Tx) -> Draft | dataset_pb2.Dataset:
            dataset = dataset_store.get_dataset(tx, name)
            version = dataset_store.get_version(tx, wanted).name.version
            mine, others = (
                (dataset.tags, dataset.branches) if request.tag else (dataset.branches, dataset.tags)
            )
            if ref in others or (request.tag and mine.get(ref, version) != version):
                raise RefTaken(f"{name} has {ref!r} already: choose another name, or delete it.", ref=ref)
            if mine.get(ref) == version:
                return mapping.dataset_to_proto(dataset)
            return Draft(Change.REF_SET, {"ref": ref, "version": version, "tag": request.tag})

        return await self._ledger.change(
            Log.of(name), decide, lambda tx: _dataset(tx, name), dataset_pb2.Dataset
        )

    async def DeleteDatasetRef(
        self, request: pb.DeleteDatasetRefRequest, context: Context
    ) -> dataset_pb2.Dataset:
        name = DatasetName.parse(request.dataset, "dataset")
        if request.ref == MAIN:
            raise InvalidArgument.of("ref", f"`{MAIN}` stays: `latest` means its head")

        def decide(tx: Tx) -> Draft:
            dataset = dataset_store.get_dataset(tx, name)
            if request.ref not in {**dataset.branches, **dataset.tags}:
                raise RefNotFound(f"{name} has no branch or tag {request.ref!r}.", ref=request.ref)
            return Draft(Change.REF_DELETED, {"ref": request.ref})

        return await self._ledger.change(
            Log.of(name), decide, lambda tx: _dataset(tx, name), dataset_pb2.Dataset
        )

    async def DeleteDatasetVersion(
        self, request: pb.DeleteDatasetVersionRequest, context: Context
    ) -> pb.Deletion:
        name = DatasetVersionName.parse(request.name)
        dataset = DatasetName(name.project, name.dataset)
        told = pb.Deletion()

        def decide(tx: Tx) -> Draft | pb.Deletion:
            version, refs = dataset_store.get_version(tx, name), dataset_store.get_dataset(tx, dataset)
            naming = [
                ref for ref, each in {**refs.branches, **refs.tags}.items() if each == version.name.version
            ]
            if naming:
                named = ", ".join(sorted(naming))
                raise VersionNamed(
                    f"{version.name} is named by {named}: move or delete that first.", refs=named
                )
            require_unlabelled(tx, [version.name])
            told.CopyFrom(self._deletion(blob_store.freed_by(tx, name.project, [version.manifest_sha256])))
            draft = Draft(Change.VERSION_DELETED, {"version": version.name.version})
            return told if request.validate_only else draft

        return await self._ledger.change(Log.of(dataset), decide, lambda tx: told, pb.Deletion)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.Deletion:
        name = DatasetName.parse(request.name)
        told = pb.Deletion()

        def decide(tx: Tx) -> Draft | pb.Deletion:
            dataset_store.get_dataset(tx, name)
            require_unlabelled(tx, dataset_store.version_names(tx, name))
            going = dataset_store.manifests_of(tx, name)
            told.CopyFrom(self._deletion(blob_store.freed_by(tx, name.project, going)))
            return told if request.validate_only else Draft(Change.DELETED)

        return await self._ledger.change(Log.of(name), decide, lambda tx: told, pb.Deletion)


def _dataset(tx: Tx, name: DatasetName) -> dataset_pb2.Dataset:
    return mapping.dataset_to_proto(dataset_store.get_dataset(tx, name))


def require_unlabelled(tx: Tx, versions: Sequence[DatasetVersionName]) -> None:
    """Refuse to delete what people are being asked about."""
    for start in range(0, len(versions), label_store.AT_ONCE):
        some = versions[start : start + label_store.AT_ONCE]
        if found := label_store.over(tx, some[0].project, some):
            named = ", ".join(found)
            raise VersionLabelled(f"{named} asks people about it: delete that first.", label_projects=named)


def _origin(origin: Origin, project: str) -> Origin:
    """Refuse what is said of other projects, and what is no name."""
    at = "dataset_version.origin"
    if origin.run and RunName.parse(origin.run, f"{at}.run").project != project:
        raise InvalidArgument.of(f"{at}.run", f"must lie in projects/{project}")
    for index, text in enumerate(origin.inputs):
        if DatasetVersionName.parse(text, f"{at}.inputs[{index}]").project != project:
            raise InvalidArgument.of(f"{at}.inputs[{index}]", f"must lie in projects/{project}")
    labels = origin.label_project
    if labels and LabelProjectName.parse(labels, f"{at}.label_project").project != project:
        raise InvalidArgument.of(f"{at}.label_project", f"must lie in projects/{project}")
    return manifests.check_origin(origin, at)


def _require_known(tx: Tx, name: DatasetName, origin: Origin) -> None:
    """Refuse a dataset that is not there, and labels of a version that is not among the inputs."""
    dataset_store.get_dataset(tx, name)
    if origin.label_project:
        labelled = str(label_store.get_project(tx, LabelProjectName.parse(origin.label_project)).version)
        if labelled not in origin.inputs:
            raise InvalidArgument.of(
                "dataset_version.origin.inputs", f"must hold {labelled}, which was labelled"
            )

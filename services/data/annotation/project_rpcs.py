"""Methods of label projects."""

import asyncio

from google.protobuf.empty_pb2 import Empty

from aios.data.v1 import annotation_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels.agreement import Level
from aios.names import DatasetVersionName, LabelProjectName, check_id
from aios.records import Tx
from aios.runtime.context import principal, require_project
from services.data import dataset_store, datasets
from services.data.annotation import mapping, report, store
from services.data.annotation.projects import LabelProject
from services.data.annotation.tasks import State
from services.data.annotation.work import Told
from services.data.rpcs import Context, Rpcs, project_of

NOUN = "label_project"


class LabelProjectRpcs(Rpcs):
    """What people are asked, and how it goes."""

    async def CreateLabelProject(
        self, request: pb.CreateLabelProjectRequest, context: Context
    ) -> annotation_pb2.LabelProject:
        name = LabelProjectName(
            project_of(request.parent), check_id(request.label_project_id, "label_project_id")
        )
        asked, at = request.label_project, "label_project"
        datasets.check_text(asked.instructions, f"{at}.instructions")
        version = DatasetVersionName.parse(asked.dataset_version, f"{at}.dataset_version")
        require_project(version.project, "dataset version")
        if version.project != name.project:
            raise InvalidArgument.of(f"{at}.dataset_version", f"must lie in projects/{name.project}")

        def create(tx: Tx) -> annotation_pb2.LabelProject:
            pinned = dataset_store.get_version(tx, version).name
            made = mapping.project_from_proto(asked, name, pinned, principal().subject, tx.now(), at)
            store.add_project(tx, made)
            return announce(tx, name, "created")

        return await self._db.once(request, create, annotation_pb2.LabelProject)

    async def GetLabelProject(
        self, request: pb.GetLabelProjectRequest, context: Context
    ) -> annotation_pb2.LabelProject:
        name = LabelProjectName.parse(request.name)
        return mapping.project_to_proto(await self._db.read(lambda tx: store.get_project(tx, name)))

    async def ListLabelProjects(
        self, request: pb.ListLabelProjectsRequest, context: Context
    ) -> pb.ListLabelProjectsResponse:
        project = project_of(request.parent)
        found, token = await self._db.read(lambda tx: store.projects_page(tx, request, project))
        return pb.ListLabelProjectsResponse(
            label_projects=map(mapping.project_to_proto, found), next_page_token=token
        )

    async def DeleteLabelProject(self, request: pb.DeleteLabelProjectRequest, context: Context) -> Empty:
        name = LabelProjectName.parse(request.name)

        def remove(tx: Tx) -> None:
            store.get_project(tx, name)
            store.delete_project(tx, name)
            tx.emit(NOUN, name.project, name.label_project, "deleted", {"name": str(name)})

        await self._db.write(remove)
        return Empty()

    async def GetLabelReport(self, request: pb.GetLabelReportRequest, context: Context) -> pb.LabelReport:
        name = LabelProjectName.parse(request.name)
        level = _level(request)

        def read(tx: Tx) -> tuple[LabelProject, list[Told]]:
            return store.get_project(tx, name), store.all_told(tx, name, list(State))

        project, told = await self._db.read(read)
        return await asyncio.to_thread(report.of, project, told, level)


def _level(request: pb.GetLabelReportRequest) -> Level:
    if not request.level:
        return Level.NOMINAL
    known = pb.GetLabelReportRequest.Level.DESCRIPTOR.values_by_number.get(request.level)
    if known is None:
        raise InvalidArgument.of("level", "must be nominal, ordinal, interval or ratio")
    return Level(known.name.removeprefix("LEVEL_").lower())


def announce(tx: Tx, name: LabelProjectName, change: str) -> annotation_pb2.LabelProject:
    """Emit a label project as it is now, and return it."""
    proto = mapping.project_to_proto(store.get_project(tx, name))
    tx.emit(NOUN, name.project, name.label_project, change, proto)
    return proto

"""Methods of the lineage graph."""

from collections.abc import Iterable

from google.protobuf.empty_pb2 import Empty

from aios.data.v1 import data_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.names import DatasetVersionName, ModelVersionName
from aios.records import Tx
from services.data import dataset_store, lineage, lineage_store, mapping, model_store
from services.data.ledger import Draft
from services.data.lineage import Direction, Edge
from services.data.logs import Change, Log
from services.data.rpcs import Context, Rpcs, project_of


class LineageRpcs(Rpcs):
    """What was made from what."""

    async def RecordLineage(self, request: pb.RecordLineageRequest, context: Context) -> Empty:
        project = project_of(request.parent)
        if not 0 < len(request.edges) <= lineage.RECORD_MAX:
            raise InvalidArgument.of("edges", f"must be 1 to {lineage.RECORD_MAX} edges")
        edges = [
            lineage.check_edge(edge.source, edge.target, edge.relation, project, f"edges[{index}]")
            for index, edge in enumerate(request.edges)
        ]

        def decide(tx: Tx) -> Draft | Empty:
            new = lineage_store.missing(tx, project, edges)
            body = [[edge.source, edge.target, edge.relation.value] for edge in new]
            return Draft(Change.RECORDED, {"edges": body}) if new else Empty()

        return await self._ledger.change(Log.lineage(project), decide, lambda tx: Empty(), Empty)

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.Lineage:
        project = project_of(request.parent)
        start = lineage.check_node(request.resource, project, "resource")
        direction = mapping.direction_from_proto(request.direction)

        def read(tx: Tx) -> lineage.Walk:
            def neighbours(names: Iterable[str], way: Direction) -> list[Edge]:
                return lineage_store.edges_at(tx, project, names, way)

            return lineage.walk(_settled(tx, start), direction, neighbours)

        return mapping.lineage_to_proto(await self._db.read(read))


def _settled(tx: Tx, name: str) -> str:
    """The lasting name of a version that is named as `latest` or by alias: lineage knows only those."""
    if DatasetVersionName.matches(name):
        return str(dataset_store.get_version(tx, DatasetVersionName.parse(name)).name)
    if ModelVersionName.matches(name):
        return str(model_store.get_version(tx, ModelVersionName.parse(name)).name)
    return name

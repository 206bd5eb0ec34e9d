"""The public face: convert, call, convert. Each noun has its methods in a file of its own."""

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from services.data import reindex
from services.data.checkpoint_rpcs import CheckpointRpcs
from services.data.dataset_rpcs import DatasetRpcs
from services.data.lineage_rpcs import LineageRpcs
from services.data.model_rpcs import ModelRpcs
from services.data.rpcs import Context
from services.data.upload_rpcs import UploadRpcs


class DataServicer(
    UploadRpcs,
    DatasetRpcs,
    ModelRpcs,
    CheckpointRpcs,
    LineageRpcs,
    data_service_pb2_grpc.DataServiceServicer,
):
    """The caller may touch the project: the interceptor has seen to it."""

    async def Reindex(self, request: pb.ReindexRequest, context: Context) -> pb.ReindexResponse:
        return await self._ledger.whole(reindex.rebuild(self._parts))

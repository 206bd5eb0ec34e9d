"""Methods of privacy: erasure, the account of who did what, encryption."""

from collections.abc import Iterable

from aios.data.v1 import data_service_pb2, privacy_service_pb2_grpc
from aios.data.v1 import privacy_service_pb2 as pb
from aios.errors import Aborted, InvalidArgument
from aios.names import DatasetName, DatasetVersionName, check_id
from aios.records import Tx
from services.data import audit, blob_store, dataset_store, datasets, lineage, lineage_store
from services.data.dataset_rpcs import require_unlabelled
from services.data.ledger import Draft
from services.data.lineage import Direction, Edge
from services.data.logs import Change, Log
from services.data.manifests import check_sha256
from services.data.rpcs import Context, Rpcs, project_of

BLOBS_MAX = 10_000
REPLACEMENTS_MAX = 1_000


class DatasetChanged(Aborted):
    """A branch or tag has moved since it was looked at. Look again, then erase."""

    reason = "DATASET_CHANGED"


class PrivacyServicer(Rpcs, privacy_service_pb2_grpc.PrivacyServiceServicer):
    """The caller may touch the project: the interceptor has seen to it."""

    async def EraseDatasetContent(
        self, request: pb.EraseDatasetContentRequest, context: Context
    ) -> pb.Erasure:
        name = DatasetName.parse(request.name)
        if not 0 < len(request.blobs) <= BLOBS_MAX:
            raise InvalidArgument.of("blobs", f"must be 1 to {BLOBS_MAX}")
        blobs = [check_sha256(each, f"blobs[{number}]") for number, each in enumerate(request.blobs)]
        if len(request.replacements) > REPLACEMENTS_MAX:
            raise InvalidArgument.of("replacements", f"must not be more than {REPLACEMENTS_MAX}")
        reason = datasets.check_text(request.reason, "reason")
        if request.row_count < 0:
            raise InvalidArgument.of("row_count", "must not be negative")
        told = pb.Erasure()

        def decide(tx: Tx) -> Draft | pb.Erasure:
            dataset = dataset_store.get_dataset(tx, name)
            gone, manifests = dataset_store.needing(tx, name, blobs)
            refs = {**dataset.branches, **dataset.tags}
            if request.branch and request.branch not in dataset.branches:
                raise DatasetChanged(f"{name} has no branch {request.branch!r}: look again.")
            left = {ref: each for ref, each in refs.items() if ref != request.branch}
            moved = {ref: request.replacements.get(each, "") for ref, each in left.items() if each in gone}
            self._check_moves(tx, name, moved, gone)
            if not gone:
                return told
            require_unlabelled(tx, [DatasetVersionName(name.project, name.dataset, each) for each in gone])
            told.CopyFrom(self._erasure(tx, name, gone, blobs, manifests))
            told.deletion.CopyFrom(self._deletion(blob_store.freed_by(tx, name.project, manifests)))
            body = {
                "versions": gone,
                "refs": moved,
                "branch": request.branch,
                "message": reason,
                "rows": request.row_count,
            }
            return told if request.validate_only else Draft(Change.ERASED, body)

        return await self._ledger.change(Log.of(name), decide, lambda tx: told, pb.Erasure)

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        project = project_of(request.parent)
        entries, token = await self._db.read(lambda tx: audit.entries_page(tx, request, project))
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=token)

    async def EncryptData(self, request: pb.EncryptDataRequest, context: Context) -> pb.DataEncryption:
        project = project_of(request.parent)
        await self._blobs.encrypt(project)
        return pb.DataEncryption(encrypted=True)

    def _check_moves(self, tx: Tx, name: DatasetName, moved: dict[str, str], gone: list[str]) -> None:
        for ref, version in moved.items():
            if not version or version in gone:
                raise DatasetChanged(
                    f"@{ref} of {name} names a version that would go, and nothing takes its place: look again.",
                    ref=ref,
                )
            check_id(version, "replacements")
            dataset_store.get_version(tx, DatasetVersionName(name.project, name.dataset, version))

    def _erasure(
        self, tx: Tx, name: DatasetName, gone: list[str], blobs: list[str], manifests: list[str]
    ) -> pb.Erasure:
        versions = [str(DatasetVersionName(name.project, name.dataset, each)) for each in gone]

        def neighbours(names: Iterable[str], way: Direction) -> list[Edge]:
            return lineage_store.edges_at(tx, name.project, names, way)

        derived: dict[str, None] = {}
        truncated = False
        for version in versions:
            walk = lineage.walk(version, Direction.DOWN, neighbours)
            derived |= dict.fromkeys(edge.target for edge in walk.edges if edge.target not in versions)
            truncated = truncated or walk.truncated or len(derived) >= lineage.EDGES_MAX
            if truncated:
                break
        return pb.Erasure(
            versions=versions,
            derived=list(derived)[: lineage.EDGES_MAX],
            holders=blob_store.holders(tx, name.project, blobs, manifests),
            truncated=truncated,
            deletion=data_service_pb2.Deletion(),
        )

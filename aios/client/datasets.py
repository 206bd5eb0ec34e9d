"""Datasets: versions of files, pushed and pulled."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aios import seal, sse
from aios.client import transfer
from aios.client.checkouts import MARK, Mark, edits, prune
from aios.client.connection import Connection, pages, request_id
from aios.client.pull import pull
from aios.client.push import push_files
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc, dataset_pb2, privacy_service_pb2_grpc
from aios.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from aios.names import DatasetName, DatasetVersionName

if TYPE_CHECKING:
    from aios.client.erasure import Erased
    from aios.trees.tree import Leaf, Tree

INDEX_FROM = 1_000
"""Files from which a version lists them in an index, not in the request."""
EDITS_NAMED_MAX = 10
COMMIT_SECONDS = 60.0
REINDEX_SECONDS = 600.0


class Datasets:
    """`client.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = data_service_pb2_grpc.DataServiceStub(connection.channel)
        self._store = transfer.Store(self._stub, connection.http, connection.project)

    async def push(
        self,
        name: str,
        source: str | Path | Mapping[str, str | Path],
        *,
        message: str = "",
        branch: str = "",
        origin: dataset_pb2.Origin | None = None,
        progress: transfer.Report | None = None,
    ) -> dataset_pb2.DatasetVersion:
        """Store a file, a directory, or files by their path in the version, as the next version on a branch.

        The dataset is made when it does not exist. Content that is already stored is not sent again, and content
        equal to the head makes no new version. A directory that `checkout` made is committed on top of the version
        that it was: what others changed since stays and comes into the directory; the same file changed by both is
        COMMIT_CONFLICT.
        """
        dataset = self._connection.name(DatasetName, name)
        given = (
            {path: Path(file) for path, file in source.items()}
            if isinstance(source, Mapping)
            else Path(source)
        )
        mark = Mark.read(given) if isinstance(given, Path) else None
        mine = mark if mark is not None and mark.dataset == str(dataset) else None
        base = mine.version if mine else ""
        branch = branch or (mine.branch if mine else "")
        files = await asyncio.to_thread(transfer.find, given)
        files.pop(MARK, None)
        if not files:
            raise InvalidArgument.of("source", "holds no file")
        before = await self._tree(dataset, base or (f"@{branch}" if branch else "latest"))
        leaves = await push_files(self._store, files, before, progress)
        if before is None:
            create = pb.CreateDatasetRequest(
                parent=dataset.parent, dataset_id=dataset.dataset, request_id=request_id()
            )
            with suppress(AlreadyExists):
                await self._stub.CreateDataset(create)
        version = dataset_pb2.DatasetVersion(message=message, origin=origin)
        await list_files(self._store, version, leaves)
        request = pb.CreateDatasetVersionRequest(
            parent=str(dataset),
            dataset_version=version,
            request_id=request_id(),
            branch=branch,
            base_version=base,
        )
        made = await self._stub.CreateDatasetVersion(request, timeout=COMMIT_SECONDS)
        if mine is not None:
            # Others' changes, which it is on top of, come into the folder too: it holds what was made.
            await self._hold(made.name, branch, Path(str(given)), progress)
        return made

    async def downloads(self, name: str, paths: Sequence[str] = ()) -> AsyncIterator[pb.Download]:
        """Where to get the files of a version, all or some, for a quarter of an hour."""
        request = pb.ListDownloadsRequest(parent=str(self.version_name(name)), paths=paths)
        async for each in pages(self._stub.ListDownloads, request, "downloads"):
            yield each

    async def pull(
        self,
        name: str,
        destination: str | Path,
        *,
        paths: Sequence[str] = (),
        progress: transfer.Report | None = None,
    ) -> list[Path]:
        """Fetch a version's files into a directory, all or some; the newest version where none is named."""
        version = await self.version(name)
        return await pull(self._store, version.name, Path(destination), progress, paths)

    async def tree(self, name: str) -> "Tree":
        """The files of a version, also where they are many."""
        version = (await self.version(name)).name
        found = await self._tree(
            DatasetName.parse(DatasetVersionName.parse(version).parent), version.rpartition("/")[2]
        )
        assert found is not None, "a version that was found has files"
        return found

    async def checkout(
        self,
        name: str,
        destination: str | Path,
        *,
        force: bool = False,
        progress: transfer.Report | None = None,
    ) -> dataset_pb2.DatasetVersion:
        """Make a directory hold exactly one version, and remember which: `push` from it goes on from there.

        Args:
            force: Give up what was changed in it and not pushed.

        Raises:
            FailedPrecondition: the directory holds files and is no checkout, or what would be lost was changed in it.
        """
        version, folder = await self.version(name), Path(destination)
        mark = Mark.read(folder)
        if folder.exists() and any(folder.iterdir()):
            if mark is None:
                raise FailedPrecondition(
                    f"{str(folder)!r} holds files and is no checkout: name an empty directory.",
                    reason="NO_CHECKOUT",
                )
            if not force:
                await self._require_unchanged(folder, mark, version.name)
        ref = self.version_name(name).version.removeprefix("@")
        dataset = await self.get(str(self.version_name(version.name).parent))
        await self._hold(version.name, ref if ref in dataset.branches else "", folder, progress)
        return version

    async def diff(self, name: str, base: str = "", limit: int | None = None) -> AsyncIterator[pb.FileChange]:
        """What differs between a version and another one, its parent where none is named, by path."""
        request = pb.DiffDatasetVersionsRequest(name=str(self.version_name(name)))
        request.base = str(self.version_name(base)) if base else ""
        async for each in pages(self._stub.DiffDatasetVersions, request, "changes", limit):
            yield each

    async def log(self, name: str, limit: int | None = None) -> AsyncIterator[pb.LogEntry]:
        """Everything that happened to a dataset, newest first."""
        request = pb.ListDatasetLogRequest(parent=str(self._connection.name(DatasetName, name)))
        async for each in pages(self._stub.ListDatasetLog, request, "entries", limit):
            yield each

    async def set_ref(self, name: str, ref: str, *, tag: bool) -> dataset_pb2.Dataset:
        """Make a branch or a tag at a version, the newest one where none is named."""
        version = self.version_name(name)
        request = pb.SetDatasetRefRequest(
            dataset=version.parent, ref=ref.removeprefix("@"), version=version.version, tag=tag
        )
        return await self._stub.SetDatasetRef(request)

    async def delete_ref(self, name: str, ref: str) -> dataset_pb2.Dataset:
        """Remove a branch or a tag; its versions stay."""
        dataset = str(self._connection.name(DatasetName, name))
        return await self._stub.DeleteDatasetRef(
            pb.DeleteDatasetRefRequest(dataset=dataset, ref=ref.removeprefix("@"))
        )

    async def erase(
        self,
        name: str,
        values: Mapping[str, Collection[str]],
        paths: Sequence[str] = (),
        *,
        reason: str = "",
        dry_run: bool = False,
        progress: transfer.Report | None = None,
    ) -> "Erased":
        """Make rows by their values in columns, and files by patterns, be forgotten: see `aios.client.erasure`."""
        from aios.client.erasure import erase

        privacy = privacy_service_pb2_grpc.PrivacyServiceStub(self._connection.channel)
        return await erase(
            self,
            self._store,
            name,
            values,
            paths,
            privacy=privacy,
            reason=reason,
            dry_run=dry_run,
            report=progress,
        )

    async def delete(self, name: str, *, dry_run: bool = False) -> pb.Deletion:
        """Remove a dataset, or one version `digits/{version}`. What is not shared is deleted after a grace."""
        try:
            version = self._connection.name(DatasetVersionName, name)
        except InvalidArgument:
            dataset = str(self._connection.name(DatasetName, name))
            request = pb.DeleteDatasetRequest(name=dataset, validate_only=dry_run)
            return await self._stub.DeleteDataset(request)
        one = pb.DeleteDatasetVersionRequest(name=str(version), validate_only=dry_run)
        return await self._stub.DeleteDatasetVersion(one)

    async def reindex(self) -> pb.ReindexResponse:
        """Have the data service make its SQL index again from the object store. Operators only."""
        return await self._stub.Reindex(pb.ReindexRequest(), timeout=REINDEX_SECONDS)

    async def get(self, name: str) -> dataset_pb2.Dataset:
        """One dataset."""
        return await self._stub.GetDataset(
            pb.GetDatasetRequest(name=str(self._connection.name(DatasetName, name)))
        )

    async def version(self, name: str) -> dataset_pb2.DatasetVersion:
        """One version with its files: `digits/{version}`, or `digits` for the newest."""
        return await self._stub.GetDatasetVersion(
            pb.GetDatasetVersionRequest(name=str(self.version_name(name)))
        )

    async def list(self, limit: int | None = None) -> AsyncIterator[dataset_pb2.Dataset]:
        """The project's datasets, by name."""
        request = pb.ListDatasetsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListDatasets, request, "datasets", limit):
            yield each

    async def versions(
        self, name: str, limit: int | None = None
    ) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """A dataset's versions, newest first, without their files."""
        parent = str(self._connection.name(DatasetName, name))
        request = pb.ListDatasetVersionsRequest(parent=parent)
        async for each in pages(self._stub.ListDatasetVersions, request, "dataset_versions", limit):
            yield each

    def version_name(self, name: str) -> DatasetVersionName:
        """The full name of a version; `latest` where only the dataset is named."""
        try:
            return self._connection.name(DatasetVersionName, name)
        except InvalidArgument:
            dataset = self._connection.name(DatasetName, name)
            return DatasetVersionName(dataset.project, dataset.dataset, "latest")

    async def _tree(self, dataset: DatasetName, version: str) -> "Tree | None":
        """The files of a version, if there is one."""
        name = DatasetVersionName(dataset.project, dataset.dataset, version)
        try:
            found = await self._stub.GetDatasetVersion(pb.GetDatasetVersionRequest(name=str(name)))
        except NotFound:
            if version.startswith("@"):
                return await self._tree(dataset, "latest")  # a branch that is to be made
            return None
        from aios.trees.tree import Leaf, Tree

        if not found.index_sha256:
            return Tree.of(Leaf(file.path, file.sha256, file.size_bytes) for file in found.files)
        request = pb.ListDownloadsRequest(parent=found.name, page_size=1)
        listed = await self._stub.ListDownloads(request)
        key = listed.index_encryption_key
        answer = await self._store.http.get(listed.index_url, headers=sse.headers(key))
        answer.raise_for_status()
        index = seal.cipher(key)(answer.content)
        if hashlib.sha256(index).hexdigest() != found.index_sha256:
            raise DataLoss(f"The index of {found.name} is not the one registered.")
        return await asyncio.to_thread(Tree.decode, index)

    async def _require_unchanged(self, folder: Path, mark: Mark, version: str) -> None:
        from aios.trees.tree import Tree

        try:
            before = await self.tree(f"{mark.dataset}/versions/{mark.version}")
        except NotFound:  # deleted since: what is left of it cannot be told from edits
            before = Tree.of(())
        changed = await asyncio.to_thread(edits, folder, before, await self.tree(version))
        if changed:
            more = f", and {len(changed) - EDITS_NAMED_MAX} more" if len(changed) > EDITS_NAMED_MAX else ""
            raise FailedPrecondition(
                f"{str(folder)!r} was changed since {mark.version} was checked out: "
                f"{', '.join(changed[:EDITS_NAMED_MAX])}{more}. Push it, or give it up with --force.",
                reason="CHECKOUT_CHANGED",
            )

    async def _hold(self, version: str, branch: str, folder: Path, progress: transfer.Report | None) -> None:
        """Make a directory hold exactly one version, and mark it."""
        files = await pull(self._store, version, folder, progress)
        await asyncio.to_thread(prune, folder, set(files))
        name = DatasetVersionName.parse(version)
        Mark(name.parent, name.version, branch).write(folder)


async def list_files(
    store: transfer.Store, version: dataset_pb2.DatasetVersion, leaves: Sequence["Leaf"]
) -> None:
    """State the files of a version that is to be made: a few by name, many or those in parts by an index."""
    from aios.trees.tree import Tree

    if len(leaves) < INDEX_FROM and not any(leaf.parts or leaf.rows is not None for leaf in leaves):
        version.files.extend(
            file_pb2.File(path=leaf.path, sha256=leaf.sha256, size_bytes=leaf.size_bytes) for leaf in leaves
        )
        return
    encoded = await asyncio.to_thread(lambda: Tree.of(leaves).encode())
    with tempfile.TemporaryDirectory(prefix="aios-push-") as scratch:
        file = Path(scratch, "index.parquet")
        file.write_bytes(encoded)
        sha256 = hashlib.sha256(encoded).hexdigest()
        await transfer.put_blob(store, sha256, file, lambda moved: None)
    version.index_sha256 = sha256

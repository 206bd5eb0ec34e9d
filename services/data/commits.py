"""Commits to a dataset: what is on top of what, and what becomes of two that are made at once."""

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from aios.data.v1 import dataset_pb2
from aios.errors import Unavailable
from aios.names import DatasetName, DatasetVersionName
from aios.records import Database, Tx
from services.data import dataset_store, mapping
from services.data.contents import Contents
from services.data.datasets import CommitConflict, DatasetVersion, RefTaken
from services.data.ledger import TRIES, Draft, Ledger, Overtaken
from services.data.logs import Change, Log
from services.data.manifests import File, Index, Manifest
from services.data.store import Content

if TYPE_CHECKING:
    from aios.trees.tree import Leaf, Tree

CONFLICTS_NAMED_MAX = 20


class Commits:
    """Makes manifests the heads of branches."""

    def __init__(self, db: Database, ledger: Ledger, contents: Contents) -> None:
        self._db = db
        self._ledger = ledger
        self._contents = contents

    async def commit(
        self,
        name: DatasetName,
        manifest: Manifest,
        branch: str,
        message: str,
        base: str,
        request: Message,
    ) -> dataset_pb2.DatasetVersion:
        """Make content the head of a branch.

        Args:
            manifest: Without parents: they are what the branch holds when the commit gets in.
            base: Id of the version that the content was changed from; empty to replace whatever is there.

        Raises:
            DatasetNotFound, DatasetVersionNotFound, BlobsMissing
            RefTaken: the branch is a tag.
            CommitConflict: the head has other changes to the same files.
        """
        return await self._ledger.whole(self._commit(name, manifest, branch, message, base, request))

    async def _commit(
        self, name: DatasetName, manifest: Manifest, branch: str, message: str, base: str, request: Message
    ) -> dataset_pb2.DatasetVersion:
        log = Log.of(name)
        await self._db.read(lambda tx: dataset_store.get_dataset(tx, name))
        async with self._ledger.hold(log):
            for _ in range(TRIES):
                head = await self._db.read(lambda tx: _head(tx, name, branch))
                wanted = await self._rebased(name, manifest, base, head) if base else manifest
                content = await self._content(name, wanted, head)
                try:
                    return await self._append(log, name, content, branch, message, head, request)
                except Overtaken:
                    continue
        raise Unavailable(f"{name} changes all the time: try again.", retry_after=timedelta(seconds=1))

    async def _append(
        self,
        log: Log,
        name: DatasetName,
        content: Content,
        branch: str,
        message: str,
        head: DatasetVersion | None,
        request: Message,
    ) -> dataset_pb2.DatasetVersion:
        manifest = content.manifest

        def answer(tx: Tx) -> dataset_pb2.DatasetVersion:
            made = DatasetVersionName(name.project, name.dataset, manifest.version_id)
            return mapping.dataset_version_to_proto(dataset_store.get_version(tx, made))

        def decide(tx: Tx) -> Draft | dataset_pb2.DatasetVersion:
            if _head(tx, name, branch) != head:
                raise Overtaken
            if head is not None and head.manifest_sha256 == manifest.sha256:
                return answer(tx)
            origin = manifest.origin
            # Lineage outlives the version: the entry says it too.
            came: dict[str, Any] = {
                "run": origin.run,
                "inputs": list(origin.inputs),
                "label_project": origin.label_project,
            }
            body = {"branch": branch, "manifest": manifest.sha256, "message": message}
            body |= {key: value for key, value in came.items() if value}
            return Draft(Change.COMMITTED, body, content)

        return await self._ledger.append(log, decide, answer, dataset_pb2.DatasetVersion, request)

    async def _content(self, name: DatasetName, wanted: Manifest, head: DatasetVersion | None) -> Content:
        """The manifest to commit: one that the dataset has had where content and origin are the same."""
        known = await self._db.read(lambda tx: dataset_store.find_meaning(tx, name, wanted.meaning))
        if known is not None:
            manifest = await self._contents.manifest(name.project, known.manifest_sha256)
            return Content(manifest, frozenset())
        parents = [head.manifest_sha256] if head else []
        return await self._contents.publish(name.project, wanted.following(parents))

    async def _rebased(
        self, name: DatasetName, manifest: Manifest, base: str, head: DatasetVersion | None
    ) -> Manifest:
        """What changed between a base and a manifest, on top of the head."""
        base_name = DatasetVersionName(name.project, name.dataset, base)
        origin = await self._db.read(lambda tx: dataset_store.get_version(tx, base_name))
        if head is None or head.name == origin.name:
            return manifest
        before, theirs = [
            await self._contents.tree(name.project, await self._contents.manifest(name.project, digest))
            for digest in (origin.manifest_sha256, head.manifest_sha256)
        ]
        mine = await self._contents.tree(name.project, manifest)
        merged = _merged(before, mine, theirs, str(head.name))
        if manifest.index is None and all(not leaf.parts for leaf in merged.leaves()):
            files = [File(leaf.path, leaf.sha256, leaf.size_bytes) for leaf in merged.leaves()]
            return Manifest.of(manifest.kind, files, "dataset_version.files", manifest.origin)
        sha256 = await self._contents.store_index(name.project, merged)
        index = Index(sha256, len(merged), merged.size_bytes, merged.content)
        return replace(manifest, files=(), index=index)


def _merged(base: "Tree", mine: "Tree", theirs: "Tree", head: str) -> "Tree":
    from aios.trees.check import path_problems

    ours, others = mine.changes(base), {change.path: change for change in theirs.changes(base)}
    both = [each for each in ours if each.path in others and others[each.path].after != each.after]
    leaves: dict[str, Leaf] = {leaf.path: leaf for leaf in mine.find([each.path for each in ours]).leaves()}
    merged = theirs.replaced({each.path: leaves.get(each.path) for each in ours})
    paths = [each.path for each in both] or list(path_problems(merged))
    if paths:
        named = ", ".join(map(repr, paths[:CONFLICTS_NAMED_MAX]))
        raise CommitConflict(
            f"{head} has other changes to {named}: look at them, then commit on top of it.",
            files=named,
            head=head,
        )
    return merged


def _head(tx: Tx, name: DatasetName, branch: str) -> DatasetVersion | None:
    dataset = dataset_store.get_dataset(tx, name)
    if branch in dataset.tags:
        raise RefTaken(f"{branch!r} is a tag of {name}: commit to a branch.", ref=branch)
    version = dataset.branches.get(branch)
    if version is None:
        return None
    return dataset_store.get_version(tx, DatasetVersionName(name.project, name.dataset, version))

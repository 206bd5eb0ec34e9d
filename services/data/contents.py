"""Manifests and indexes in the bucket: checked before they are stored, and read back with what was read lately kept."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from aios.blobs import BlobMissing, Blobs
from aios.errors import DataLoss, InvalidArgument
from aios.records import Database, Tx
from services.data import blob_store, layout
from services.data.manifests import Index, Kind, Manifest, Origin, check_sha256, path_problem
from services.data.store import Content
from services.data.uploads import BlobsMissing

if TYPE_CHECKING:
    # Arrow takes 0.4 s and 60 MB to load: a service that only has small versions does without it.
    import pyarrow as pa

    from aios.trees.tree import Change, Tree

MANIFESTS_KEPT_BYTES = 8 * 1024**2
TREES_KEPT_BYTES = (
    64 * 1024**2
)  # the two that are compared: 600,000 files are 100 MB, kept while they are in use
CHANGES_KEPT_BYTES = 32 * 1024**2
CHANGE_BYTES = 500  # of one in memory
INDEX_BYTES_MAX = 512 * 1024**2
PROBLEMS_MAX = 20
_PLAIN_PATH = r"^([A-Za-z0-9_=+,@-][A-Za-z0-9_=+,@. -]{0,254}/)*[A-Za-z0-9_=+,@-][A-Za-z0-9_=+,@. -]{0,254}$"
"""Paths that need no closer look: nearly all that there are."""

K = TypeVar("K")
T = TypeVar("T")


class Kept(Generic[K]):
    """What was read lately, up to a number of bytes. What lies under a digest never changes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: OrderedDict[str, tuple[K, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> K | None:
        """What is kept, now the last to go."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: str, item: K, size: int) -> None:
        """Keep an item, and drop the oldest beyond the limit. The newest stays however large it is."""
        self._bytes += size - self._items.pop(key, (item, 0))[1]
        self._items[key] = (item, size)
        while self._bytes > self._bytes_max and len(self._items) > 1:
            self._bytes -= self._items.popitem(last=False)[1][1]


class Contents:
    """What versions hold, as the bucket says it."""

    def __init__(self, db: Database, blobs: Blobs) -> None:
        self._db = db
        self._blobs = blobs
        self._manifests = Kept[Manifest](MANIFESTS_KEPT_BYTES)
        self._trees = Kept["Tree"](TREES_KEPT_BYTES)
        self._changes = Kept["Sequence[Change]"](CHANGES_KEPT_BYTES)

    async def publish(self, project: str, manifest: Manifest) -> Content:
        """Put a manifest into the bucket, ahead of the entry that makes it visible.

        Raises:
            BlobsMissing: naming the files whose content is not there.
        """
        pins = await self._require(project, manifest)
        await self._blobs.put_if_absent(layout.manifest(project, manifest.sha256), manifest.encoded)
        return Content(manifest, pins)

    async def indexed(
        self, project: str, kind: Kind, index_sha256: str, origin: Origin, field: str
    ) -> Manifest:
        """The manifest of files that a caller listed in an index.

        Raises:
            InvalidArgument: the index is none, or names what cannot be in a version.
            BlobsMissing: it, or content that it names, is not uploaded.
        """
        check_sha256(index_sha256, field)
        if await self._db.read(lambda tx: blob_store.blob_size(tx, project, index_sha256)) is None:
            raise BlobsMissing.of([f"{field} {index_sha256}"])
        tree = await self._tree(project, index_sha256, field)

        def made() -> Manifest:
            if problems := _problems(tree):
                named = {f"{field}[{path!r}]": problem for path, problem in problems.items()}
                first = next(iter(named.items()))
                raise InvalidArgument(f"{first[0]}: {first[1]}", fields=named)
            index = Index(index_sha256, len(tree), tree.size_bytes, tree.content)
            return Manifest(kind, index=index, origin=origin)

        return await asyncio.to_thread(made)

    async def manifest(self, project: str, sha256: str) -> Manifest:
        """A manifest.

        Raises:
            BlobMissing, DataLoss
        """
        key = f"{project}/{sha256}"
        kept = self._manifests.get(key)
        if kept is None:
            stored = await self._blobs.get(layout.manifest(project, sha256))
            kept = Manifest.decode(stored, sha256)
            self._manifests.put(key, kept, len(stored))
        return kept

    async def tree(self, project: str, manifest: Manifest) -> "Tree":
        """The files of a version as a table.

        Raises:
            BlobMissing, DataLoss
        """
        from aios.trees.tree import Leaf, Tree

        if manifest.index is not None:
            return await self._tree(project, manifest.index.sha256)
        return Tree.of(Leaf(file.path, file.sha256, file.size_bytes) for file in manifest.files)

    async def changes(self, project: str, after: str, before: str) -> "Sequence[Change]":
        """What differs between two versions, by the digests of their manifests. Kept for the pages that follow.

        Raises:
            BlobMissing, DataLoss
        """
        key = f"{project}/{after}/{before}"
        kept = self._changes.get(key)
        if kept is None:
            from aios.trees import tree

            mine, theirs = await asyncio.gather(
                *(self._states(project, digest) for digest in (after, before))
            )
            kept = await asyncio.to_thread(tree.changes, mine, theirs)
            self._changes.put(key, kept, CHANGE_BYTES * len(kept))
        return kept

    async def _states(self, project: str, sha256: str) -> "pa.Table":
        """What two versions are compared by; an index is not kept for that."""
        from aios.trees.tree import read_states

        manifest = await self.manifest(project, sha256)
        index = manifest.index
        if index is None or self._trees.get(f"{project}/{index.sha256}"):
            return (await self.tree(project, manifest)).states()
        return await self._index(project, index.sha256, read_states)

    async def load(self, project: str, sha256: str) -> Content:
        """A manifest with what it needs.

        Raises:
            BlobMissing, DataLoss
        """
        manifest = await self.manifest(project, sha256)
        if manifest.index is None:
            return Content(manifest, frozenset(file.sha256 for file in manifest.files))
        tree = await self._tree(project, manifest.index.sha256)
        return Content(manifest, frozenset(tree.blobs() | {manifest.index.sha256}))

    async def store_index(self, project: str, tree: "Tree") -> str:
        """Keep a table of files that was made here as a blob. Returns its digest."""
        return await self.store(project, await asyncio.to_thread(tree.encode))

    async def store(self, project: str, content: bytes) -> str:
        """Keep what was made here as a blob. Returns its digest."""
        sha256 = hashlib.sha256(content).hexdigest()
        await self._blobs.put_if_absent(layout.blob(project, sha256), content)
        await self._restore(project, {sha256: len(content)})
        return sha256

    async def adopt(self, project: str, content: Content) -> None:
        """Rows for blobs that a writer elsewhere has checked, and its entry vouches for.

        Raises:
            BlobMissing: one is not in the bucket.
        """
        known = await self._db.read(lambda tx: blob_store.blob_sizes(tx, project, content.pins))
        sizes = {}
        for sha256 in content.pins - set(known):
            entry = await self._blobs.stat(layout.blob(project, sha256))
            if entry is None:
                raise BlobMissing(f"Nothing is stored under {sha256}.", key=sha256)
            sizes[sha256] = entry.size_bytes
        await self._restore(project, sizes)

    async def _restore(self, project: str, sizes: Mapping[str, int]) -> None:
        def write(tx: Tx) -> None:
            known = blob_store.blob_sizes(tx, project, sizes)
            new = {sha256: size for sha256, size in sizes.items() if sha256 not in known}
            blob_store.restore_blobs(tx, project, new, tx.now())

        if sizes:
            await self._db.write(write)

    async def _tree(self, project: str, sha256: str, field: str = "") -> "Tree":
        from aios.trees.tree import Tree

        key = f"{project}/{sha256}"
        kept = self._trees.get(key)
        if kept is None:
            kept = await self._index(project, sha256, Tree.decode, field)
            self._trees.put(key, kept, kept.table.nbytes)
        return kept

    async def _index(self, project: str, sha256: str, read: Callable[[bytes], T], field: str = "") -> T:
        """Read an index of the bucket. A caller who named it in `field` hears that it is none."""
        from aios.trees.tree import TreeInvalid

        stored = await self._blobs.get(layout.blob(project, sha256), INDEX_BYTES_MAX)

        def checked() -> T:
            if hashlib.sha256(stored).hexdigest() != sha256:
                raise DataLoss(f"Index {sha256} is damaged.", sha256=sha256)
            return read(stored)

        try:
            return await asyncio.to_thread(checked)
        except TreeInvalid as error:
            if field:
                raise InvalidArgument.of(field, f"must be a table of files, but {error}") from None
            raise DataLoss(f"Index {sha256} is damaged: {error}.", sha256=sha256) from None

    async def _require(self, project: str, manifest: Manifest) -> frozenset[str]:
        """Refuse a manifest that names content which the project does not have, and say what it needs."""
        if manifest.index is None:
            wanted = {file.sha256 for file in manifest.files}
            sizes = await self._db.read(lambda tx: blob_store.blob_sizes(tx, project, wanted))
            missing = [file.path for file in manifest.files if sizes.get(file.sha256) != file.size_bytes]
            if missing:
                raise BlobsMissing.of(missing)
            return frozenset(wanted)
        tree = await self._tree(project, manifest.index.sha256)
        wanted = await asyncio.to_thread(tree.blobs) | {manifest.index.sha256}
        sizes = await self._db.read(lambda tx: blob_store.blob_sizes(tx, project, wanted))
        missing = await asyncio.to_thread(_without_blobs, tree, sizes)
        if missing or manifest.index.sha256 not in sizes:
            raise BlobsMissing.of(missing or ["the index"])
        return frozenset(wanted)


def _problems(tree: "Tree") -> Mapping[str, str]:
    from pyarrow import compute

    from aios.trees.check import path_problems

    if not len(tree):
        return {"": "needs at least one file"}
    paths = tree.table["path"]
    odd = compute.invert(
        compute.and_(
            compute.match_substring_regex(paths, _PLAIN_PATH),
            compute.less_equal(compute.binary_length(paths), 512),
        )
    )
    found: dict[str, str] = {}
    for path in paths.filter(odd).to_pylist():
        if problem := path_problem(path):
            found[path] = problem
            if len(found) == PROBLEMS_MAX:
                return found
    return found or path_problems(tree)


def _without_blobs(tree: "Tree", sizes: Mapping[str, int]) -> list[str]:
    """Paths of files whose blobs are not there, or not of the size that they need."""
    from pyarrow import compute

    whole = tree.whole()
    bad = {
        digest
        for digest, size in zip(whole["sha256"].to_pylist(), whole["size_bytes"].to_pylist(), strict=True)
        if sizes.get(digest.hex()) != size
    }
    parts = tree.parts()
    if parts.num_rows:
        parts = parts.append_column("end", compute.add(parts["offset"], parts["size"]))
        ends = parts.group_by("blob").aggregate([("end", "max")])
        bad |= {
            digest
            for digest, end in zip(ends["blob"].to_pylist(), ends["end_max"].to_pylist(), strict=True)
            if sizes.get(digest.hex(), -1) < end
        }
    if not bad:
        return []
    return [
        leaf.path
        for leaf in tree.leaves()
        if {bytes.fromhex(part.blob) for part in leaf.parts} & bad
        or (not leaf.parts and bytes.fromhex(leaf.sha256) in bad)
    ]

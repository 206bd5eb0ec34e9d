"""Erasure: every version of a dataset without some rows, and what held them gone. The rows are looked for here, where the
bytes may be read; what is removed is one entry of the dataset's log.
"""

import asyncio
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from aios.client.connection import request_id
from aios.client.datasets import COMMIT_SECONDS, Datasets, list_files
from aios.client.pull import pull
from aios.client.push import push_files
from aios.client.transfer import Report, Store
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import dataset_pb2
from aios.data.v1 import privacy_service_pb2 as privacy_pb
from aios.data.v1.privacy_service_pb2_grpc import PrivacyServiceStub
from aios.errors import FailedPrecondition, InvalidArgument
from aios.names import DatasetVersionName

if TYPE_CHECKING:
    from aios.formats.erasing import Wanted
    from aios.trees.tree import Leaf, Tree

BRANCH = "erasing"
PATHS_AT_ONCE = 1_000
ERASE_SECONDS = 60.0


@dataclass
class Found:
    """What is to go, of all versions of a dataset."""

    rows: int = 0
    """Of distinct files: a file that many versions have counts once."""
    files: dict[str, Path | None] = field(default_factory=dict)
    """Digest of a file to the one that takes its place; None where the whole file goes."""
    blobs: set[str] = field(default_factory=set)
    """What holds those files, with whatever lies beside them in a pack."""
    unsearched: set[str] = field(default_factory=set)
    """Paths of files without rows that are known."""


@dataclass(frozen=True)
class Erased:
    """What an erasure came to."""

    rows: int
    unsearched: Sequence[str]
    replacements: Mapping[str, str]
    """Full name of a version that a branch or tag named, to the one in its place."""
    erasure: privacy_pb.Erasure


async def erase(
    datasets: Datasets,
    store: Store,
    name: str,
    values: Mapping[str, Collection[str]],
    paths: Sequence[str] = (),
    *,
    privacy: PrivacyServiceStub,
    reason: str = "",
    dry_run: bool = False,
    report: Report | None = None,
) -> Erased:
    """Make every row with any of some values in a column, and every file with a name like some, be forgotten.

    Versions that branches and tags name are made again without them; every version that needs what held them is
    removed. The bytes are collected when the time of grace ends.

    Args:
        values: Column to values, as text.
        paths: Patterns such as `faces/*.png` of whole files.

    Raises:
        FailedPrecondition: nothing would be left of a version that a branch or tag names.
    """
    from aios.formats.erasing import Wanted

    if not any(values.values()) and not paths:
        raise InvalidArgument.of("where", "must say which rows or files go")
    dataset = await datasets.get(name)
    trees = {
        version.name: await datasets.tree(version.name) async for version in datasets.versions(dataset.name)
    }
    with tempfile.TemporaryDirectory(prefix="aios-erase-") as scratch:
        found = await _search(store, trees, Wanted(values), paths, Path(scratch))
        named = {
            f"{dataset.name}/versions/{version}"
            for ref, version in {**dataset.branches, **dataset.tags}.items()
            if ref != BRANCH
        }
        replacements: dict[str, str] = {}
        for version in sorted(named):
            if trees[version].blobs() & found.blobs and not dry_run:
                before = await datasets.version(version)
                replacements[version] = await _replaced(
                    store, before, trees[version], found, Path(scratch), report
                )
        request = privacy_pb.EraseDatasetContentRequest(
            name=dataset.name,
            blobs=sorted(found.blobs),
            reason=reason,
            row_count=found.rows,
            branch=BRANCH if replacements or BRANCH in dataset.branches else "",
            replacements={_id(old): _id(new) for old, new in replacements.items()},
        )
        erasure = privacy_pb.Erasure()
        if found.blobs and not dry_run:
            erasure = await privacy.EraseDatasetContent(request, timeout=ERASE_SECONDS)
        elif found.blobs:
            erasure.versions.extend(each for each, tree in trees.items() if tree.blobs() & found.blobs)
    return Erased(found.rows, sorted(found.unsearched), replacements, erasure)


async def _search(
    store: Store, trees: Mapping[str, "Tree"], wanted: "Wanted", paths: Sequence[str], scratch: Path
) -> Found:
    """Look through each distinct file of all versions once."""
    from aios.formats.erasing import is_searched, without

    found, seen = Found(), set[str]()
    for version, tree in trees.items():
        new: dict[str, Leaf] = {}
        for leaf in tree.leaves():
            if leaf.sha256 in seen:
                continue
            if any(fnmatchcase(leaf.path, pattern) for pattern in paths):
                found.files[leaf.sha256] = None
            elif wanted.values and is_searched(leaf.path):
                new[leaf.path] = leaf
            elif wanted.values:
                found.unsearched.add(leaf.path)
            seen.add(leaf.sha256)
        for path, leaf in new.items():
            folder = Path(tempfile.mkdtemp(dir=scratch))
            [file] = await pull(store, version, folder, paths=[path])
            target = scratch / leaf.sha256
            rows = await asyncio.to_thread(without, file, target, wanted, path)
            file.unlink()
            if rows:
                found.rows += rows
                found.files[leaf.sha256] = target
    for tree in trees.values():
        for leaf in tree.leaves():
            if leaf.sha256 in found.files:
                found.blobs |= {part.blob for part in leaf.parts} or {leaf.sha256}
    return found


async def _replaced(
    store: Store,
    before: dataset_pb2.DatasetVersion,
    tree: "Tree",
    found: Found,
    scratch: Path,
    report: Report | None,
) -> str:
    """Commit a version again without what goes. Nothing of it lies in a blob that held any of that."""
    from aios.trees.tree import Tree

    leaves = list(tree.leaves())
    clean = [leaf for leaf in leaves if not _blobs(leaf) & found.blobs]
    beside = [leaf for leaf in leaves if _blobs(leaf) & found.blobs and leaf.sha256 not in found.files]
    folder = Path(tempfile.mkdtemp(dir=scratch))
    files: dict[str, Path] = {}
    if beside:
        paths = [leaf.path for leaf in beside]
        for start in range(0, len(paths), PATHS_AT_ONCE):
            await pull(store, before.name, folder, report, paths[start : start + PATHS_AT_ONCE])
        files = {leaf.path: folder / leaf.path for leaf in beside}
    for leaf in leaves:
        if (target := found.files.get(leaf.sha256)) is not None:
            files[leaf.path] = target
    if not files and not clean:
        raise FailedPrecondition(
            f"Nothing would be left of {before.name}: delete its branches and tags, or `aios dataset delete` the dataset.",
            reason="NOTHING_LEFT",
        )
    pushed = await push_files(store, files, Tree.of(clean), report) if files else []
    made = dataset_pb2.DatasetVersion(message=before.message, origin=before.origin)
    await list_files(store, made, sorted([*clean, *pushed], key=lambda leaf: leaf.path))
    request = pb.CreateDatasetVersionRequest(
        parent=before.name.rpartition("/versions/")[0],
        dataset_version=made,
        request_id=request_id(),
        branch=BRANCH,
    )
    committed: dataset_pb2.DatasetVersion = await store.data.CreateDatasetVersion(
        request, timeout=COMMIT_SECONDS
    )
    return committed.name


def _blobs(leaf: "Leaf") -> set[str]:
    return {part.blob for part in leaf.parts} or {leaf.sha256}


def _id(version: str) -> str:
    return DatasetVersionName.parse(version).version

"""Methods of content on its way in and out."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aios.data.v1 import data_service_pb2 as pb
from aios.errors import Aborted, InvalidArgument
from aios.names import CheckpointName, DatasetVersionName, ModelVersionName, UploadName
from aios.records import Page, Tx, pages
from services.data import (
    checkpoint_store,
    dataset_store,
    layout,
    manifests,
    mapping,
    model_store,
)
from services.data.manifests import File, Manifest
from services.data.rpcs import Context, Rpcs, project_of

if TYPE_CHECKING:
    from aios.trees.tree import Leaf

DOWNLOADS, DOWNLOADS_MAX = 500, 3_000  # a page of 3,000 URLs and longest paths stays below 4 MiB
PATHS_MAX = 1_000
PARTS_PER_PAGE_MAX = 5_000  # URLs again: a file of many parts fills a page alone


class UploadRpcs(Rpcs):
    """Uploads and downloads."""

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: Context) -> pb.Upload:
        project = project_of(request.parent)
        sha256 = manifests.check_sha256(request.sha256, "sha256")
        size = manifests.check_size(request.size_bytes, "size_bytes")
        begun = await self._ingest.begin(project, sha256, size)
        answer = pb.Upload(name=str(begun.upload.name), exists=begun.exists)
        if not begun.exists:
            answer.encryption_key = self._blobs.sealing_key(layout.blob(project, sha256))
        if begun.door is not None:
            answer.url = begun.door.url
            answer.headers.update(begun.door.headers)
            answer.expire_time.CopyFrom(mapping.stamp(begun.door.expire_time))
        elif not begun.exists:
            answer.part_size_bytes = begun.upload.part_size(1)
            answer.stored_parts.extend(begun.stored)
        return answer

    async def SignUploadParts(
        self, request: pb.SignUploadPartsRequest, context: Context
    ) -> pb.SignUploadPartsResponse:
        name = UploadName.parse(request.name)
        parts = {part.number: part.sha256 for part in request.parts}
        if len(parts) != len(request.parts):
            raise InvalidArgument.of("parts", "must name each part once")
        doors = await self._ingest.sign_parts(name, parts)
        return pb.SignUploadPartsResponse(
            parts=[
                pb.UploadPart(number=number, sha256=sha256, url=door.url, headers=door.headers)
                for (number, sha256), door in zip(parts.items(), doors, strict=True)
            ]
        )

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Context) -> pb.Upload:
        name = UploadName.parse(request.name)
        await self._ingest.complete(name)
        return pb.Upload(name=str(name), exists=True)

    async def ListDownloads(
        self, request: pb.ListDownloadsRequest, context: Context
    ) -> pb.ListDownloadsResponse:
        page = Page.of(request, DOWNLOADS, DOWNLOADS_MAX)
        if len(request.paths) > PATHS_MAX:
            raise InvalidArgument.of("paths", f"must not be more than {PATHS_MAX}")
        project, digest = await self._db.read(lambda tx: _manifest_of(tx, request.parent))
        start = _position(page, digest, request.parent)
        manifest = await self._contents.manifest(project, digest)
        await self._blobs.ready(project)
        url = self._urls(project)

        def key(sha256: str) -> bytes:
            return self._blobs.key_of(layout.blob(project, sha256))

        answer = pb.ListDownloadsResponse()
        if manifest.index is not None:
            answer.index_url = url(manifest.index.sha256)
            answer.index_encryption_key = key(manifest.index.sha256)
            tree = await self._contents.tree(project, manifest)
            tree = tree.find(request.paths) if request.paths else tree
            total, parts = len(tree), 0
            for leaf in tree.leaves(start, page.size):
                parts += len(leaf.parts)
                if answer.downloads and parts > PARTS_PER_PAGE_MAX:
                    break
                answer.downloads.append(download_of(leaf, url, key))
        else:
            files = _named(manifest, request.paths)
            total = len(files)
            for file in files[start : start + page.size]:
                shown = mapping.file_to_proto(file)
                answer.downloads.append(
                    pb.Download(file=shown, url=url(file.sha256), encryption_key=key(file.sha256))
                )
        end = start + len(answer.downloads)
        if end < total:
            answer.next_page_token = pages.encode([digest, end], page.query)
        return answer

    def _urls(self, project: str) -> Callable[[str], str]:
        signed: dict[str, str] = {}

        def url(sha256: str) -> str:
            if sha256 not in signed:
                signed[sha256] = self._blobs.presigned_get(layout.blob(project, sha256)).url
            return signed[sha256]

        return url


def _position(page: Page, digest: str, parent: str) -> int:
    """Where a page starts in the files of a manifest."""
    if page.after is None:
        return 0
    if page.after[0] != digest:
        raise Aborted(f"{parent} means another version now: list again from the start.")
    position = page.after[1]
    if not isinstance(position, int) or position < 0:
        raise InvalidArgument.of("page_token", "is no token of this list")
    return position


def _named(manifest: Manifest, paths: Iterable[str]) -> list[File]:
    wanted = set(paths)
    return [file for file in manifest.files if not wanted or file.path in wanted]


def download_of(leaf: "Leaf", url: Callable[[str], str], key: Callable[[str], bytes]) -> pb.Download:
    """Where a file's bytes are, alone or in parts of other blobs."""
    download = pb.Download(
        file=mapping.file_to_proto(File(leaf.path, leaf.sha256, leaf.size_bytes)), row_count=leaf.rows or 0
    )
    if not leaf.parts:
        download.url, download.encryption_key = url(leaf.sha256), key(leaf.sha256)
    for part in leaf.parts:
        last = download.parts[-1] if download.parts else None
        where = url(part.blob)
        if last is not None and last.url == where and last.offset_bytes + last.size_bytes == part.offset:
            last.size_bytes += part.size
        else:
            download.parts.add(
                url=where, offset_bytes=part.offset, size_bytes=part.size, encryption_key=key(part.blob)
            )
    return download


def _manifest_of(tx: Tx, parent: str) -> tuple[str, str]:
    """Project and manifest of anything that has files."""
    if DatasetVersionName.matches(parent):
        dataset_version = dataset_store.get_version(tx, DatasetVersionName.parse(parent))
        return dataset_version.name.project, dataset_version.manifest_sha256
    if ModelVersionName.matches(parent):
        model_version = model_store.get_version(tx, ModelVersionName.parse(parent))
        return model_version.name.project, model_version.manifest_sha256
    if CheckpointName.matches(parent):
        checkpoint = checkpoint_store.get(tx, CheckpointName.parse(parent))
        return checkpoint.run.project, checkpoint.manifest_sha256
    raise InvalidArgument.of("parent", "must name a dataset version, model version or checkpoint")

"""Uploads: content on its way in, and what can be wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aios.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from aios.names import UploadName
from services.data.manifests import File

KEPT_FOR = timedelta(hours=1)  # four lifetimes of a URL
FILES_NAMED_MAX = 20  # in one error: the next try names the others


class UploadNotFound(NotFound):
    """No such upload is under way: begin it, or begin it again."""

    reason = "UPLOAD_NOT_FOUND"


class UploadMissing(FailedPrecondition):
    """Nothing was put yet. PUT the bytes, then complete."""

    reason = "UPLOAD_MISSING"


class UploadCorrupt(FailedPrecondition):
    """What was put is not what was announced; it is thrown away. Begin again."""

    reason = "UPLOAD_CORRUPT"


class UploadVerifying(Unavailable):
    """The bytes are still being read. Call again: the work goes on meanwhile."""

    reason = "UPLOAD_VERIFYING"


class SizeDiffers(InvalidArgument):
    """The project has this content with another size, so one of digest and size is wrong."""

    reason = "SIZE_DIFFERS"


class BlobsMissing(FailedPrecondition):
    """Files name content that this project has not completed. Upload it first."""

    reason = "BLOBS_MISSING"

    @classmethod
    def of(cls, files: Sequence[File]) -> "BlobsMissing":
        """Name the files."""
        named = ", ".join(repr(file.path) for file in files[:FILES_NAMED_MAX])
        more = f" and {len(files) - FILES_NAMED_MAX} more" if len(files) > FILES_NAMED_MAX else ""
        return cls(
            f"The content of {named}{more} is not uploaded with this size: begin, put and complete it first.",
            files=named + more,
        )


@dataclass(frozen=True)
class Upload:
    """One blob on its way in."""

    project: str
    sha256: str
    size_bytes: int
    begin_time: datetime

    @property
    def name(self) -> UploadName:
        return UploadName(self.project, self.sha256)


def check_content(upload: Upload, sha256: str, size_bytes: int) -> None:
    """Compare what arrived with what was announced.

    Raises:
        UploadCorrupt: they differ.
    """
    if (sha256, size_bytes) != (upload.sha256, upload.size_bytes):
        raise UploadCorrupt(
            f"What was put has {size_bytes} bytes and SHA-256 {sha256}, not {upload.size_bytes} bytes and "
            f"{upload.sha256}: it is thrown away, so begin the upload again.",
            name=str(upload.name),
            expected_sha256=upload.sha256,
            expected_size_bytes=str(upload.size_bytes),
            actual_sha256=sha256,
            actual_size_bytes=str(size_bytes),
        )

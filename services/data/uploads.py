"""Uploads: content on its way in, and what can be wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aios.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from aios.names import UploadName
from services.data.manifests import check_sha256

KEPT_FOR = timedelta(hours=1)  # four lifetimes of a URL
MULTIPART_KEPT_FOR = timedelta(days=2)  # a night without a link, and the day after
MULTIPART_FROM_BYTES = 64 * 1024**2  # below it, sending all of it again costs less than asking what is there
PART_BYTES_MIN = 16 * 1024**2
PARTS_MAX = 9_000  # S3 takes 10,000
PARTS_SIGNED_MAX = 1_000  # at once: their URLs fill a message of 1 MiB
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
    def of(cls, paths: Sequence[str]) -> "BlobsMissing":
        """Name the files."""
        named = ", ".join(map(repr, paths[:FILES_NAMED_MAX]))
        more = f" and {len(paths) - FILES_NAMED_MAX} more" if len(paths) > FILES_NAMED_MAX else ""
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
    multipart: str = ""
    """The object store's name of an upload in parts; empty for one that is a single PUT."""

    @property
    def name(self) -> UploadName:
        return UploadName(self.project, self.sha256)

    def part_size(self, number: int) -> int:
        """Bytes of a part; less for the last."""
        size = part_bytes(self.size_bytes)
        return min(size, self.size_bytes - (number - 1) * size)


def part_bytes(size_bytes: int) -> int:
    """Size of each part but the last; 0 for content that travels whole."""
    if size_bytes < MULTIPART_FROM_BYTES:
        return 0
    return max(PART_BYTES_MIN, -(-size_bytes // PARTS_MAX))


def part_count(size_bytes: int) -> int:
    """How many parts there are."""
    return -(-size_bytes // part_bytes(size_bytes))


def check_parts(upload: Upload, parts: Mapping[int, str]) -> None:
    """Refuse numbers that the upload does not have, and digests that are none.

    Raises:
        InvalidArgument
    """
    count = part_count(upload.size_bytes)
    if not 0 < len(parts) <= PARTS_SIGNED_MAX:
        raise InvalidArgument.of("parts", f"must be 1 to {PARTS_SIGNED_MAX} parts, each once")
    for number, sha256 in parts.items():
        if not 1 <= number <= count:
            raise InvalidArgument.of("parts.number", f"must be 1 to {count}, not {number}")
        check_sha256(sha256, "parts.sha256")


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

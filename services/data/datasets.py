"""What a dataset and its versions are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from aios.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from aios.names import DatasetName, DatasetVersionName, check_id

LATEST = "latest"
MAIN = "main"  # the branch that `latest` follows
REF_MARK = "@"
TEXT_CHARS_MAX = 4096  # descriptions and messages: a page of text, not a document


class DatasetNotFound(NotFound):
    """The project has no dataset of this name."""

    reason = "DATASET_NOT_FOUND"


class DatasetExists(AlreadyExists):
    """The name is taken."""

    reason = "DATASET_EXISTS"


class DatasetVersionNotFound(NotFound):
    """The dataset has no such version."""

    reason = "DATASET_VERSION_NOT_FOUND"


class RefNotFound(NotFound):
    """The dataset has no such branch or tag."""

    reason = "REF_NOT_FOUND"


class RefTaken(AlreadyExists):
    """A branch or another tag has this name. Choose another, or delete it first."""

    reason = "REF_TAKEN"


class VersionNamed(FailedPrecondition):
    """A branch or tag names the version. Move or delete it first."""

    reason = "VERSION_NAMED"


class CommitConflict(Aborted):
    """Somebody else changed the same files meanwhile. Look at them, and commit on top of the head."""

    reason = "COMMIT_CONFLICT"


@dataclass(frozen=True)
class Dataset:
    """A named line of versions."""

    name: DatasetName
    description: str
    latest: str
    """Id of the version that `latest` means; empty before the first."""
    create_time: datetime
    branches: Mapping[str, str] = field(default_factory=dict)
    """Branch to version id."""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetVersion:
    """One commit: a manifest, and who made it when and why."""

    name: DatasetVersionName
    manifest_sha256: str
    file_count: int
    size_bytes: int
    message: str
    parent: str
    """Id of the version it followed; empty for the first."""
    creator: str
    create_time: datetime
    index_sha256: str = ""
    """The table of its files; empty where the manifest lists them."""


def check_ref(ref: str, field: str) -> str:
    """Return a name that can stand behind `@`.

    Raises:
        InvalidArgument: it is empty, malformed, or would read as `latest`.
    """
    if check_id(ref, field) == LATEST:
        raise InvalidArgument.of(field, "`latest` always means the head of `main`: choose another word")
    return ref


def check_text(text: str, field: str) -> str:
    """Return a description or message that is not too long.

    Raises:
        InvalidArgument: naming `field`.
    """
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidArgument.of(field, f"must not be longer than {TEXT_CHARS_MAX} characters")
    return text

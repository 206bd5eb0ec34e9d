"""What a dataset and its versions are."""

from dataclasses import dataclass
from datetime import datetime

from aios.errors import AlreadyExists, InvalidArgument, NotFound
from aios.names import DatasetName, DatasetVersionName

LATEST = "latest"
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


@dataclass(frozen=True)
class Dataset:
    """A named line of versions."""

    name: DatasetName
    description: str
    latest: str
    """Id of the version that `latest` means; empty before the first."""
    create_time: datetime


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


def check_text(text: str, field: str) -> str:
    """Return a description or message that is not too long.

    Raises:
        InvalidArgument: naming `field`.
    """
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidArgument.of(field, f"must not be longer than {TEXT_CHARS_MAX} characters")
    return text

"""A file of kept predictions, and where it goes. Pure."""

from dataclasses import dataclass
from datetime import datetime

from aios.common.v1 import file_pb2
from aios.names import DatasetName, DeploymentName


@dataclass(frozen=True)
class File:
    """A file of kept predictions."""

    path: str
    """In the dataset version."""
    sha256: str
    size_bytes: int
    rows: int
    start: datetime
    end: datetime
    window_end: datetime
    version: str = ""
    """Dataset version that has it; empty until its window is over."""

    def to_proto(self, folder: str = "") -> file_pb2.File:
        """As a version lists it."""
        return file_pb2.File(path=f"{folder}{self.path}", sha256=self.sha256, size_bytes=self.size_bytes)


def dataset_of(name: DeploymentName) -> DatasetName:
    """The dataset that a deployment's kept predictions become versions of."""
    return DatasetName(name.project, f"{name.deployment}-payloads")

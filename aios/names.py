"""Resource names: `projects/{project}/jobs/{job}` and its kin, parsed once at the door.

Pure. A name is the only way to say which resource is meant; storage paths are never built from one.
Source: google.aip.dev/122.
"""

import re
import secrets
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

from aios.errors import InvalidArgument

_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
ANY_PROJECT = "-"
"""Stands for every project where a method allows it."""


def check_id(value: str, field: str, max_len: int = 63) -> str:
    """Return `value` if a caller may name a resource so.

    Raises:
        InvalidArgument: naming `field`.
    """
    if not value:
        raise InvalidArgument.of(field, "must not be empty")
    if len(value) > max_len or not _ID.fullmatch(value):
        raise InvalidArgument.of(
            field, f"must be 1-{max_len} lower-case letters, digits and hyphens, not {_shown(value)}"
        )
    return value


def new_id(prefix: str = "") -> str:
    """A fresh id with 50 random bits, such as `run-k3v9q2m7xa`."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"  # without those that people misread
    tail = "".join(secrets.choice(letters) for _ in range(10))
    return f"{prefix}-{tail}" if prefix else tail


@dataclass(frozen=True, order=True)
class Name:
    """Base of all names. Subclasses list their ids as fields, by the names and in the order of PATTERN."""

    PATTERN: ClassVar[str]

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Read a name.

        Raises:
            InvalidArgument: naming `field` and the form expected.
        """
        match = _compiled(cls.PATTERN).fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, f"must look like {cls.PATTERN}, not {_shown(text)}")
        return cls(*match.groups())

    @classmethod
    def matches(cls, text: str) -> bool:
        """Whether `text` is a name of this kind."""
        return _compiled(cls.PATTERN).fullmatch(text) is not None

    @property
    def parent(self) -> str:
        """The name one level up; empty at the top."""
        return str(self).rsplit("/", 2)[0] if str(self).count("/") > 1 else ""

    @property
    def id(self) -> str:
        """The last segment."""
        return str(self).rsplit("/", 1)[1]

    def __str__(self) -> str:
        return self.PATTERN.format_map(vars(self))


@dataclass(frozen=True, order=True)
class ProjectName(Name):
    PATTERN = "projects/{project}"
    project: str


@dataclass(frozen=True, order=True)
class MemberName(Name):
    PATTERN = "projects/{project}/members/{member}"
    project: str
    member: str


@dataclass(frozen=True, order=True)
class TokenName(Name):
    PATTERN = "projects/{project}/tokens/{token}"
    project: str
    token: str


@dataclass(frozen=True, order=True)
class TraceName(Name):
    PATTERN = "projects/{project}/traces/{trace}"
    project: str
    trace: str


@dataclass(frozen=True, order=True)
class JobName(Name):
    PATTERN = "projects/{project}/jobs/{job}"
    project: str
    job: str


@dataclass(frozen=True, order=True)
class NodeName(Name):
    PATTERN = "nodes/{node}"
    node: str


@dataclass(frozen=True, order=True)
class QueueName(Name):
    PATTERN = "queues/{queue}"
    queue: str


@dataclass(frozen=True, order=True)
class DeadEventName(Name):
    PATTERN = "deadEvents/{dead_event}"
    dead_event: str


@dataclass(frozen=True, order=True)
class UploadName(Name):
    PATTERN = "projects/{project}/uploads/{upload}"
    project: str
    upload: str


@dataclass(frozen=True, order=True)
class DatasetName(Name):
    PATTERN = "projects/{project}/datasets/{dataset}"
    project: str
    dataset: str


@dataclass(frozen=True, order=True)
class DatasetVersionName(Name):
    PATTERN = "projects/{project}/datasets/{dataset}/versions/{version}"
    project: str
    dataset: str
    version: str


@dataclass(frozen=True, order=True)
class TransformName(Name):
    PATTERN = "projects/{project}/transforms/{transform}"
    project: str
    transform: str


@dataclass(frozen=True, order=True)
class IngestSourceName(Name):
    PATTERN = "projects/{project}/ingestSources/{ingest_source}"
    project: str
    ingest_source: str


@dataclass(frozen=True, order=True)
class DeviceName(Name):
    PATTERN = "projects/{project}/ingestSources/{ingest_source}/devices/{device}"
    project: str
    ingest_source: str
    device: str


@dataclass(frozen=True, order=True)
class EdgeDeviceName(Name):
    PATTERN = "projects/{project}/edgeDevices/{edge_device}"
    project: str
    edge_device: str


@dataclass(frozen=True, order=True)
class LabelProjectName(Name):
    PATTERN = "projects/{project}/labelProjects/{label_project}"
    project: str
    label_project: str


@dataclass(frozen=True, order=True)
class LabelTaskName(Name):
    PATTERN = "projects/{project}/labelProjects/{label_project}/tasks/{task}"
    project: str
    label_project: str
    task: str


@dataclass(frozen=True, order=True)
class ModelName(Name):
    PATTERN = "projects/{project}/models/{model}"
    project: str
    model: str


@dataclass(frozen=True, order=True)
class ModelVersionName(Name):
    PATTERN = "projects/{project}/models/{model}/versions/{version}"
    project: str
    model: str
    version: str


@dataclass(frozen=True, order=True)
class RunName(Name):
    PATTERN = "projects/{project}/runs/{run}"
    project: str
    run: str


@dataclass(frozen=True, order=True)
class SweepName(Name):
    PATTERN = "projects/{project}/sweeps/{sweep}"
    project: str
    sweep: str


@dataclass(frozen=True, order=True)
class CheckpointName(Name):
    PATTERN = "projects/{project}/runs/{run}/checkpoints/{checkpoint}"
    project: str
    run: str
    checkpoint: str


@dataclass(frozen=True, order=True)
class DeploymentName(Name):
    PATTERN = "projects/{project}/deployments/{deployment}"
    project: str
    deployment: str


@dataclass(frozen=True, order=True)
class RevisionName(Name):
    PATTERN = "projects/{project}/deployments/{deployment}/revisions/{revision}"
    project: str
    deployment: str
    revision: str


@dataclass(frozen=True, order=True)
class ExplanationName(Name):
    PATTERN = "projects/{project}/deployments/{deployment}/explanations/{explanation}"
    project: str
    deployment: str
    explanation: str


@dataclass(frozen=True, order=True)
class DriftReportName(Name):
    PATTERN = "projects/{project}/deployments/{deployment}/driftReports/{drift_report}"
    project: str
    deployment: str
    drift_report: str


@dataclass(frozen=True, order=True)
class AlertName(Name):
    PATTERN = "projects/{project}/alerts/{alert}"
    project: str
    alert: str


def project_of(name: str) -> str | None:
    """The project that a resource name lies in, or None when it lies in none."""
    parts = name.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "projects" and parts[1] else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # `@` is for aliases (`versions/@champion`), `.` and `_` for node host names.
    return re.compile(re.sub(r"\{\w+\}", r"([a-z0-9@][a-zA-Z0-9._-]{0,127}|-)", pattern))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")

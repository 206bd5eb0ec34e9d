"""What a label project is. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aios.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from aios.labels import Kind, Size
from aios.labels.values import CHARS_MAX
from aios.names import DatasetVersionName, LabelProjectName
from services.data.annotation.tasks import Rules

LABELS_MAX = 1_000
OVERLAP_MAX = 10
SKIPS_MAX = 100
GOLD_EVERY_MAX = 1_000
TASKS_MAX = 100_000
"""Of one label project: a report reads all of them at once."""
AGREEMENT_MIN = {kind: 1.0 if kind.classes else 0.8 for kind in Kind}
LEASE = timedelta(minutes=30)
LEASE_MIN, LEASE_MAX = timedelta(seconds=10), timedelta(days=1)


class LabelProjectNotFound(NotFound):
    """The project has no such label project."""

    reason = "LABEL_PROJECT_NOT_FOUND"


class LabelProjectExists(AlreadyExists):
    """The name is taken."""

    reason = "LABEL_PROJECT_EXISTS"


class LabelTaskNotFound(NotFound):
    """The label project has no such task."""

    reason = "LABEL_TASK_NOT_FOUND"


class LabelProjectFull(FailedPrecondition):
    """The label project has as many tasks as one may have. Make another one."""

    reason = "LABEL_PROJECT_FULL"


class VersionLabelled(FailedPrecondition):
    """A label project asks people about the version. Delete that first."""

    reason = "VERSION_LABELLED"


@dataclass(frozen=True)
class LabelProject:
    """What people are asked, and by which rules."""

    name: LabelProjectName
    version: DatasetVersionName
    kind: Kind
    labels: Sequence[str]
    instructions: str
    rules: Rules
    lease: timedelta
    gold_every: int
    creator: str
    create_time: datetime
    counts: Mapping[str, int] = field(default_factory=dict)
    """Tasks by state."""
    gold: int = 0

    @property
    def resource(self) -> str:
        return self.name.label_project


def check_labels(labels: Sequence[str], at: str) -> Sequence[str]:
    """The classes of a label project.

    Raises:
        InvalidArgument: naming `at`.
    """
    if not 0 < len(labels) <= LABELS_MAX or len(set(labels)) != len(labels):
        raise InvalidArgument.of(at, f"must be 1 to {LABELS_MAX} classes, each once")
    for index, label in enumerate(labels):
        if not 0 < len(label) <= CHARS_MAX or label != label.strip() or not label.isprintable():
            raise InvalidArgument.of(
                f"{at}[{index}]", f"must be 1-{CHARS_MAX} printable characters without space around them"
            )
    return tuple(labels)


def check_lease(asked: timedelta, at: str) -> timedelta:
    """How long a task is somebody's; zero is the default.

    Raises:
        InvalidArgument: naming `at`.
    """
    if not asked:
        return LEASE
    if not LEASE_MIN <= asked <= LEASE_MAX:
        raise InvalidArgument.of(
            at, f"must be {LEASE_MIN.total_seconds():.0f}s to {LEASE_MAX.total_seconds():.0f}s"
        )
    return asked


def check_number(value: int, most: int, at: str) -> int:
    """A count that may be 0, which stands for the default.

    Raises:
        InvalidArgument: naming `at`.
    """
    if not 0 <= value <= most:
        raise InvalidArgument.of(at, f"must be 0 to {most}")
    return value


def check_share(value: float, at: str) -> float:
    """A share of 1.

    Raises:
        InvalidArgument: naming `at`.
    """
    if not 0 <= value <= 1:
        raise InvalidArgument.of(at, "must be 0 to 1")
    return value


def size_of(kind: Kind, data: Mapping[str, object], width: int, height: int, at: str) -> Size:
    """What labels of an item must lie within.

    Raises:
        InvalidArgument: spans, and no text to count in. Names the field below `at`.
    """
    if kind is not Kind.SPANS:
        return Size(width=width or None, height=height or None)
    text = data.get("text")
    if not isinstance(text, str):
        raise InvalidArgument.of(f"{at}.data", "must have a `text`, which spans count in")
    return Size(chars=len(text))

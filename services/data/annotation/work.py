"""Tasks and what people said of them, as values. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from aios.labels import Label
from aios.names import LabelTaskName
from services.data.annotation.tasks import Progress


class Prelabelled(IntEnum):
    """What became of a model's proposal; numbers as in the proto."""

    NONE = 0
    ACCEPTED = 1
    EDITED = 2


@dataclass(frozen=True)
class Item:
    """A file of the version, or a row of a table in it."""

    path: str
    row: int | None = None
    data: Mapping[str, Any] | None = None
    width: int = 0
    height: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by: -1 stands for the file itself."""
        return self.path, -1 if self.row is None else self.row


@dataclass(frozen=True)
class Prelabel:
    """What a model proposes."""

    label: Label
    scores: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Task:
    """One item on its way to a label."""

    name: LabelTaskName
    item: Item
    progress: Progress
    priority: float
    update_time: datetime
    label: Label | None = None
    confidence: float = 0.0
    gold: bool = False
    prelabel: Prelabel | None = None
    reviewer: str = ""
    fence: int = 0
    revision: int = 0

    @property
    def number(self) -> int:
        return int(self.name.task)

    @property
    def resource(self) -> str:
        return f"{self.name.label_project}/{self.number}"


@dataclass(frozen=True)
class Annotation:
    """What one person said; without a label, why not."""

    annotator: str
    label: Label | None
    skip_reason: str
    prelabelled: Prelabelled
    seconds: float
    create_time: datetime


@dataclass(frozen=True)
class Lease:
    """A task in somebody's hands."""

    number: int
    annotator: str
    fence: int
    lease_time: datetime
    expire_time: datetime


@dataclass(frozen=True)
class Told:
    """A task with the annotations of its round."""

    task: Task
    annotations: Sequence[Annotation]

    @property
    def labels(self) -> Mapping[str, Label]:
        """By annotator."""
        return {each.annotator: each.label for each in self.annotations if each.label is not None}

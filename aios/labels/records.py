"""Labelled items as formats see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aios.labels.values import Kind, Label


@dataclass(frozen=True)
class Record:
    """One item with what is known of it."""

    path: str
    """Of the file in the version."""
    row: int | None = None
    """Of a table; None where the file is the item."""
    data: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    label: Label | None = None
    """The final one."""
    annotations: Mapping[str, Label] = field(default_factory=dict)
    """By annotator."""

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by: -1 stands for the file itself."""
        return self.path, -1 if self.row is None else self.row


@dataclass(frozen=True)
class Labelled:
    """The items of one label project."""

    kind: Kind
    labels: Sequence[str]
    records: Sequence[Record]

"""The log of one dataset, model, run or lineage graph: numbered entries in the bucket, each written once.

What exists is what the entries of a log come to, read in order. Whoever wins the conditional PUT of the next number has
made a change; who loses reads what came in between and decides again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from aios.errors import DataLoss
from aios.names import DatasetName, ModelName, RunName


class Change(StrEnum):
    """What an entry says."""

    CREATED = "created"
    DELETED = "deleted"
    COMMITTED = "committed"
    REF_SET = "ref_set"
    REF_DELETED = "ref_deleted"
    VERSION_DELETED = "version_deleted"
    REGISTERED = "registered"
    ALIAS_SET = "alias_set"
    ALIAS_DELETED = "alias_deleted"
    STORED = "stored"
    PRUNED = "pruned"
    RECORDED = "recorded"
    ERASED = "erased"


@dataclass(frozen=True, order=True)
class Log:
    """Which log."""

    project: str
    path: str
    """`datasets/{id}`, `models/{id}`, `runs/{id}` or `lineage/edges`."""

    @classmethod
    def of(cls, name: DatasetName | ModelName | RunName) -> Self:
        """The log of a resource."""
        collection, _, _id = str(name).removeprefix(f"projects/{name.project}/").partition("/")
        return cls(name.project, f"{collection}/{_id}")

    @classmethod
    def lineage(cls, project: str) -> Self:
        """The log of a project's graph."""
        return cls(project, "lineage/edges")

    @property
    def kind(self) -> str:
        return self.path.partition("/")[0]

    @property
    def id(self) -> str:
        return self.path.partition("/")[2]


@dataclass(frozen=True)
class Entry:
    """One line of a log."""

    sequence: int
    """From 1, without gaps."""
    change: Change
    time: datetime
    creator: str
    """Who made the change: the subject of a token."""
    nonce: str
    """Of the attempt that wrote it: who asks after a lost answer whether the entry is its own, looks here."""
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> str:
        """Digest of the manifest that it makes a version of; empty for most."""
        return str(self.body.get("manifest", ""))

    @property
    def encoded(self) -> bytes:
        """The bytes that are stored."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "sequence": self.sequence,
            "change": self.change,
            "time": self.time.isoformat(),
            "creator": self.creator,
            "nonce": self.nonce,
            **self.body,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read `to_json`.

        Raises:
            DataLoss: it is none.
        """
        try:
            rest = dict(stored)
            sequence, change, time = rest.pop("sequence"), Change(rest.pop("change")), rest.pop("time")
            creator, nonce = rest.pop("creator"), rest.pop("nonce")
            return cls(sequence, change, datetime.fromisoformat(time), creator, nonce, rest)
        except (KeyError, ValueError, TypeError) as error:
            raise DataLoss(f"An entry of a log cannot be read: {error!r}.") from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `encoded`.

        Raises:
            DataLoss: it is damaged.
        """
        try:
            return cls.from_json(json.loads(data))
        except ValueError as error:
            raise DataLoss(f"An entry of a log cannot be read: {error!r}.") from error

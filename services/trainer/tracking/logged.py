"""Logged models: what a run says that it made, before anyone registers it. Pure. Source: mlflow.org/docs, REST API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from aios.errors import InvalidArgument, NotFound
from services.trainer.tracking.experiments import millis
from services.trainer.tracking.paths import Kind, Place

PENDING, READY, FAILED = "LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED"
TIMES = ("creation_timestamp", "creation_time", "last_updated_timestamp")
"""What of a logged model is milliseconds since 1970."""


class LoggedModelNotFound(NotFound):
    """The project has no such logged model."""

    reason = "LOGGED_MODEL_NOT_FOUND"


@dataclass(frozen=True)
class Logged:
    """One logged model."""

    id: str
    experiment: str
    name: str
    model_type: str
    run: str
    """That logged it; empty where none did."""
    status: str
    create_time: datetime
    update_time: datetime
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    """The newest of each, by key and dataset: `key value step timestamp run_id dataset_name dataset_digest`."""

    @property
    def place(self) -> Place:
        """Where its files are."""
        return Place(Kind.MODEL, self.experiment, self.id)


def check_status(status: str) -> str:
    """How a logged model ends.

    Raises:
        InvalidArgument: it is no end.
    """
    if status not in (READY, FAILED):
        raise InvalidArgument.of("status", f"must be {READY} or {FAILED}, not {status[:40]!r}")
    return status


def value(each: Logged, kind: str, key: str) -> str | float | None:
    """What a filter asks of a logged model.

    Raises:
        InvalidArgument: it has nothing of this name.
    """
    if kind == "tag":
        return each.tags.get(key)
    if kind == "param":
        return each.params.get(key)
    if kind == "metric":
        found = [metric for metric in each.metrics.values() if metric["key"] == key]
        return max(found, key=lambda metric: metric["timestamp"])["value"] if found else None
    known: Mapping[str, str | float] = {
        "name": each.name,
        "model_id": each.id,
        "model_type": each.model_type,
        "status": each.status.removeprefix("LOGGED_MODEL_"),
        "source_run_id": each.run,
        "experiment_id": each.experiment,
        "creation_timestamp": float(millis(each.create_time)),
        "creation_time": float(millis(each.create_time)),
        "last_updated_timestamp": float(millis(each.update_time)),
    }
    if key not in known:
        raise InvalidArgument.of("filter", f"logged models have no attribute {key!r}: {', '.join(known)}")
    return known[key]

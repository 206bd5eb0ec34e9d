"""Models and versions of the data service as MLflow shows them. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from aios.errors import AlreadyExists, InvalidArgument, NotFound
from services.trainer.tracking.experiments import millis
from services.trainer.tracking.paths import Kind, Place

TITLE_MAX = 255
MODEL_TIMES = ("creation_timestamp", "last_updated_timestamp")
VERSION_NUMBERS = (*MODEL_TIMES, "version_number")
"""What of a model, and of a version, is a number."""


class RegisteredModelExists(AlreadyExists):
    """The project has a model of this name, or one whose id would be the same."""

    reason = "REGISTERED_MODEL_EXISTS"


class RegisteredModelNotFound(NotFound):
    """The project has no model of this name."""

    reason = "REGISTERED_MODEL_NOT_FOUND"


@dataclass(frozen=True)
class Words:
    """What MLflow says of a model, or of a version, beside what the data service has."""

    title: str = ""
    description: str | None = None
    """None where nothing was said: the data service's own holds."""
    source: str = ""
    run: str = ""
    logged_model: str = ""
    user: str = ""
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Version:
    """One version."""

    model: str
    number: int
    title: str
    description: str
    source: str
    run: str
    logged_model: str
    creator: str
    create_time: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """One model."""

    model: str
    title: str
    description: str
    create_time: datetime
    update_time: datetime
    aliases: Mapping[str, str]
    tags: Mapping[str, str]
    latest: Version | None


def model_id(title: str) -> str:
    """The id that a name becomes in the data service.

    Raises:
        InvalidArgument: nothing of it could be an id.
    """
    if not title.strip() or len(title) > TITLE_MAX:
        raise InvalidArgument.of("name", f"must have 1 to {TITLE_MAX} characters")
    made = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:63].strip("-")
    if not made:
        raise InvalidArgument.of("name", "must have letters or digits of the Latin alphabet")
    return made


def number(version: str) -> int:
    """A version's number.

    Raises:
        InvalidArgument: it is none.
    """
    if not (version.isascii() and version.isdigit() and 0 < len(version) <= 9):
        raise InvalidArgument.of("version", f"must be a number such as 3, not {version[:40]!r}")
    return int(version)


def place(model: str, version: int) -> Place:
    """Where a version's files are."""
    return Place(Kind.REGISTRY, model, str(version))


def value_of_model(each: Model, kind: str, key: str) -> str | float | None:
    """What a filter asks of a model.

    Raises:
        InvalidArgument: it has nothing of this name.
    """
    known: Mapping[str, str | float] = {
        "name": each.title,
        "creation_timestamp": float(millis(each.create_time)),
        "last_updated_timestamp": float(millis(each.update_time)),
    }
    return _value(each.tags, known, kind, key, "registered models")


def value_of_version(each: Version, kind: str, key: str) -> str | float | None:
    """What a filter asks of a version.

    Raises:
        InvalidArgument: it has nothing of this name.
    """
    known: Mapping[str, str | float] = {
        "name": each.title,
        "version_number": float(each.number),
        "run_id": each.run,
        "source_path": each.source,
        "creation_timestamp": float(millis(each.create_time)),
        "last_updated_timestamp": float(millis(each.create_time)),
    }
    return _value(each.tags, known, kind, key, "model versions")


def _value(
    tags: Mapping[str, str], known: Mapping[str, str | float], kind: str, key: str, what: str
) -> str | float | None:
    if kind == "tag":
        return tags.get(key)
    if kind != "attribute" or key not in known:
        raise InvalidArgument.of("filter", f"{what} have no {kind} {key!r}: {', '.join(known)} and tags")
    return known[key]

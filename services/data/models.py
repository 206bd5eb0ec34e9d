"""What a model is, and what a version of it must state before it can be served."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aios.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aios.names import ModelName, ModelVersionName, RunName, check_id

ALIAS_MARK = "@"
# Source: Open Inference Protocol, tensor data types.
_INTEGERS = {f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)}
DATATYPES = frozenset({"BOOL", "FP16", "BF16", "FP32", "FP64", "BYTES", *_INTEGERS})
TENSORS_MAX = 64  # far more than any model has; bounds what a version carries in every answer
DIMENSIONS_MAX = 16
LABELS_MAX = 10_000
METRICS_MAX = 200
BATCH_MAX = 1 << 16
CARD_BYTES_MAX = 64 * 1024
REJECTED_CHARS_MAX = 1_000


class ModelNotFound(NotFound):
    """The project has no model of this name."""

    reason = "MODEL_NOT_FOUND"


class ModelExists(AlreadyExists):
    """The name is taken."""

    reason = "MODEL_EXISTS"


class ModelVersionNotFound(NotFound):
    """The model has no such version or alias."""

    reason = "MODEL_VERSION_NOT_FOUND"


class AliasNotFound(NotFound):
    """The model has no such alias."""

    reason = "ALIAS_NOT_FOUND"


class ModelVersionInUse(FailedPrecondition):
    """An alias names the version or a deployment serves it. Move or delete that first."""

    reason = "MODEL_VERSION_IN_USE"


class ModelVersionRejected(FailedPrecondition):
    """The version missed what was asked of it. No alias may name it."""

    reason = "MODEL_VERSION_REJECTED"


class RunRegistered(AlreadyExists):
    """The run has registered another version of this model. A run registers one."""

    reason = "RUN_REGISTERED"


class RunClaimed(PermissionDenied):
    """Only the platform says which run made a model. Leave `run` empty."""

    reason = "RUN_CLAIMED"


@dataclass(frozen=True)
class Tensor:
    """One input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """Without the batch dimension; -1 is any size."""


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    max_batch_size: int = 0
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Model:
    """A named line of versions."""

    name: ModelName
    description: str
    latest: int
    """0 before the first."""
    create_time: datetime
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """What a caller states of a version that has no number yet."""

    signature: Signature
    metrics: Mapping[str, float]
    run: RunName | None
    creator: str
    create_time: datetime
    card: str = ""
    """What people should know before they use it: Markdown."""
    rejected: str = ""
    """Why it must not be promoted; empty for most."""


@dataclass(frozen=True)
class ModelVersion:
    """Files, what they take and give, and where they came from."""

    name: ModelVersionName
    manifest_sha256: str
    size_bytes: int
    signature: Signature
    metrics: Mapping[str, float]
    run: RunName | None
    creator: str
    create_time: datetime
    card: str = ""
    """What people should know before they use it: Markdown."""
    rejected: str = ""
    """Why it must not be promoted; empty for most."""


def check_signature(signature: Signature, path: str) -> Signature:
    """Return a signature that a server can be configured from.

    Raises:
        InvalidArgument: naming every field below `path` that is wrong.
    """
    problems: dict[str, str] = {}
    for kind, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        problems |= _tensor_problems(tensors, f"{path}.{kind}")
    if not 0 <= signature.max_batch_size <= BATCH_MAX:
        problems[f"{path}.max_batch_size"] = f"must be 0 (no batch dimension) to {BATCH_MAX}"
    if len(signature.labels) > LABELS_MAX:
        problems[f"{path}.labels"] = f"must not be more than {LABELS_MAX}"
    if problems:
        first = next(iter(problems.items()))
        raise InvalidArgument(f"{first[0]}: {first[1]}", fields=problems)
    return signature


def check_metrics(metrics: Mapping[str, float], path: str) -> Mapping[str, float]:
    """Return metrics that can be stored and compared.

    Raises:
        InvalidArgument: naming the key that is wrong.
    """
    if len(metrics) > METRICS_MAX:
        raise InvalidArgument.of(path, f"must not be more than {METRICS_MAX}")
    for key, value in metrics.items():
        if not 0 < len(key) <= 255:
            raise InvalidArgument.of(path, "needs keys of 1 to 255 characters")
        if not math.isfinite(value):
            raise InvalidArgument.of(f"{path}[{key!r}]", f"must be a finite number, not {value}")
    return metrics


def check_card(card: str, path: str) -> str:
    """Return a card that is not too long.

    Raises:
        InvalidArgument: naming `path`.
    """
    if len(card.encode()) > CARD_BYTES_MAX:
        raise InvalidArgument.of(path, f"must not be longer than {CARD_BYTES_MAX} bytes")
    return card


def check_rejected(reason: str, path: str) -> str:
    """Return a reason that is not too long.

    Raises:
        InvalidArgument: naming `path`.
    """
    if len(reason) > REJECTED_CHARS_MAX:
        raise InvalidArgument.of(path, f"must not be longer than {REJECTED_CHARS_MAX} characters")
    return reason


def check_alias(alias: str, path: str) -> str:
    """Return a name that can stand behind `@`.

    Raises:
        InvalidArgument: it is empty, malformed, or would read as `latest`.
    """
    if check_id(alias, path) == "latest":
        raise InvalidArgument.of(path, "`latest` always means the newest version: choose another word")
    return alias


def check_claim(run: RunName | None, model: ModelName, *, by_service: bool) -> None:
    """Refuse a caller who says which run made a model and cannot know it.

    Raises:
        RunClaimed, InvalidArgument
    """
    if run is not None and not by_service:
        raise RunClaimed("Only the platform says which run made a model: leave `run` empty.")
    if run is not None and run.project != model.project:
        raise InvalidArgument.of("model_version.run", f"must lie in projects/{model.project}")


def version_number(version: str) -> int | None:
    """The number that a version id is; None for anything else, also for `01`."""
    if version.isascii() and version.isdigit() and not version.startswith("0") and len(version) <= 9:
        return int(version)
    return None


def _tensor_problems(tensors: Sequence[Tensor], path: str) -> dict[str, str]:
    if not 0 < len(tensors) <= TENSORS_MAX:
        return {path: f"must be 1 to {TENSORS_MAX} tensors"}
    found: dict[str, str] = {}
    names: set[str] = set()
    for index, tensor in enumerate(tensors):
        at = f"{path}[{index}]"
        if not 0 < len(tensor.name) <= 255:
            found[f"{at}.name"] = "must be 1 to 255 characters"
        elif tensor.name in names:
            found[f"{at}.name"] = f"{tensor.name!r} stands twice"
        names.add(tensor.name)
        if tensor.datatype not in DATATYPES:
            found[f"{at}.datatype"] = f"must be one of {', '.join(sorted(DATATYPES))}"
        if len(tensor.shape) > DIMENSIONS_MAX:
            found[f"{at}.shape"] = f"must not have more than {DIMENSIONS_MAX} dimensions"
        elif any(size < 1 and size != -1 for size in tensor.shape):
            found[f"{at}.shape"] = "must have sizes of 1 or more, or -1 for any"
    return found

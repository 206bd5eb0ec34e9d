"""The rules of transforms. Pure, so that a service without the libraries of a job can check one before it is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from aios.errors import FailedPrecondition, InvalidArgument, NotFound
from aios.names import ModelVersionName, TransformName
from services.data.transform_parameters import Value, shown
from services.data.transform_types import TYPES, Type

PARAMETERS_BYTES_MAX = 32 << 10  # they stand in the header of each version, and in the environment of the job
MEMORY_BYTES, MEMORY_PER_BYTE = 1 << 30, 6  # a version is held in memory, with what is worked out of it


class TransformNotFound(NotFound):
    """The project has no such transform. Retrying cannot help."""

    reason = "TRANSFORM_NOT_FOUND"


class ReportMissing(FailedPrecondition):
    """The transform has made nothing yet, or its report must be pulled with its result."""

    reason = "REPORT_MISSING"


class NotATransform(FailedPrecondition):
    """The caller's job does not run this transform, or the transform has no use for what was asked."""

    reason = "NOT_A_TRANSFORM"


@dataclass(frozen=True)
class Spec:
    """What is to be done to what. Everything is filled in: nothing is left to a default of the day."""

    type: str
    input: str
    """Full name of a dataset version."""
    output: str
    """Id of a dataset."""
    parameters: Mapping[str, Value]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Type and version, as the origin of the result says it."""
        return f"{self.type}/{TYPES[self.type].version}"

    @property
    def reads(self) -> Sequence[str]:
        """Every version that it reads, once."""
        return list(dict.fromkeys([self.input, *(self.inputs[key] for key in sorted(self.inputs))]))

    def to_json(self) -> dict[str, Any]:
        """For the environment of its job."""
        return {
            "type": self.type,
            "input": self.input,
            "output": self.output,
            "parameters": dict(self.parameters),
            "inputs": dict(self.inputs),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Spec":
        """Read `to_json`: also of an older release, which had other parameters."""
        parameters = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in stored["parameters"].items()
        }
        return cls(
            str(stored["type"]),
            str(stored["input"]),
            str(stored["output"]),
            parameters,
            dict(stored["inputs"]),
        )


def type_of(name: str, field: str = "transform.spec.type") -> Type:
    """A transform of this release.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in TYPES:
        near = get_close_matches(name, TYPES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TYPES)}"
        raise InvalidArgument.of(field, f"there is no transform {shown(name)}: {hint}")
    return TYPES[name]


def parameters_of(
    name: str, given: Mapping[str, object], field: str = "transform.spec.parameters"
) -> dict[str, Value]:
    """All parameters of a transform: those that were given, and the defaults of the others.

    Raises:
        InvalidArgument: naming the parameter that it does not take, or not so.
    """
    known = type_of(name).parameters
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise InvalidArgument.of(f"{field}.{key[:80]}", f"is no parameter of {name}: {hint}")
    found = {
        key: each.read(f"{field}.{key}", given[key]) if key in given else each.default
        for key, each in known.items()
    }
    check = _CHECKS.get(name)
    if check is not None:
        check(found, field)
    return found


def check_inputs(name: str, given: Mapping[str, str], field: str = "transform.spec.inputs") -> None:
    """Refuse further inputs that a transform does not read, and the lack of those that it needs.

    Raises:
        InvalidArgument
    """
    wanted = type_of(name).inputs
    for key in given:
        if key not in wanted:
            raise InvalidArgument.of(
                f"{field}.{key[:80]}", f"is nothing that {name} reads: {', '.join(wanted) or 'one input'}"
            )
    for key in wanted:
        if key not in given:
            raise InvalidArgument.of(f"{field}.{key}", f"is required: {name} compares with it")


def name_of(project: str, transform_id: str) -> TransformName:
    """The name of a transform; its job has the same id."""
    return TransformName(project, transform_id)


def memory_bytes(size_bytes: int) -> int:
    """What a job needs that reads so much."""
    return MEMORY_BYTES + MEMORY_PER_BYTE * size_bytes


def _check_split(parameters: Mapping[str, Value], field: str) -> None:
    parts = parameters["parts"]
    assert isinstance(parts, Mapping)
    if len(parts) < 2 or not all(isinstance(key, str) and key.isidentifier() for key in parts):
        raise InvalidArgument.of(f"{field}.parts", "must name two parts or more by letters, digits and `_`")
    shares = list(parts.values())
    if not all(
        isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares
    ):
        raise InvalidArgument.of(f"{field}.parts", "must give each part a share above 0")
    if parameters["by"] != "random" and not parameters["column"]:
        raise InvalidArgument.of(f"{field}.column", f"is required where it is divided by {parameters['by']}")


def _check_drift(parameters: Mapping[str, Value], field: str) -> None:
    if parameters["model"]:
        ModelVersionName.parse(str(parameters["model"]), f"{field}.model")


_CHECKS = {"split": _check_split, "drift": _check_drift}

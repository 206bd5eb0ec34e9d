"""What can be done to data: the transforms by name, with the parameters each takes. Pure, so that a service without the
libraries of a job can check a transform before it is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from aios.errors import FailedPrecondition, InvalidArgument, NotFound
from aios.names import TransformName

Value = int | float | bool | str | tuple[str, ...] | Mapping[str, Any]
PARAMETERS_BYTES_MAX = 32 << 10  # they stand in the header of each version, and in the environment of the job
TEXT_CHARS_MAX = 1_000
NAMES_MAX = 1_000  # of one list
MEMORY_BYTES, MEMORY_PER_BYTE = 1 << 30, 6  # a version is held in memory, with what is worked out of it


class TransformNotFound(NotFound):
    """The project has no such transform. Retrying cannot help."""

    reason = "TRANSFORM_NOT_FOUND"


class NotATransform(FailedPrecondition):
    """The caller's job does not run this transform, or the transform has no use for what was asked."""

    reason = "NOT_A_TRANSFORM"


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its kind is that of its default: a list of texts is a tuple. Bounds include their ends."""

    default: Value
    summary: str
    low: float = float("-inf")
    high: float = float("inf")
    choices: tuple[str, ...] = ()

    def read(self, field: str, value: object) -> Value:
        """`value` as this parameter's kind. A list may be given as one text with commas.

        Raises:
            InvalidArgument: naming `field` and what it takes.
        """
        if isinstance(self.default, tuple):
            return self._texts(field, value)
        if isinstance(self.default, Mapping):
            if not isinstance(value, Mapping):
                raise InvalidArgument.of(field, f"must be a mapping, not {_shown(value)}")
            return dict(value)
        if isinstance(self.default, str):
            return self._text(field, value)
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise InvalidArgument.of(field, f"must be true or false, not {_shown(value)}")
            return value
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArgument.of(field, f"must be a number, not {_shown(value)}")
        if not self.low <= value <= self.high:
            raise InvalidArgument.of(field, f"must be between {self.low:g} and {self.high:g}, not {value:g}")
        if whole and value != int(value):
            raise InvalidArgument.of(field, f"must be a whole number, not {value:g}")
        return int(value) if whole else float(value)

    def _text(self, field: str, value: object) -> str:
        if self.choices and value not in self.choices:
            raise InvalidArgument.of(field, f"must be one of {', '.join(self.choices)}, not {_shown(value)}")
        if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
            raise InvalidArgument.of(
                field, f"must be text of at most {TEXT_CHARS_MAX} characters, not {_shown(value)}"
            )
        return value

    def _texts(self, field: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [each.strip() for each in value.split(",") if each.strip()]
        if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
            raise InvalidArgument.of(field, f"must be a list of texts, not {_shown(value)}")
        if len(value) > NAMES_MAX:
            raise InvalidArgument.of(field, f"must not have more than {NAMES_MAX} items")
        if self.choices and (odd := [each for each in value if each not in self.choices]):
            raise InvalidArgument.of(
                field, f"must be some of {', '.join(self.choices)}, not {_shown(odd[0])}"
            )
        return tuple(value)


@dataclass(frozen=True)
class Type:
    """A transform that this release has: `services.data.job.<name>`."""

    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    version: int = 1
    """Raised when the same parameters come to mean something else."""
    inputs: tuple[str, ...] = ()
    """Further versions that it needs, by name."""
    keyed: bool = False
    """Its job is given a secret of the project."""


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
        """Read `to_json`."""
        return cls(
            str(stored["type"]),
            str(stored["input"]),
            str(stored["output"]),
            parameters_of(str(stored["type"]), stored["parameters"]),
            dict(stored["inputs"]),
        )


_SEED = Parameter(0, "Of everything random: the same seed makes the same version.", low=0, high=2**53)
_COLUMNS = Parameter((), "Which columns; all that fit where empty.")
_TARGET = Parameter("", "Column of the label.")

TYPES: Mapping[str, Type] = MappingProxyType(
    {
        "profile": Type(
            "Say what is in it: types, nulls, uniques, quantiles, histograms, correlations.",
            {
                "columns": _COLUMNS,
                "bins": Parameter(20, "Of each histogram.", low=2, high=200),
                "top": Parameter(10, "Most frequent values that are named.", low=0, high=100),
            },
        ),
        "clean": Type(
            "Repair, or put aside with reasons, what is wrong with it.",
            {
                "rules": Parameter(
                    {},
                    "Column to what it must be: {age: {type: integer, min: 0, max: 120, required: true}}.",
                ),
                "missing": Parameter(
                    "keep",
                    "Rows without a value: kept, put aside, or filled from the column.",
                    choices=("keep", "quarantine", "mean", "median", "mode"),
                ),
                "outliers": Parameter(
                    "keep",
                    "Numbers far from the others: kept, put aside, or moved to the bound.",
                    choices=("keep", "quarantine", "clip"),
                ),
                "outlier_bound": Parameter(
                    3.0,
                    "Interquartile ranges beyond the quartiles from which a number is one.",
                    low=0,
                    high=1e6,
                ),
                "duplicates": Parameter(
                    "quarantine",
                    "Rows that are there before: kept, or put aside.",
                    choices=("keep", "quarantine"),
                ),
                "near_duplicates": Parameter(
                    0.0,
                    "Likeness of texts or images from which the later one is put aside; 0 looks for none.",
                    low=0,
                    high=1,
                ),
                "near_columns": Parameter(
                    (), "Where near duplicates are looked for; texts and images where empty."
                ),
                "label_errors": Parameter("", "Column of labels in which mistakes are looked for."),
                "leakage": Parameter(True, "Put aside rows of the training part that another part has too."),
                "columns": Parameter(
                    (), "Where missing values and outliers are looked for; all where empty."
                ),
                "seed": _SEED,
            },
        ),
        "split": Type(
            "Divide it into parts, such as train and test.",
            {
                "parts": Parameter({"train": 0.8, "test": 0.2}, "Name to share."),
                "by": Parameter(
                    "random",
                    "At random, with the label's shares in each part, whole groups together, or by time.",
                    choices=("random", "stratified", "group", "time"),
                ),
                "column": Parameter("", "The label, group or time that it is divided by."),
                "seed": _SEED,
            },
        ),
    }
)
"""Everything that can be done to a version, by name."""


def type_of(name: str, field: str = "transform.spec.type") -> Type:
    """A transform of this release.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in TYPES:
        near = get_close_matches(name, TYPES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TYPES)}"
        raise InvalidArgument.of(field, f"there is no transform {_shown(name)}: {hint}")
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


_CHECKS = {"split": _check_split}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

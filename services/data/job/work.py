"""What a transform is given and what it makes. No platform in sight: a test calls one with tables."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts, parts
from services.data.job.engine import Engine, Local
from services.data.job.parts import Form, Source


@dataclass(frozen=True)
class Model:
    """What a model says of the vector that it takes and of the classes that it tells apart, in order."""

    features: Sequence[str] = ()
    """A column, or `column=value`."""
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Work:
    """One transform to be done.

    Args:
        key: Gives the secret that pseudonyms are made with.
    """

    parameters: Mapping[str, Any]
    source: Source
    inputs: Mapping[str, Source] = field(default_factory=dict)
    key: Callable[[], bytes] = bytes
    privacy: frozenset[str] = frozenset()
    """What is known of people in the input."""
    model: Model = Model()
    """That whose predictions the input holds."""
    engine: Engine = field(default_factory=Local)
    """Does what goes row by row."""

    @property
    def seed(self) -> int:
        return int(self.parameters["seed"])

    @property
    def training(self) -> str:
        """The part that everything is fitted on: `train`, or the first."""
        return parts.TRAINING if parts.TRAINING in self.source.parts else next(iter(self.source.parts))

    def columns(self, name: str = "columns") -> Sequence[str]:
        """The columns that a parameter names; all of them where it is empty.

        Raises:
            InvalidArgument: one of them is not there.
        """
        known = list(dict.fromkeys(each for part in self.source.parts.values() for each in part.column_names))
        asked: Sequence[str] = self.parameters[name]
        for each in asked:
            self.require(name, each)
        return asked or known

    def require(self, name: str, column: str) -> str:
        """A column that every part has.

        Raises:
            InvalidArgument: naming the parameter.
        """
        for part, table in self.source.parts.items():
            if column not in table.column_names:
                raise InvalidArgument.of(
                    f"parameters.{name}",
                    f"{part} has no column {column!r}: {', '.join(table.column_names[:20])}",
                )
        return column


@dataclass
class Result:
    """What came of it."""

    title: str
    summary: dict[str, Any]
    """For people and programs, as JSON."""
    sections: list[str] = field(default_factory=list)
    """Of the report, as HTML."""
    parts: Mapping[str, "pa.Table"] = field(default_factory=dict)
    quarantine: Mapping[str, "pa.Table"] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    """More of the version, by name, as JSON: what was fitted, a vocabulary."""
    form: Form | None = None
    """That of the input where it is None."""
    privacy: frozenset[str] | None = None
    """That of the input where it is None."""

    def page(self) -> str:
        """The report as one HTML file."""
        return charts.page(self.title, *self.sections)


def folder_of(result: Result, target: Path, form: Form) -> None:
    """Write everything that is to be in the version. The same result is the same bytes."""
    target.mkdir(parents=True, exist_ok=True)
    parts.write(target, result.parts, result.form or form)
    parts.write_quarantine(target, result.quarantine)
    for name, content in {**result.files, "report.json": result.summary}.items():
        (target / name).write_text(
            json.dumps(_finite(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        )
    (target / "report.html").write_text(result.page())


def _finite(value: Any) -> Any:
    """What JSON can say: a number that is none is null."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""`run.yaml`: what to train, read strictly. Pure.

Every key is known or refused with the likely one; only `hyperparameters` is free, since the recipe owns its meaning.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from aios.common.v1 import resources_pb2
from aios.errors import InvalidArgument
from aios.trainer.v1 import run_pb2

KEYS = (
    "name", "recipe", "dataset", "hyperparameters", "resources", "seed", "model", "checkpoint_steps", "max_restarts",
    "description",
)  # fmt: skip
RESOURCE_KEYS = ("cpu", "memory", "accelerators")
REQUIRED = ("recipe", "dataset")
_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?")


@dataclass(frozen=True)
class RunFile:
    """One file's content."""

    spec: run_pb2.RunSpec
    run_id: str = ""
    """The run's name; made up by the service when empty."""


def parse(given: Mapping[str, Any]) -> RunFile:
    """Read a run as a mapping.

    Raises:
        InvalidArgument: naming every wrong key at once.
    """
    problems: dict[str, str] = {}
    _unknown(given, KEYS, "", problems)
    for key in REQUIRED:
        if not given.get(key):
            problems[key] = "is required"
    for key in ("name", "recipe", "dataset", "model", "description"):
        if given.get(key) is not None and not isinstance(given[key], str):
            problems[key] = f"must be text, not {given[key]!r}"
    for key in ("seed", "checkpoint_steps", "max_restarts"):
        value = given.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            problems[key] = f"must be a whole number of 0 or more, not {value!r}"
    hyperparameters = given.get("hyperparameters") or {}
    if not isinstance(hyperparameters, Mapping):
        problems["hyperparameters"] = "must be keys with values"
    resources = _resources(given.get("resources") or {}, problems)
    if problems:
        raise _refusal(problems)
    simple = {
        key: given[key]
        for key in KEYS[1:]
        if key not in ("hyperparameters", "resources") and given.get(key) is not None
    }
    spec = run_pb2.RunSpec(**{**simple, "dataset": dataset_name(given["dataset"])})
    try:
        ParseDict(dict(hyperparameters), spec.hyperparameters)
    except (ParseError, ValueError, TypeError) as error:
        raise InvalidArgument.of("hyperparameters", f"cannot be sent: {error}") from None
    if resources is not None:
        spec.resources.CopyFrom(resources)
    return RunFile(spec, given.get("name") or "")


def dataset_name(text: str) -> str:
    """`digits` and `digits/{version}` as the contract spells them; longer names are left as they are."""
    dataset, *version = text.split("/")
    if len(version) > 1 or dataset in ("datasets", "projects"):
        return text
    return f"datasets/{dataset}" + "".join(f"/versions/{each}" for each in version)


def override(given: dict[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """The same with values at dotted paths replaced: `{"hyperparameters.lr": 0.1}`."""
    result = dict(given)
    for path, value in assignments.items():
        *parents, last = path.split(".")
        inner = result
        for part in parents:
            below = inner.get(part)
            if below is not None and not isinstance(below, Mapping):
                raise InvalidArgument.of(path, f"{part} holds one value, not keys")
            inner[part] = dict(below or {})
            inner = inner[part]
        inner[last] = value
    return result


def amount(text: str | float, field: str, unit: int = 1) -> int:
    """`2Gi`, `512MiB`, `1.5` in units of `unit`, as a whole number.

    Raises:
        InvalidArgument: naming `field`.
    """
    match = _AMOUNT.fullmatch(str(text).strip())
    if match is None or match[2] not in (None, *_UNITS):
        raise InvalidArgument.of(field, f"must look like 2 or 512MiB, not {text!r}")
    return round(float(match[1]) * _UNITS[match[2] or ""] * unit)


def _resources(given: object, problems: dict[str, str]) -> resources_pb2.Resources | None:
    if not isinstance(given, Mapping):
        problems["resources"] = "must be keys with values: cpu, memory, accelerators"
        return None
    if not given:
        return None
    _unknown(given, RESOURCE_KEYS, "resources.", problems)
    resources = resources_pb2.Resources()
    try:
        if "cpu" in given:
            resources.cpu_millis = amount(given["cpu"], "resources.cpu", 1000)
        if "memory" in given:
            resources.memory_bytes = amount(given["memory"], "resources.memory")
    except InvalidArgument as error:
        problems.update(error.fields)
    accelerators = given.get("accelerators") or {}
    if isinstance(accelerators, Mapping) and all(isinstance(count, int) for count in accelerators.values()):
        resources.accelerators.update({str(kind): count for kind, count in accelerators.items()})
    else:
        problems["resources.accelerators"] = "must be types with counts, such as {gpu: 1}"
    return resources


def _unknown(given: Mapping[str, Any], known: tuple[str, ...], prefix: str, problems: dict[str, str]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, 1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            problems[f"{prefix}{key}"] = f"unknown key; {advice}"


def _refusal(problems: Mapping[str, str]) -> InvalidArgument:
    lines = [f"{field}: {problem}" for field, problem in problems.items()]
    return InvalidArgument("; ".join(lines), fields=problems)

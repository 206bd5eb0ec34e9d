"""Protos of transforms to domain and back. A transform is kept as the job that does it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aios.data.v1 import transform_pb2
from aios.errors import InvalidArgument
from aios.names import DatasetName, DatasetVersionName, JobName, TransformName
from aios.scheduler.v1 import job_pb2
from services.data.transform_types import Type
from services.data.transforms import Spec

VARIABLE = "AIOS_JOB_TRANSFORM"
"""Of the job: its spec, the request that made it and the trace it belongs to, as JSON."""


@dataclass(frozen=True)
class Accepted:
    """A transform as its job keeps it."""

    name: TransformName
    spec: Spec
    request_id: str
    trace_id: str
    job: job_pb2.Job


def version_asked(project: str, text: str, field: str) -> DatasetVersionName:
    """The version that a name means; `latest` where it names none.

    Raises:
        InvalidArgument: it is no dataset of the project.
    """
    full = text if text.startswith("projects/") else f"projects/{project}/{text}"
    if DatasetName.matches(full):
        full += "/versions/latest"
    if not DatasetVersionName.matches(full) or DatasetVersionName.parse(full).project != project:
        raise InvalidArgument.of(
            field, f"must be datasets/{{dataset}} or datasets/{{dataset}}/versions/{{version}} of {project}"
        )
    return DatasetVersionName.parse(full)


def accepted(job: job_pb2.Job) -> Accepted | None:
    """A job's transform; None for a job that is none."""
    if not TransformName.matches(job.spec.owner) or VARIABLE not in job.spec.environment:
        return None
    name = TransformName.parse(job.spec.owner)
    if str(JobName(name.project, name.transform)) != job.name:
        return None
    try:
        stored = json.loads(job.spec.environment[VARIABLE])
        return Accepted(name, Spec.from_json(stored), str(stored["request_id"]), str(stored["trace_id"]), job)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # somebody's own job that looks like one


def spec_to_proto(spec: Spec) -> transform_pb2.TransformSpec:
    proto = transform_pb2.TransformSpec(
        type=spec.type, input=spec.input, inputs=spec.inputs, output=spec.output
    )
    proto.parameters.update(as_json(spec.parameters))
    return proto


def type_to_proto(name: str, each: Type) -> transform_pb2.TransformType:
    proto = transform_pb2.TransformType(
        type=name, version=each.version, summary=each.summary, inputs=each.inputs
    )
    for key, parameter in each.parameters.items():
        shown = proto.parameters.add(name=key, summary=parameter.summary, choices=parameter.choices)
        value = as_json({"": parameter.default})[""]
        if isinstance(value, bool):
            shown.default.bool_value = value
        elif isinstance(value, int | float):
            shown.default.number_value = value
        elif isinstance(value, str):
            shown.default.string_value = value
        elif isinstance(value, list):
            shown.default.list_value.extend(value)
        else:
            shown.default.struct_value.update(value)
    return proto


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def whole_numbers(value: Any) -> Any:
    """JSON has one number type: whole numbers come back as int, at any depth."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

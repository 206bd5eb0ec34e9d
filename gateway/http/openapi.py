"""The OpenAPI document of the JSON API, written from the same descriptors that the transcoder serves.

Nothing is said twice: paths and bodies come from the HTTP rules, types from the messages, texts from the comments of
the protos (`aios/comments.json`, which `make proto` writes, since descriptors carry none at run time). Methods that
take a stream are left out: they are for gRPC.
Source: OpenAPI 3.1; the ProtoJSON format, protobuf.dev/programming-guides/json.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor

from aios.common.v1 import options_pb2
from gateway.http import problems, streams
from gateway.http.rules import Binding, Routes, field_at
from gateway.http.schemas import WELL_KNOWN, Json, Schemas, behaves, is_map
from gateway.http.transcoder import DEADLINE_HEADER, DEADLINE_SECONDS_MAX

VERSION = "3.1.0"
ID_PATTERN = r"^[^/:]+$"
"""A segment of a path. What a service takes as an id is narrower and named in its error."""


def document(routes: Routes, release: str) -> Json:
    """The whole document."""
    comments: Mapping[str, str] = json.loads(files("aios").joinpath("comments.json").read_text())
    return _Writer(routes, Schemas(comments)).document(release)


class _Writer:
    def __init__(self, routes: Routes, schemas: Schemas) -> None:
        self._bindings = [binding for binding in routes if not binding.method.client_streaming]
        self._schemas = schemas

    def document(self, release: str) -> Json:
        paths: dict[str, Json] = {}
        services: dict[str, str] = {}
        for binding in self._bindings:
            service = binding.method.containing_service
            services[service.name] = self._schemas.comment(service.full_name)
            item = paths.setdefault(path_of(binding), {})
            item[binding.http_method.lower()] = self._operation(binding)
        return {
            "openapi": VERSION,
            "info": {
                "title": "AIOS",
                "version": release,
                "description": "Every method of the gRPC contract as HTTP and JSON, by the same names. Predictions are "
                "made by the Open Inference Protocol under /v2.",
            },
            "servers": [{"url": "/"}],
            "security": [{"token": []}],
            "tags": [{"name": name, "description": services[name]} for name in sorted(services)],
            "paths": dict(sorted(paths.items())),
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "A token of a project, from `aios login` or CreateToken.",
                    }
                },
                "parameters": {"Timeout": _timeout()},
                "responses": {"Problem": _problem_response()},
                "schemas": {"Problem": _problem()} | dict(sorted(self._schemas.components.items())),
            },
        }

    def _operation(self, binding: Binding) -> Json:
        method = binding.method
        options = method.GetOptions()
        permission = options.Extensions[options_pb2.permission]
        text = self._schemas.comment(method.full_name)
        problem = {"$ref": "#/components/responses/Problem"}
        operation: Json = {
            "operationId": self._operation_id(binding),
            "tags": [method.containing_service.name],
            "summary": text.partition(". ")[0].partition(": ")[0].rstrip(".") or method.name,
            "description": text,
            "x-aios-permission": permission,
            "parameters": [
                *self._path_parameters(binding),
                *self._query_parameters(binding),
                {"$ref": "#/components/parameters/Timeout"},
            ],
            "responses": {
                "200": self._answer(binding),
                **dict.fromkeys(("400", "401", "403", "404", "429"), problem),
                "default": problem,
            },
        }
        if binding.body:
            operation["requestBody"] = self._body(binding)
        return operation

    def _operation_id(self, binding: Binding) -> str:
        same = [other for other in self._bindings if other.rpc == binding.rpc]
        number = same.index(binding)
        name = f"{binding.method.containing_service.name}_{binding.method.name}"
        return f"{name}_{number + 1}" if number else name

    def _path_parameters(self, binding: Binding) -> Iterator[Json]:
        for name, field in _steps(binding):
            if field is not None:
                yield {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": f"Part of `{field}`.",
                    "schema": {"type": "string", "pattern": ID_PATTERN},
                }

    def _query_parameters(self, binding: Binding) -> Iterator[Json]:
        if binding.body != "*":
            yield from self._queries(binding, binding.method.input_type, "", "")

    def _queries(self, binding: Binding, message: Descriptor, proto: str, shown: str) -> Iterator[Json]:
        for field in message.fields:
            path, name = f"{proto}{field.name}", f"{shown}{field.json_name}"
            if path in binding.template.fields or path == binding.body or is_map(field):
                continue
            inner = field.message_type
            if inner is not None and inner.full_name not in WELL_KNOWN:
                # Deeper levels of a message that holds itself cannot be said in a query.
                if not field.is_repeated and path.count(".") < 2:
                    yield from self._queries(binding, inner, f"{path}.", f"{name}.")
                continue
            required = not proto and behaves(field, field_behavior_pb2.REQUIRED)
            yield {
                "name": name,
                "in": "query",
                **({"required": True} if required else {}),
                **({"description": text} if (text := self._schemas.comment(field.full_name)) else {}),
                "schema": self._schemas.field(field),
            }

    def _body(self, binding: Binding) -> Json:
        request = binding.method.input_type
        if binding.body == "*":
            # What the path says may be left out of the body.
            said = set(binding.template.fields)
            fields = [field for field in request.fields if field.name not in said]
            schema = self._schemas.object(request.full_name, fields)
        else:
            schema = self._schemas.field(field_at(request, binding.body))
        return {"content": {"application/json": {"schema": schema}}}

    def _answer(self, binding: Binding) -> Json:
        if binding.response_body:
            schema = self._schemas.field(field_at(binding.method.output_type, binding.response_body))
        else:
            schema = self._schemas.message(binding.method.output_type)
        if not binding.method.server_streaming:
            return {"description": "Done.", "content": {"application/json": {"schema": schema}}}
        end = {"type": "object", "properties": {"end": {"const": True}}, "required": ["end"]}
        failed = {
            "type": "object",
            "properties": {"error": {"$ref": "#/components/schemas/Problem"}},
            "required": ["error"],
        }
        records = {"schema": {"anyOf": [schema, end, failed]}}
        return {
            "description": "A stream: one record a line, or one event each with `Accept: text/event-stream`. The last "
            "record says how it ended; a stream without one was cut.",
            "content": {
                streams.JsonLines.media_type: records,
                streams.ServerSentEvents.media_type: records,
            },
        }


def path_of(binding: Binding) -> str:
    """The path of a rule as OpenAPI writes it: `/v1/projects/{project}/jobs/{job}:cancel`."""
    steps = [name if field is None else f"{{{name}}}" for name, field in _steps(binding)]
    return "/" + "/".join(steps) + (f":{binding.template.verb}" if binding.template.verb else "")


def _steps(binding: Binding) -> Iterator[tuple[str, str | None]]:
    """Each step of the path: its text, or the name and field of a parameter. One is named for what comes before it."""
    before = ""
    for segment in binding.template.segments:
        if segment.is_literal:
            before = segment.text
            yield segment.text, None
        else:
            yield before.removesuffix("s"), segment.field


def _timeout() -> Json:
    return {
        "name": DEADLINE_HEADER,
        "in": "header",
        "description": "Seconds that the caller will wait, such as `2.5`: 10 where unset; a stream has no end of its own.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": DEADLINE_SECONDS_MAX},
    }


def _problem_response() -> Json:
    return {
        "description": "What went wrong, by a `reason` that never changes, and what to do about it.",
        "headers": {
            "retry-after": {
                "description": "Seconds, where trying again can help.",
                "schema": {"type": "integer"},
            }
        },
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _problem() -> Json:
    text: Json = {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    members = {
        "type": text,
        "title": text,
        "status": {"type": "integer"},
        "detail": text | {"description": "For people: says what to change."},
        "instance": text | {"description": "Names the trace or the request."},
        "code": {"type": "string", "enum": sorted(code.name for code in problems.STATUS)},
        "reason": text | {"description": "For programs: stable."},
        "domain": text,
        "metadata": texts | {"description": "Every variable of the message."},
        "fields": texts | {"description": "What is wrong with which field of the request."},
    }
    return {
        "type": "object",
        "description": "An error. Source: RFC 9457.",
        "properties": members,
        "required": [name for name in members if name != "fields"],
    }

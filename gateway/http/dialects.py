"""JSON as another API spells it, for services whose proto names one (`aios.common.v1.dialect`).

MLflow's: names as in the proto, fields that nobody knows passed over, and errors with the `error_code` and `message` that
its clients read, beside our own members.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from aios.errors import AiosError, Code, InvalidArgument
from gateway.http import json_values
from gateway.http.rules import Binding

MLFLOW = "mlflow"
ERROR_CODES: Mapping[Code, str] = {
    Code.NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    Code.ALREADY_EXISTS: "RESOURCE_ALREADY_EXISTS",
    Code.INVALID_ARGUMENT: "INVALID_PARAMETER_VALUE",
    Code.FAILED_PRECONDITION: "INVALID_STATE",
    Code.PERMISSION_DENIED: "PERMISSION_DENIED",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.RESOURCE_EXHAUSTED: "REQUEST_LIMIT_EXCEEDED",
    Code.UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    Code.DEADLINE_EXCEEDED: "TEMPORARILY_UNAVAILABLE",
    Code.UNIMPLEMENTED: "NOT_IMPLEMENTED",
}
"""MLflow's name of each kind of error. Source: its `error_codes`."""


def build(
    binding: Binding, path_values: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes
) -> Message:
    """The request message.

    Raises:
        InvalidArgument: it is no JSON object, or has a value of the wrong type.
    """
    tree: dict[str, Any] = {}
    if binding.body and body.strip():
        value = json_values.parse(body)
        if not isinstance(value, dict):
            raise InvalidArgument("the body must be a JSON object")
        tree = value
    fields = binding.method.input_type.fields_by_name
    for key, text in query:
        if key in fields and fields[key].is_repeated:
            tree.setdefault(key, []).append(text)
        else:
            tree[key] = text
    tree |= path_values
    message = binding.request_class()
    try:
        json_format.ParseDict(tree, message, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise InvalidArgument(str(error)) from error
    return message


def encoded(message: Message) -> bytes:
    """The answer's body."""
    tree = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


def problem(error: AiosError) -> dict[str, str]:
    """What its clients read of an error."""
    code = ERROR_CODES.get(error.code, "INTERNAL_ERROR")
    return {"error_code": code, "message": error.message}

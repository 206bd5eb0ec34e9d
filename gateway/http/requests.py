"""An HTTP request's path, query and body become one gRPC request message."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from aios.errors import InvalidArgument
from gateway.http import json_values
from gateway.http.json_values import Mistakes
from gateway.http.rules import Binding, field_at


def build(
    binding: Binding, path_values: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes
) -> Message:
    """The request message.

    Args:
        path_values: Field paths in proto spelling, from `Routes.find`.
        query: Decoded pairs, in order; a repeated field has several.

    Raises:
        InvalidArgument: with every field that is wrong.
    """
    mistakes = Mistakes()
    tree = _from_body(binding, body, mistakes)
    _add_query(tree, binding, path_values, query, mistakes)
    mistakes.check()
    for path, value in path_values.items():
        _add_path_value(tree, binding, path, value, mistakes)
    mistakes.check()
    message = binding.request_class()
    try:
        json_format.ParseDict(tree, message)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise InvalidArgument(str(error)) from error
    return message


def _from_body(binding: Binding, body: bytes, mistakes: Mistakes) -> dict[str, Any]:
    if not body.strip():
        return {}
    request = binding.method.input_type
    if not binding.body:
        raise InvalidArgument(
            f"{binding.http_method} {binding.template.text} takes no body: use query parameters"
        )
    value = json_values.parse(body)
    if binding.body == "*":
        tree = json_values.read_message(value, request, "", mistakes)
        return tree if isinstance(tree, dict) else {}
    field = field_at(request, binding.body)
    if value is None:
        return {}
    return {field.json_name: json_values.read_field(value, field, field.name, mistakes)}


def _add_query(
    tree: dict[str, Any],
    binding: Binding,
    path_values: Mapping[str, str],
    query: Iterable[tuple[str, str]],
    mistakes: Mistakes,
) -> None:
    for key, text in query:
        steps = _resolve(binding, key, mistakes)
        if not steps:
            continue
        names = ".".join(step.name for step in steps)
        field = steps[-1]
        if names in path_values:
            mistakes.add(key, "is said by the path: leave it out of the query")
        elif binding.body == "*" or names.split(".")[0] == binding.body:
            mistakes.add(key, "belongs in the body")
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            mistakes.add(key, "a map cannot be said in a query")
        else:
            holder = _holder(tree, steps)
            value = json_values.read_field(_wrapped(_typed(text, field), field), field, key, mistakes)
            if field.is_repeated:
                holder.setdefault(field.json_name, []).extend(value)
            elif field.json_name in holder:
                mistakes.add(key, "given twice")
            else:
                holder[field.json_name] = value


def _resolve(binding: Binding, key: str, mistakes: Mistakes) -> list[FieldDescriptor]:
    """The fields that a query parameter such as `spec.max_restarts` walks through; none if it is wrong."""
    message = binding.method.input_type
    steps: list[FieldDescriptor] = []
    names = key.split(".")
    for position, name in enumerate(names):
        field = json_values.fields_of(message).get(name)
        if field is None:
            mistakes.add(
                key[:80], json_values.unknown(name, message).replace("unknown field", "unknown parameter", 1)
            )
            return []
        steps.append(field)
        if position < len(names) - 1:
            if field.message_type is None or field.is_repeated:
                mistakes.add(key[:80], f"{name} has no fields of its own")
                return []
            message = field.message_type
    return steps


def _holder(tree: dict[str, Any], steps: list[FieldDescriptor]) -> dict[str, Any]:
    """The object in `tree` that holds the last of `steps`, made where it is missing."""
    for step in steps[:-1]:
        tree = tree.setdefault(step.json_name, {})
    return tree


def _typed(text: str, field: FieldDescriptor) -> Any:
    """Query text in the JSON type that the field needs; numbers stay text, which JSON allows for them."""
    is_bool = field.type == FieldDescriptor.TYPE_BOOL or (
        field.message_type is not None and field.message_type.full_name == "google.protobuf.BoolValue"
    )
    if is_bool and text in ("true", "false"):
        return text == "true"
    if field.enum_type is not None and text.isdecimal() and len(text) < 10:
        return int(text)
    return text


def _wrapped(value: Any, field: FieldDescriptor) -> Any:
    return [value] if field.is_repeated else value


def _add_path_value(
    tree: dict[str, Any], binding: Binding, path: str, value: str, mistakes: Mistakes
) -> None:
    steps: list[FieldDescriptor] = []
    message = binding.method.input_type
    for name in path.split("."):
        steps.append(message.fields_by_name[name])
        message = steps[-1].message_type or message
    holder = _holder(tree, steps)
    said = holder.setdefault(steps[-1].json_name, value)
    if said not in (value, ""):
        mistakes.add(path, f"is {said!r} in the body and {value!r} in the path")
    holder[steps[-1].json_name] = value

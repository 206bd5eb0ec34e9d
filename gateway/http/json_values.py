"""Strict reading of JSON into the shape that `json_format` takes, with every mistake named by its field path.

`json_format` stops at the first mistake and names it in its own words; a caller needs all of them, each with the
likely remedy. Nothing is guessed: an unknown field, a wrong type or a value out of range is a mistake, never dropped.
Source: the ProtoJSON format, protobuf.dev/programming-guides/json.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from aios.errors import InvalidArgument

DEPTH_MAX = 64  # nested messages; protobuf itself reads 100, and no request of ours needs ten
MISTAKES_MAX = 20  # a body of a million unknown keys must not become an error of a million lines

_F = FieldDescriptor
_INTEGERS = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, 2**64 - 1)),
}
_FLOAT_MAX = {_F.TYPE_FLOAT: 3.4028234663852886e38, _F.TYPE_DOUBLE: math.inf}
_WRAPPERS = {f"google.protobuf.{kind}Value" for kind in ("Bool", "Int32", "UInt32", "Int64", "UInt64")} | {
    f"google.protobuf.{kind}Value" for kind in ("Float", "Double", "String", "Bytes")
}
_OWN_JSON = {
    f"google.protobuf.{kind}" for kind in ("Timestamp", "Duration", "Struct", "Value", "ListValue", "Any")
}
_FIELD_MASK = "google.protobuf.FieldMask"


class Mistakes:
    """Field path to what is wrong there, collected over a whole request."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    @property
    def full(self) -> bool:
        """Whether looking for more is of no use."""
        return len(self._found) >= MISTAKES_MAX

    def add(self, path: str, problem: str) -> None:
        if not self.full:
            self._found.setdefault(path, problem)

    def check(self) -> None:
        """
        Raises:
            InvalidArgument: if there was any.
        """
        if self._found:
            message = "; ".join(
                f"{path}: {problem}" if path else problem for path, problem in self._found.items()
            )
            raise InvalidArgument(
                message, fields={path or "body": problem for path, problem in self._found.items()}
            )


def parse(body: bytes) -> Any:
    """JSON text to values.

    Raises:
        InvalidArgument: saying where it stops being JSON.
    """
    try:
        return json.loads(
            body.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"the body is not UTF-8 at byte {error.start}", reason="MALFORMED_JSON"
        ) from None
    except RecursionError:
        raise InvalidArgument("the body is nested too deep", reason="MALFORMED_JSON") from None
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}", reason="MALFORMED_JSON") from None


def read_message(value: Any, message: Descriptor, path: str, mistakes: Mistakes, depth: int = 0) -> Any:
    """`value` as `json_format` takes it, its keys in the JSON spelling; what is wrong goes to `mistakes`."""
    if message.full_name in _WRAPPERS:
        return _read_one(value, message.fields_by_name["value"], path, mistakes, depth)
    if message.full_name == _FIELD_MASK and isinstance(value, str):
        value = re.sub(r"_([a-z0-9])", lambda letter: letter[1].upper(), value)
    if message.full_name in _OWN_JSON or message.full_name == _FIELD_MASK:
        return _read_own(value, message, path, mistakes)
    if depth >= DEPTH_MAX:
        mistakes.add(path, f"nested deeper than {DEPTH_MAX} levels")
        return {}
    if not isinstance(value, Mapping):
        mistakes.add(path, f"must be an object, not {_kind(value)}")
        return {}
    result: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    for key, item in value.items():
        if mistakes.full:
            break
        field = fields_of(message).get(key)
        where = join(path, key)
        if field is None:
            mistakes.add(where, unknown(key, message))
        elif field.json_name in result:
            mistakes.add(where, "given twice, in two spellings")
        elif item is None and not _takes_null(field):
            continue
        else:
            oneof = field.containing_oneof
            if oneof is not None and oneof.name in chosen:
                mistakes.add(where, f"excludes {chosen[oneof.name]}: give one of them")
            elif oneof is not None:
                chosen[oneof.name] = key
            result[field.json_name] = read_field(item, field, where, mistakes, depth)
    return result


def read_field(value: Any, field: FieldDescriptor, path: str, mistakes: Mistakes, depth: int = 0) -> Any:
    """The value of a field, repeated and map fields included."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _read_map(value, field.message_type, path, mistakes, depth)
    if not field.is_repeated:
        return _read_one(value, field, path, mistakes, depth)
    if not isinstance(value, list):
        mistakes.add(path, f"must be an array, not {_kind(value)}")
        return []
    return [_read_one(item, field, f"{path}[{i}]", mistakes, depth) for i, item in enumerate(value)]


def join(path: str, key: str) -> str:
    """The path of a field inside `path`."""
    return f"{path}.{key[:80]}" if path else key[:80]


@cache
def fields_of(message: Descriptor) -> Mapping[str, FieldDescriptor]:
    """A message's fields in both spellings: `job_id` and `jobId`."""
    return {name: field for field in message.fields for name in (field.name, field.json_name)}


def unknown(key: str, message: Descriptor) -> str:
    """What to say about a field that `message` does not have: the likely one, one level down first."""
    spelling = "name" if "_" in key or key.islower() else "json_name"
    names = [getattr(field, spelling) for field in message.fields]
    for field in message.fields:
        if field.message_type is not None and not field.is_repeated and key in fields_of(field.message_type):
            return f"unknown field: did you mean {getattr(field, spelling)}.{key}?"
    if close := get_close_matches(key[:80], names, 1):
        return f"unknown field: did you mean {close[0]}?"
    return f"unknown field; there are: {', '.join(names)}" if names else "unknown field: there are none"


def _read_map(value: Any, entry: Descriptor, path: str, mistakes: Mistakes, depth: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        mistakes.add(path, f"must be an object, not {_kind(value)}")
        return {}
    result: dict[str, Any] = {}
    for key, item in value.items():
        where = join(path, key)
        key_field = entry.fields_by_name["key"]
        as_value = key == "true" if key_field.type == _F.TYPE_BOOL and key in ("true", "false") else key
        _read_one(as_value, key_field, where, mistakes, depth)
        result[key] = _read_one(item, entry.fields_by_name["value"], where, mistakes, depth)
    return result


def _read_one(value: Any, field: FieldDescriptor, path: str, mistakes: Mistakes, depth: int) -> Any:
    if field.message_type is not None:
        return read_message(value, field.message_type, path, mistakes, depth + 1)
    if field.type in _INTEGERS:
        problem = _integer_problem(value, *_INTEGERS[field.type])
    elif field.enum_type is not None:
        problem = _enum_problem(value, field.enum_type)
    else:
        problem = _SCALARS[field.type](value)
    if problem:
        mistakes.add(path, problem)
    return value


def _read_own(value: Any, message: Descriptor, path: str, mistakes: Mistakes) -> Any:
    """Types with a JSON form of their own: `json_format` says whether it is one."""
    try:
        json_format.ParseDict(value, GetMessageClass(message)())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        hint = _FORMS.get(message.name) or str(error)
        mistakes.add(path, f"must be {hint}, not {_shown(value)}" if message.name in _FORMS else hint)
    return value


_FORMS = {
    "Timestamp": "an RFC 3339 time such as 2025-01-31T12:00:00Z",
    "Duration": "seconds with an s, such as 1.5s",
    "FieldMask": "field paths separated by commas",
    "Struct": "an object",
    "ListValue": "an array",
}


def _integer_problem(value: Any, low: int, high: int) -> str | None:
    number = value
    as_text = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value)
    if as_text or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        return f"must be an integer, not {_shown(value)}"
    return None if low <= number <= high else f"must be {low} to {high}, not {_shown(value)}"


def _enum_problem(value: Any, enum: EnumDescriptor) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None if value in enum.values_by_number else f"{value} is no {enum.name}"
    names = list(enum.values_by_name)
    if not isinstance(value, str):
        return f"must be one of {', '.join(names)}, not {_kind(value)}"
    if value in enum.values_by_name:
        return None
    close = get_close_matches(value[:80].upper(), names, 1) or [
        name for name in names if name.endswith(f"_{value.upper()}")
    ]
    return f"{_shown(value)} is no {enum.name}: " + (
        f"did you mean {close[0]}?" if close else f"use {', '.join(names)}"
    )


def _float_problem(kind: int) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        number = value
        if value in ("NaN", "Infinity", "-Infinity"):
            return None
        if isinstance(value, str):
            try:
                number = float(value) if re.fullmatch(r"-?[0-9.]+([eE][+-]?[0-9]+)?", value) else None
            except ValueError:
                number = None
        if not isinstance(number, int | float) or isinstance(number, bool):
            return f"must be a number, not {_shown(value)}"
        return (
            None
            if abs(number) <= _FLOAT_MAX[kind] and abs(number) != math.inf
            else f"{_shown(value)} is too large"
        )

    return problem


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be a string, not {_kind(value)}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no text"
    return None


def _bytes_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be a string in base64, not {_kind(value)}"
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return "must be base64"
    return None


_SCALARS: dict[int, Callable[[Any], str | None]] = {
    _F.TYPE_BOOL: lambda value: (
        None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"
    ),
    _F.TYPE_STRING: _text_problem,
    _F.TYPE_BYTES: _bytes_problem,
    _F.TYPE_FLOAT: _float_problem(_F.TYPE_FLOAT),
    _F.TYPE_DOUBLE: _float_problem(_F.TYPE_DOUBLE),
}


def _takes_null(field: FieldDescriptor) -> bool:
    """Whether null is a value of this field instead of its absence."""
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")


def _shown(value: Any) -> str:
    if isinstance(value, list | Mapping) or value is None:
        return _kind(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is larger than any number here")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is given twice in one object")
    for key in result:
        if not key.isascii():
            key.encode()  # half of a pair is no text: an error that names the key could not be sent
    return result

"""JSON schemas of messages, as the ProtoJSON format writes and reads them.

Source: protobuf.dev/programming-guides/json; JSON Schema 2020-12.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Json = dict[str, Any]
_F = FieldDescriptor


class Schemas:
    """Makes schemas, and keeps those of messages and enums under `components` for others to refer to.

    Fields are never `required`: defaults are left out of answers, and what a request needs is said by its error.

    Args:
        comments: By full name.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Json] = {}

    def comment(self, full_name: str) -> str:
        """What the proto says about a name."""
        return self._comments.get(full_name, "")

    def message(self, message: Descriptor) -> Json:
        """Of a message: a reference, unless JSON has a form of its own for it."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        name = message.full_name
        if name not in self.components:
            self.components[name] = {}  # a message may hold itself
            self.components[name] = self.object(name, message.fields)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, name: str, fields: Iterable[FieldDescriptor]) -> Json:
        """Of some fields of a message."""
        return {
            "type": "object",
            "description": self.comment(name),
            "properties": {field.json_name: self._property(field) for field in fields},
        }

    def _property(self, field: FieldDescriptor) -> Json:
        schema = self.field(field)
        if text := self.comment(field.full_name):
            schema["description"] = text
        if behaves(field, field_behavior_pb2.OUTPUT_ONLY):
            schema["readOnly"] = True
        return schema

    def field(self, field: FieldDescriptor) -> Json:
        """Of one field, repeated and map fields included."""
        if is_map(field):
            assert field.message_type is not None
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._one(value)}
        return {"type": "array", "items": self._one(field)} if field.is_repeated else self._one(field)

    def _one(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(_SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Json:
        if enum.full_name not in self.components:
            values = [
                f"- `{value.name}`: {self.comment(f'{enum.full_name}.{value.name}')}" for value in enum.values
            ]
            self.components[enum.full_name] = {
                "type": "string",
                "enum": [value.name for value in enum.values],
                "description": "\n".join([self.comment(enum.full_name), "", *values]),
            }
        return {"$ref": f"#/components/schemas/{enum.full_name}"}


def behaves(field: FieldDescriptor, behavior: Any) -> bool:
    """Whether the proto says `REQUIRED`, `OUTPUT_ONLY` ... of a field."""
    behaviors: Any = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]  # type: ignore[index]
    return behavior in behaviors


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map, which descriptors show as a list of entries."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _integer(form: str, *, text: bool) -> Json:
    # 64 bits are text in answers, since many readers of JSON lose digits; requests may say either.
    return {"type": ["string", "integer"] if text else "integer", "format": form}


_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_BYTES = {"type": "string", "contentEncoding": "base64"}
_SCALARS: dict[int, Json] = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), _integer("int32", text=False)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), _integer("uint32", text=False) | {"minimum": 0}),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), _integer("int64", text=True)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), _integer("uint64", text=True)),
    **dict.fromkeys((_F.TYPE_FLOAT, _F.TYPE_DOUBLE), _NUMBER),
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: _BYTES,
}
WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field paths separated by commas."},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
}
"""Messages with a JSON form of their own, as far as the contract uses them."""

"""Every message of the contract with every field set, always the same: what the golden vectors are made of."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

REPOSITORY = Path(__file__).resolve().parents[2]
DEPTH_MAX = 3
"""A message inside a message inside a message; deeper ones are left out, as some hold themselves."""
NEW_VALUE = 9_999
"""That no enum has today."""
LATER = bytes([0xA2, 0xA3, 0x09]) + bytes([3]) + b"new"
"""On the wire: field 18,996, which no message has, of three bytes."""
WELL_KNOWN = "google.protobuf."
_JSON: dict[str, Any] = {
    f"{WELL_KNOWN}Struct": {"number": 1.5, "list": [True, None, "text"]},
    f"{WELL_KNOWN}Value": ["text", 2.5],
}


def files() -> list[FileDescriptor]:
    """The contract's files, as the code has them."""
    protos = sorted((REPOSITORY / "protos").glob("aios/*/v*/*.proto"))
    names = [".".join(proto.relative_to(REPOSITORY / "protos").with_suffix("").parts) for proto in protos]
    return [import_module(f"{name}_pb2").DESCRIPTOR for name in names]


def messages() -> Iterator[Message]:
    """One of each message that is not nested in another."""
    for file in files():
        for descriptor in file.message_types_by_name.values():
            yield filled(descriptor)


def filled(descriptor: Descriptor, depth: int = 1) -> Message:
    """A message with a value in every field. Of a oneof the last one stays."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.message_type is not None:
            _fill_message(message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend([_scalar(field), _scalar(field)])
        else:
            setattr(message, field.name, _scalar(field))
    return message


def _fill_message(message: Message, field: FieldDescriptor, depth: int) -> None:
    kind = field.message_type
    assert kind is not None
    if kind.GetOptions().map_entry:
        key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
        held = getattr(message, field.name)
        if value.message_type is None:
            held[_scalar(key)] = _scalar(value)
        elif depth < DEPTH_MAX:
            held[_scalar(key)].CopyFrom(filled(value.message_type, depth + 1))
    elif kind.full_name in _JSON:
        # Filled as others are it would have no end: one may hold others.
        given = json_format.ParseDict(_JSON[kind.full_name], message_factory.GetMessageClass(kind)())
        if field.is_repeated:
            getattr(message, field.name).append(given)
        else:
            getattr(message, field.name).CopyFrom(given)
    elif depth < DEPTH_MAX or kind.full_name.startswith(WELL_KNOWN):
        inner = filled(kind, depth + 1)
        if field.is_repeated:
            getattr(message, field.name).append(inner)
        else:
            getattr(message, field.name).CopyFrom(inner)


def _scalar(field: FieldDescriptor) -> object:
    """A value that is not the default and that differs from field to field."""
    if field.enum_type is not None:
        return _last(field.enum_type)
    return {
        FieldDescriptor.CPPTYPE_STRING: (
            f"{field.name}-{field.number}".encode()
            if field.type == FieldDescriptor.TYPE_BYTES
            else f"{field.name}-{field.number}"
        ),
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: field.number + 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: field.number + 0.5,
    }.get(field.cpp_type, field.number)


def _last(kind: EnumDescriptor) -> int:
    return int(kind.values[-1].number)

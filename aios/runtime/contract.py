"""What the protos say of each method: permission, which field names the resource, whether a retry is safe."""

from dataclasses import dataclass
from functools import cache
from re import findall
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from aios.common.v1 import options_pb2


@dataclass(frozen=True)
class Method:
    """One RPC, as its proto declares it."""

    path: str
    permission: str
    resources: tuple[str, ...]
    """Dotted request fields that the HTTP path names, such as `name` or `member.name`."""
    idempotent: bool
    """Safe to send again when it is not known whether it took effect."""


@cache
def method(path: str) -> Method | None:
    """The declaration of `/package.Service/Method`, or None for one that no loaded proto knows."""
    service, _, name = path.removeprefix("/").partition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None
    return _read(path, found)


def methods_of(service: str) -> list[str]:
    """Names of the methods of a service, as its proto lists them."""
    return [method.name for method in descriptor_pool.Default().FindServiceByName(service).methods]


def read_field(message: Message, dotted: str) -> str:
    """The text at a dotted field path."""
    value: object = message
    for part in dotted.split("."):
        value = getattr(value, part)
    return str(value)


def has_request_id(request: Message) -> bool:
    """Whether the caller made this request safe to repeat."""
    return bool(getattr(request, "request_id", ""))


def _read(path: str, found: MethodDescriptor) -> Method:
    options = found.GetOptions()
    rule: Any = options.Extensions[annotations_pb2.http]  # type: ignore[index]
    template = getattr(rule, rule.WhichOneof("pattern") or "get")
    return Method(
        path=path,
        permission=options.Extensions[options_pb2.permission],
        resources=tuple(findall(r"\{([\w.]+)", template)),
        idempotent=options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN,
    )

"""The HTTP routes of the API, read from the `google.api.http` rules of method descriptors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aios.common.v1 import options_pb2
from gateway.http.problems import MethodNotAllowed, PathNotFound
from gateway.http.templates import PathTemplate

LAST_RECORDS = ("error", "end")
"""Keys of a stream's last record: no message of a stream may have a field named so."""


@dataclass(frozen=True)
class Binding:
    """One way to call one method over HTTP."""

    http_method: str
    template: PathTemplate
    method: MethodDescriptor
    body: str
    """Request field that the body holds; `*` for the whole request, empty for none."""
    response_body: str
    """Response field that the answer holds; empty for the whole response."""

    @cached_property
    def rpc(self) -> str:
        """The gRPC path: `/aios.scheduler.v1.SchedulerService/GetJob`."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @cached_property
    def request_class(self) -> type[Message]:
        return GetMessageClass(self.method.input_type)

    @cached_property
    def response_class(self) -> type[Message]:
        return GetMessageClass(self.method.output_type)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Fields of the response that the answer's headers carry too, with the header of each."""
        fields = self.method.output_type.fields
        named = {field.name: field.GetOptions().Extensions[options_pb2.header] for field in fields}
        return {name: header for name, header in named.items() if header}

    @cached_property
    def dialect(self) -> str:
        """How its JSON is spelled: `gateway.http.dialects`; empty for the standard form."""
        return str(self.method.containing_service.GetOptions().Extensions[options_pb2.dialect])

    @property
    def domain(self) -> str:
        """Which service answers: `scheduler`, `data` ..."""
        return str(self.method.containing_service.full_name).split(".")[1]


class Routes:
    """Every binding of some services, found by method and path."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        """
        Raises:
            ValueError: for a rule that cannot be served, naming the method.
        """
        bindings = [binding for service in services for binding in _bindings(service)]
        self._bindings = sorted(bindings, key=lambda b: (b.template.rank, b.http_method))
        seen: dict[tuple[str, str], Binding] = {}
        for binding in self._bindings:
            shape = (binding.http_method, _shape(binding.template))
            if shape in seen:
                raise ValueError(f"{binding.rpc} and {seen[shape].rpc} have the same route {' '.join(shape)}")
            seen[shape] = binding

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._bindings)

    def find(self, http_method: str, path: str) -> tuple[Binding, dict[str, str]]:
        """The binding of a request and what its path says.

        Args:
            path: As sent, still percent-encoded, without the query.

        Raises:
            PathNotFound: No rule has this path.
            MethodNotAllowed: The path exists, with other methods.
        """
        allowed: set[str] = set()
        for binding in self._bindings:
            values = binding.template.match(path)
            if values is None:
                continue
            if binding.http_method == http_method:
                return binding, values
            allowed.add(binding.http_method)
        if allowed:
            allow = ", ".join(sorted(allowed))
            raise MethodNotAllowed(f"{path} does not take {http_method}: use {allow}", allow=allow)
        raise PathNotFound(f"the API has no path {path[:200]}", path=path[:200])


def _bindings(service: ServiceDescriptor) -> Iterator[Binding]:
    for method in service.methods:
        rule: HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]
        for one in (rule, *rule.additional_bindings):
            if one.WhichOneof("pattern") is not None:
                yield _binding(method, one)


def _binding(method: MethodDescriptor, rule: HttpRule) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        http_method, path = rule.custom.kind, rule.custom.path
    else:
        http_method, path = str(kind).upper(), getattr(rule, str(kind))
    try:
        template = PathTemplate.parse(path)
        for name in template.fields:
            if not is_text(field_at(method.input_type, name)):
                raise ValueError(f"path field {name} is no string")
        if rule.body not in ("", "*"):
            field_at(method.input_type, rule.body)
        if rule.response_body:
            field_at(method.output_type, rule.response_body)
        if method.server_streaming and set(LAST_RECORDS) & set(method.output_type.fields_by_name):
            raise ValueError(
                f"{method.output_type.name} has a field named like a last record: {LAST_RECORDS}"
            )
    except (ValueError, KeyError) as error:
        raise ValueError(f"{method.full_name}: {error}") from error
    return Binding(http_method, template, method, rule.body, rule.response_body)


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    """The field that a dotted path of proto names leads to.

    Raises:
        KeyError: naming the step that does not exist.
    """
    head, _, rest = path.partition(".")
    field = message.fields_by_name[head]
    if not rest:
        return field
    if field.message_type is None or field.is_repeated:
        raise KeyError(path)
    return field_at(field.message_type, rest)


def is_text(field: FieldDescriptor) -> bool:
    """Whether a field is one string."""
    return field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _shape(template: PathTemplate) -> str:
    return "/".join(s.text for s in template.segments) + f":{template.verb}"

"""Everything that can be called, as the descriptors and the running servers say it; nothing here is a list by hand."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from tritonclient.grpc import service_pb2 as predict_pb2

import aios
from aios.runtime import contract, roles
from aios.runtime.server import BUILT_IN
from gateway import activation, inference_server
from gateway import app as gateway_app
from gateway.http.rules import Binding, Routes
from gateway.telemetry import servicer as telemetry

NOBODY = "none"
"""The id of every resource that these tests ask for: there is none of that name."""
FOREIGN = {**BUILT_IN, **telemetry.FOREIGN, **inference_server.FOREIGN, **activation.FOREIGN}
"""Permissions of services whose protos are not ours."""
FOREIGN_FILES = (
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
    trace_service_pb2.DESCRIPTOR,
    predict_pb2.DESCRIPTOR,
)
SERVER_METHODS = ("ServerLive", "ServerReady", "ServerMetadata")
"""What the gateway answers of the inference protocol; the rest belongs to replicas, or is closed."""


@dataclass(frozen=True)
class Rpc:
    """One method, and how to ask for it harmlessly."""

    method: MethodDescriptor
    permission: str
    process: str
    """Which process serves it: `scheduler`, `gateway` ..."""

    def __str__(self) -> str:
        return f"{self.method.containing_service.name}.{self.method.name}"

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def resources(self) -> tuple[str, ...]:
        declared = contract.method(self.path)
        return declared.resources if declared else ()

    def request(self, project: str) -> Message:
        """A well-formed request about something that does not exist in a project."""
        message = GetMessageClass(self.method.input_type)()
        for field, value in self.names(project).items():
            holder: Any = message
            *path, last = field.split(".")
            for step in path:
                holder = getattr(holder, step)
            setattr(holder, last, value)
        return message

    def names(self, project: str) -> dict[str, str]:
        """The resource names of `request`, by field."""
        bindings = bindings_of(self.path)
        return path_values(bindings[0], project) if bindings else {}

    @property
    def lies_in_a_project(self) -> bool:
        return any(name.startswith("projects/") for name in self.names("p").values())


def path_values(binding: Binding, project: str) -> dict[str, str]:
    """A value for each field in a rule's path."""
    values: dict[str, str] = {}
    for field in binding.template.fields:
        steps = [segment.text for segment in binding.template.segments if segment.field == field]
        named = [NOBODY if step in ("*", "**") else step for step in steps]
        if named[0] == "projects":
            named[1] = project
        values[field] = "/".join(named)
    return values


@cache
def contract_services() -> tuple[ServiceDescriptor, ...]:
    """Every service of every generated package of ours, found on disk."""
    found: list[ServiceDescriptor] = []
    for module in pkgutil.walk_packages(aios.__path__, "aios."):
        if module.name.endswith("_pb2") and ".v" in module.name:
            file = importlib.import_module(module.name).DESCRIPTOR
            found.extend(file.services_by_name.values())
    return tuple(found)


@cache
def routes() -> Routes:
    return Routes(contract_services())


@cache
def bindings_of(path: str) -> tuple[Binding, ...]:
    return tuple(binding for binding in routes() if binding.rpc == path)


@cache
def rpcs() -> tuple[Rpc, ...]:
    """Every method that a server of ours answers."""
    return (*_of_the_contract(), *_of_others())


def _of_the_contract() -> Iterator[Rpc]:
    for service in contract_services():
        for method in service.methods:
            declared = contract.method(f"/{service.full_name}/{method.name}")
            assert declared is not None
            domain = service.full_name.split(".")[1]
            yield Rpc(method, declared.permission, gateway_app.SERVICE_OF_DOMAIN[domain])


def _of_others() -> Iterator[Rpc]:
    for file in FOREIGN_FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                if service.full_name == inference_server.SERVICE and method.name not in SERVER_METHODS:
                    continue
                # As the default pool has it: reflection and tests must speak of the same descriptors.
                known = descriptor_pool.Default().FindMethodByName(method.full_name)
                yield Rpc(known, FOREIGN[service.full_name], "gateway")


def roles_with(permission: str) -> frozenset[str]:
    """The roles that may do something, as the one table says it."""
    return frozenset(role for role, can in roles.ROLES.items() if permission in can)

"""Holds predictions for revisions at zero, and sees to it that they are woken at once.

Envoy asks here, by its filter for external authorization, before it sends on a request for a revision without a
replica, and the answer is what the request waits for: nothing polls, and a held request costs nothing. Everything is
let through in the end. Where nobody can be asked, Envoy itself tries again and again until a replica is there
(`gateway.envoy.retries.wake`), and counts these tries, which wake it too.

Source: Envoy's envoy/service/auth/v3/external_auth.proto, of which this reads one field.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from aios.runtime.gate import aside
from gateway.envoy.counts import Key
from gateway.envoy.routes import HELD_FIELDS

SERVICE = "envoy.service.auth.v3.Authorization"
FOREIGN = {SERVICE: "traffic.report"}
"""The permission of a service whose proto is not ours: Envoy itself asks, and nobody else may."""
HOLD_SECONDS = 25.0
"""A call of ours ends within 30 s. Who has waited for so long goes on to wait in Envoy."""
LET_THROUGH = b""
"""An empty CheckResponse: its status is OK."""


class Revision(NamedTuple):
    """Whom a request waits for."""

    project: str
    deployment: str
    revision: str


class Activator:
    """Who waits for what. Add it to the server that Envoy asks, and tell it what sleeps."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """Set when a request begins to wait; whoever reports it clears it."""
        self._asleep: frozenset[Revision] = frozenset()
        self._changed = asyncio.Condition()
        self._waiting: Counter[Key] = Counter()
        self._counted: Counter[Key] = Counter()

    async def let_sleep(self, revisions: Collection[Revision]) -> None:
        """Hold what comes for these from now on, and let go of all others."""
        self._asleep = frozenset(revisions)
        async with self._changed:
            self._changed.notify_all()

    @property
    def asleep(self) -> frozenset[Revision]:
        """Whose requests are held."""
        return self._asleep

    async def hold(self, key: Key) -> None:
        """Wait until the revision answers, or for as long as one may wait here."""
        revision = Revision(key.project, key.deployment, key.revision)
        if revision not in self._asleep:
            return
        self._waiting[key] += 1
        self.asked.set()
        try:
            async with asyncio.timeout(HOLD_SECONDS), self._changed:
                await self._changed.wait_for(lambda: revision not in self._asleep)
        except TimeoutError:
            pass
        finally:
            self._waiting[key] -= 1

    def count(self) -> Counter[Key]:
        """How often requests were found waiting, ever growing: who still waits is counted at each look."""
        self._counted += self._waiting
        return self._counted


def add_to(activator: Activator, server: Any) -> None:
    """Add the method that Envoy calls to a server."""

    async def check(request: Any, context: object) -> bytes:
        told = request.attributes.context_extensions
        with aside():
            await activator.hold(Key(*(told[field] for field in HELD_FIELDS)))
        return LET_THROUGH

    method: Any = grpc.unary_unary_rpc_method_handler(check, _request_type().FromString)
    handler = grpc.method_handlers_generic_handler(SERVICE, {"Check": method})
    server.add_generic_rpc_handlers((handler,))


def _request_type() -> Any:
    """CheckRequest with the one field that is read. Envoy's own protos would replace OpenTelemetry's in this process."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="gateway/activation.proto", package=SERVICE.rpartition(".")[0], syntax="proto3"
    )
    package = f".{file.package}"
    attributes = file.message_type.add(name="AttributeContext")
    entry = attributes.nested_type.add(name="ContextExtensionsEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    attributes.field.add(
        name="context_extensions",
        number=10,
        type=field.TYPE_MESSAGE,
        type_name=f"{package}.AttributeContext.ContextExtensionsEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="CheckRequest").field.add(
        name="attributes",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=f"{package}.AttributeContext",
        label=field.LABEL_OPTIONAL,
    )
    file.message_type.add(name="CheckResponse")
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    service.method.add(
        name="Check", input_type=f"{package}.CheckRequest", output_type=f"{package}.CheckResponse"
    )
    pool = descriptor_pool.Default()
    pool.Add(file)  # the same again changes nothing
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.CheckRequest"))

"""The gRPC server of every process: our interceptors around every method, health, reflection, drain."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from aios.errors import Unauthenticated, Unavailable
from aios.runtime import contract, roles
from aios.runtime.audit import Listener
from aios.runtime.interceptors import Chain
from aios.runtime.peers import Peer
from aios.runtime.status import RETRY_SOON
from aios.runtime.tokens import Verifier
from aios.runtime.wire import KEEPALIVE_MILLIS, MESSAGE_BYTES_MAX

CUT_OFF_SECONDS = 1.0  # for calls that a stopping server ends to say so

_log = logging.getLogger(__name__)

OPTIONS: Sequence[tuple[str, int]] = (
    # A second process on the same port must fail to start, not take half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
BUILT_IN = {
    "grpc.health.v1.Health": roles.PUBLIC,
    "grpc.reflection.v1alpha.ServerReflection": "caller.get",
}


@dataclass(frozen=True)
class Service:
    """A servicer and the generated function that adds it to a server."""

    add: Callable[[Any, Any], None]
    servicer: object


class Server:
    """Serves `services` on `address` until stopped.

    Args:
        foreign: Permissions of services whose protos are not ours, by service or method path.
        described: Services of other servers that reflection describes here, since callers reach both by one address.
        heard: Is told of each call.
        peer: Who this is, where only peers may call, over TLS.

    Raises:
        ValueError: a method states no permission.
    """

    def __init__(
        self,
        address: str,
        services: Iterable[Service],
        verifier: Verifier,
        *,
        foreign: Mapping[str, str] | None = None,
        described: Iterable[str] = (),
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        heard: Listener | None = None,
        peer: Peer | None = None,
    ) -> None:
        options = [*OPTIONS, ("grpc.max_receive_message_length", message_bytes_max)]
        self._server = grpc.aio.server(options=options)
        self._chain = Chain(verifier, {**BUILT_IN, **(foreign or {})}, heard=heard)
        self._health = health.aio.HealthServicer()
        self._address = address
        self._peer = peer
        self.port = 0
        registrar = _Registrar(self._server, self._chain)
        for service in services:
            service.add(service.servicer, registrar)
        self._names = (*registrar.names, "")
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)  # type: ignore[arg-type]
        names = {*registrar.names, *described, reflection.SERVICE_NAME}
        describing = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(describing, registrar)  # type: ignore[no-untyped-call]

    async def start(self) -> None:
        """Bind, serve, and report SERVING.

        Raises:
            RuntimeError: the address is taken.
        """
        if self._peer is None:
            self.port = self._server.add_insecure_port(self._address)
        else:
            self.port = self._server.add_secure_port(self._address, self._peer.server_credentials())
        if not self.port:
            raise RuntimeError(f"cannot listen on {self._address}: is it taken?")
        await self._server.start()
        await self.report(serving=True)
        _log.info("serving gRPC on %s", self._address)

    async def stop(self, drain_seconds: float) -> None:
        """Report NOT_SERVING, end the streams, refuse new calls, wait for those under way, then end the rest.

        What was begun never ends as CANCELLED: so the library ends calls that come while it stops, and that nobody
        has begun, and callers may send those again whatever they do.
        """
        await self.report(serving=False)
        self._chain.end_streams(
            Unavailable("The service is restarting: watch again.", retry_after=RETRY_SOON)
        )
        stopping = asyncio.create_task(self._server.stop(drain_seconds + CUT_OFF_SECONDS))
        await asyncio.wait({stopping}, timeout=drain_seconds)
        if not stopping.done():
            self._chain.end_calls(
                Unavailable(
                    "The service stopped before it had answered. Whether it took effect is unknown: read before you "
                    "repeat it.",
                    reason="CUT_OFF",
                )
            )
        await stopping

    def revoke(self, token_ids: frozenset[str]) -> None:
        """Refuse these tokens from now on, and end the streams that they opened."""
        self._chain.verifier.revoked = token_ids
        self._chain.end_streams(
            Unauthenticated("The token was revoked: ask for a new one.", reason="TOKEN_REVOKED"),
            lambda call: call.principal is not None and call.principal.token_id in token_ids,
        )

    async def report(self, *, serving: bool) -> None:
        """Say by `grpc.health.v1` whether calls are answered. They are taken either way."""
        response = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._health.set(name, response.SERVING if serving else response.NOT_SERVING)


class _Registrar:
    """Stands where generated code expects a server, and puts the chain around each method that it is given."""

    def __init__(self, server: grpc.aio.Server, chain: Chain) -> None:
        self._server = server
        self._chain = chain
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.ServiceRpcHandler]) -> None:
        for handler in handlers:
            name = handler.service_name()
            assert name is not None
            wrapped = {}
            for method in contract.methods_of(name):
                path = f"/{name}/{method}"
                found = handler.service(_Asked(path))  # type: ignore[arg-type]  # it reads `method` alone
                if found is not None:
                    wrapped[method] = self._chain.wrap(path, found)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, wrapped),))
            self.names.append(name)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Newer generated code says the same twice, for the library's faster lookup; once is enough."""


class _Asked(NamedTuple):
    """What a generic handler looks at to find its method."""

    method: str
    invocation_metadata: tuple[()] = ()

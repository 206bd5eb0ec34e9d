"""What the gateway answers over HTTP: the JSON API, its own health, and the server part of the inference protocol."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
import uvicorn
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Router

from aios.data.v1 import (
    annotation_service_pb2,
    data_service_pb2,
    edge_service_pb2,
    ingest_service_pb2,
    privacy_service_pb2,
    transform_service_pb2,
)
from aios.errors import AiosError
from aios.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from aios.inference.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    monitoring_service_pb2,
)
from aios.runtime.peers import Peer
from aios.runtime.roles import PUBLIC
from aios.scheduler.v1 import agent_service_pb2, queue_service_pb2, scheduler_service_pb2
from aios.telemetry.v1 import event_service_pb2, trace_service_pb2
from aios.trainer.v1 import (
    artifact_service_pb2,
    sweep_service_pb2,
    tracked_model_service_pb2,
    tracking_service_pb2,
    trainer_service_pb2,
)
from gateway.envoy import limits
from gateway.http import openapi, problems, release
from gateway.http.metrics import Metrics
from gateway.http.pages import ANY_CALLER, Page, Stated
from gateway.http.rules import Routes
from gateway.http.transcoder import Transcoder

API = (
    scheduler_service_pb2,
    queue_service_pb2,
    agent_service_pb2,
    data_service_pb2,
    transform_service_pb2,
    annotation_service_pb2,
    ingest_service_pb2,
    edge_service_pb2,
    privacy_service_pb2,
    trainer_service_pb2,
    sweep_service_pb2,
    tracking_service_pb2,
    tracked_model_service_pb2,
    artifact_service_pb2,
    inference_service_pb2,
    monitoring_service_pb2,
    identity_service_pb2,
    trace_service_pb2,
    event_service_pb2,
)
"""Every proto whose services the JSON API speaks for."""
HEALTH_SECONDS = 2.0  # a service that takes longer to say it is well is not
CLIENT_IDLE_SECONDS = limits.APP_IDLE_SECONDS + 0.2  # by then Envoy has closed what it does not use
DRAIN_SECONDS = 5  # for answers under way when the process stops
POLL_SECONDS = 0.02
CONNECTIONS_MAX = 1000  # Envoy is the only client and shares connections; file descriptors are the limit

_log = logging.getLogger(__name__)


def services() -> list[ServiceDescriptor]:
    """Every service of the contract."""
    return [service for proto in API for service in proto.DESCRIPTOR.services_by_name.values()]


def build(
    channels: Mapping[str, grpc.aio.Channel],
    stopping: asyncio.Event | None = None,
    more: Sequence[Stated] = (),
) -> Router:
    """The ASGI application.

    Args:
        channels: To each service, by domain.
        stopping: Once set, streams end.
        more: Routes of other applications.
    """
    routes = Routes(services())
    identity = identity_service_pb2_grpc.IdentityServiceStub(channels["identity"])
    metrics = Metrics(identity, inference_service_pb2_grpc.InferenceServiceStub(channels["inference"]))
    document = problems.encode(openapi.document(routes, release()))

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    async def ready(request: Request) -> Response:
        names = sorted(channels)
        states = await asyncio.gather(*(_state(channels[name]) for name in names))
        status = 200 if set(states) == {"SERVING"} else 503
        return JSONResponse({"services": dict(zip(names, states, strict=True))}, status)

    return Router(
        [
            Page("/healthz", PUBLIC, _alive, identity),
            Page("/readyz", PUBLIC, ready, identity),
            Page("/v1/openapi.json", ANY_CALLER, described, identity),
            metrics.route(),
            Page("/v2", ANY_CALLER, _server, identity),
            Page("/v2/health/live", ANY_CALLER, _alive, identity),
            # Ready to take predictions: they pass Envoy, which asked us, and need no service of the control plane.
            Page("/v2/health/ready", ANY_CALLER, _alive, identity),
            *more,
        ],
        default=Transcoder(routes, channels, stopping or asyncio.Event()),
        redirect_slashes=False,
    )


async def serve(
    app: Router, address: str, stopping: asyncio.Event | None = None, peer: Peer | None = None
) -> None:
    """Serve `app` on `host:port` until cancelled, then set `stopping` and let answers under way finish.

    Args:
        peer: Who this is, where only peers may call, over TLS.

    Raises:
        OSError: the address is taken.
    """
    listener = listen(address)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            **(_tls(peer) if peer else {}),
        )
    )
    _log.info("serving HTTP on %s", address)
    with listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await asyncio.shield(serving)
        finally:
            if stopping is not None:
                stopping.set()
            server.should_exit = True
            await serving


def _tls(peer: Peer) -> dict[str, Any]:
    return {
        "ssl_certfile": peer.certificate,
        "ssl_keyfile": str(peer.key),
        "ssl_ca_certs": str(peer.authority),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }


def listen(address: str) -> socket.socket:
    """A listening socket on `host:port`.

    Raises:
        OSError: the address is taken.
    """
    host, _, port = address.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=CONNECTIONS_MAX)
    # asyncio does this only for sockets that it makes itself. Without it an answer's body waits for the
    # acknowledgement of its headers, which the other side delays by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """Stops without a failed request.

    A server that closes a connection may close one that carries a request already. This one leaves it to its client:
    each answer says that the connection ends with it, and those on which nothing is asked Envoy closes by itself.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, which has more to stop than this server."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        headers = self.server_state.default_headers
        self.server_state.default_headers = [*headers, (b"connection", b"close")]
        await self._until_gone(CLIENT_IDLE_SECONDS)
        for listener in sockets or []:
            await self._close(listener)
        await self._until_gone(DRAIN_SECONDS)
        await super().shutdown()

    async def _until_gone(self, seconds: float) -> None:
        """Wait for the end of all connections."""
        until = time.monotonic() + seconds
        while self.server_state.connections and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    async def _close(self, listener: socket.socket) -> None:
        """Stop listening, but take what has connected by now: it would be reset."""
        loop = asyncio.get_running_loop()
        make: Any = self.config.http_protocol_class
        protocol = partial(make, config=self.config, server_state=self.server_state, app_state={})
        taken = []
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                taken.append(loop.connect_accepted_socket(protocol, connection, ssl=self.config.ssl))
        for server in self.servers:
            server.close()
        await asyncio.gather(*taken)


async def _alive(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _server(request: Request) -> Response:
    """Server metadata. Source: Open Inference Protocol v2."""
    return JSONResponse({"name": "aios", "version": release(), "extensions": []})


async def _state(channel: grpc.aio.Channel) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS)  # type: ignore[attr-defined]
    except AiosError as error:
        return error.code.name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

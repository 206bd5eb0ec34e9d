"""The gateway's process: identity, traces, the HTTP applications, and the writer of Envoy's configuration."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from aios.bus import Bus, DeadEvents, Relay
from aios.config import Settings
from aios.identity.v1 import identity_service_pb2_grpc
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.channel import peer_channel
from aios.runtime.clock import SystemClock
from aios.runtime.peers import Peer
from aios.runtime.server import Service
from aios.telemetry.v1 import event_service_pb2_grpc, trace_service_pb2_grpc
from gateway import activation, http, identity, inference_server
from gateway.edge import Edge
from gateway.http import app as http_app
from gateway.http.artifacts import Artifacts
from gateway.identity import keys
from gateway.identity import store as identity_store
from gateway.identity.identity import Identity
from gateway.identity.servicer import IdentityServicer
from gateway.openai.app import OpenAI
from gateway.telemetry import servicer as telemetry
from gateway.telemetry.collector import Collector
from gateway.telemetry.events import EventServicer
from gateway.telemetry.sampling import Sampler
from gateway.telemetry.store import SpanStore

SERVICE_OF_DOMAIN = {
    "scheduler": "scheduler",
    "data": "data",
    "trainer": "trainer",
    "inference": "inference",
    "identity": "gateway",
    "telemetry": "gateway",
}
"""Which process serves each domain of the contract."""


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Open what the gateway keeps, and put its parts together."""
    assert settings.identity_key_file is not None
    assert settings.jwks_file is not None
    key = keys.load(settings.identity_key_file, settings.jwks_file)
    migrations = Path(identity.__file__).parent / "migrations"
    db = await Database.open(settings, "identity", identity_store.metadata, migrations)
    stack.push_async_callback(db.close)
    who = Identity(db, key, SystemClock())
    await who.prepare()

    spans = await SpanStore.open(settings.home / "gateway" / "spans.db")
    stack.push_async_callback(spans.close)
    bus = await Bus.connect(settings, "gateway")
    stack.push_async_callback(bus.close)
    dead = DeadEvents(bus)

    # Callers keep their own tokens: the gateway lends its authority to nobody.
    channels = {
        domain: await stack.enter_async_context(peer_channel(settings, service, None))
        for domain, service in SERVICE_OF_DOMAIN.items()
    }
    stopping = asyncio.Event()
    peer = Peer.of(settings)
    openai = OpenAI(channels, settings.envoy_address, peer)
    stack.push_async_callback(openai.close)
    artifacts = Artifacts(channels, settings.home / "gateway" / "spool")
    stack.push_async_callback(artifacts.close)
    web = http_app.build(channels, stopping, [*openai.routes(), *artifacts.routes()])
    sampler = Sampler()
    collector = Collector(settings.collector_address) if settings.collector_address else None
    activator = activation.Activator()
    edge = Edge(settings, who, sampler.wanted, activator)

    async def serve_http() -> None:
        await http_app.serve(web, settings.gateway_http_address, stopping, peer)

    return App(
        services=[
            Service(
                identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, IdentityServicer(who, db)
            ),
            Service(
                trace_service_pb2_grpc.add_TraceServiceServicer_to_server, telemetry.TraceServicer(spans)
            ),
            Service(event_service_pb2_grpc.add_EventServiceServicer_to_server, EventServicer(dead)),
            Service(
                otlp_grpc.add_TraceServiceServicer_to_server,
                telemetry.OtlpServicer(spans, sampler, collector),
            ),
            Service(inference_server.add_to, http.release()),
            Service(activation.add_to, activator),
        ],
        door=serve_http,
        loops=[
            edge.publish,
            edge.follow_routes,
            edge.follow_counts,
            edge.follow_load,
            edge.shed,
            edge.follow_revocations,
            Relay(db, bus).run,
            dead.collect,
            *([collector.run] if collector else []),
        ],
        healthy=db.answers,
        foreign=telemetry.FOREIGN | inference_server.FOREIGN | activation.FOREIGN,
        # Envoy sends all reflection here, and knows every service.
        described=[service.full_name for service in http_app.services()],
    )

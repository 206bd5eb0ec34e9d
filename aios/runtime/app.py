"""The main of every service: settings, logs, traces, servers, background loops, drain on SIGTERM."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address

from aios.config import Settings, unknown_variables, variable_of
from aios.errors import AiosError, InvalidArgument
from aios.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from aios.runtime import logs, meters, telemetry, turn
from aios.runtime.audit import Listener
from aios.runtime.channel import service_channel
from aios.runtime.peers import Peer
from aios.runtime.server import Server, Service
from aios.runtime.token_files import token_file
from aios.runtime.tokens import Verifier
from aios.runtime.wire import MESSAGE_BYTES_MAX

LOOP_BACKOFF_SECONDS, LOOP_BACKOFF_SECONDS_MAX = 0.2, 5.0
HEALTH_SECONDS = 0.5

_log = logging.getLogger(__name__)
Loop = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class App:
    """What a service is made of.

    `loops` run until the process stops; one that raises is logged and started again after a growing pause. `door` is
    one that takes calls for the services: it ends first, and in its own time, while they still answer. `foreign`,
    `described` and `heard` are what `Server` takes. `healthy` says whether calls can be answered now, from memory: health is
    NOT_SERVING while they cannot.
    """

    services: Sequence[Service] = ()
    loops: Sequence[Loop] = ()
    door: Loop | None = None
    foreign: Mapping[str, str] = field(default_factory=dict)
    described: Sequence[str] = ()
    message_bytes_max: int = MESSAGE_BYTES_MAX
    heard: Listener | None = None
    healthy: Callable[[], bool] = lambda: True


Build = Callable[[Settings, AsyncExitStack], Awaitable[App]]
"""Makes an App from settings; what it opens it enters into the stack, which is closed last."""


def main(service: str, build: Build) -> None:
    """Run a service until SIGTERM or SIGINT. Exits 1 with one line when it cannot start."""
    try:
        settings = Settings.load()
    except InvalidArgument as error:
        sys.exit(f"{service}: {error.message}")
    settings = replace(settings, token_file=settings.token_file or settings.secret(f"{service}.token"))
    logs.setup(service, settings.log_level)
    _check_environment(service, settings)
    try:
        asyncio.run(run(service, settings, build))
    except AiosError as error:
        sys.exit(f"{service}: {error.message}")


async def run(service: str, settings: Settings, build: Build, stop: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set, or until a signal where none is given. Waits for its turn first."""
    stop = stop or _stop_on_signal()
    assert settings.token_file is not None
    assert settings.jwks_file is not None
    peer = Peer.of(settings)
    if settings.telemetry:
        ours = peer.channel_credentials() if peer and not settings.otlp_endpoint else None
        endpoint = settings.otlp_endpoint or settings.gateway_address
        telemetry.setup(service, endpoint, token_file(settings.token_file), ours)
    if settings.collector_address:
        meters.setup(service, settings.collector_address)
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.shutdown)
        stack.callback(meters.shutdown)
        place = await turn.take(settings.home, service, stop)
        if place is None:
            return
        stack.enter_context(place)
        app = await build(settings, stack)
        meters.observe("aios.serving", "Whether the service can answer; its database included.", app.healthy)
        loops = [asyncio.create_task(_keep_running(loop, loop.__qualname__)) for loop in app.loops]
        door = asyncio.create_task(_keep_running(app.door, app.door.__qualname__)) if app.door else None
        server, reporting = None, None
        if app.services:
            server = Server(
                settings.address_of(service),
                app.services,
                Verifier(settings.jwks_file),
                foreign=app.foreign,
                described=app.described,
                message_bytes_max=app.message_bytes_max,
                heard=app.heard,
                peer=peer,
            )
            await server.start()
            reporting = asyncio.create_task(_report_health(server, app.healthy))
            follow = partial(follow_revocations, settings, server.revoke)
            loops.append(asyncio.create_task(_keep_running(follow, follow_revocations.__qualname__)))
        await stop.wait()
        _log.info("stopping: calls under way have %s s", settings.drain_seconds)
        if reporting is not None:
            reporting.cancel()
        if door is not None:
            door.cancel()
            await asyncio.gather(door, return_exceptions=True)
        if server is not None:
            await server.stop(settings.drain_seconds)
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def follow_revocations(settings: Settings, revoke: Callable[[frozenset[str]], None]) -> None:
    """Tell `revoke` the ids of all revoked tokens, now and at each change in the identity domain."""
    async with service_channel(settings, "gateway") as channel:
        stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
        request = identity_service_pb2.WatchRevocationsRequest()
        async for update in stub.WatchRevocations(request):
            revoke(frozenset(revocation.token_id for revocation in update.revocations))


async def _report_health(server: Server, healthy: Callable[[], bool]) -> None:
    said = True
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        now = healthy()
        if now is not said:
            await server.report(serving=now)
            _log.warning("serving again" if now else "not serving: calls cannot be answered now")
        said = now


async def _keep_running(loop: Loop, name: str) -> None:
    backoff = LOOP_BACKOFF_SECONDS
    clock = asyncio.get_running_loop()
    while True:
        started = clock.time()
        try:
            await loop()
            _log.debug("%s ended; starting it again", name)
        except AiosError as error:
            _log.warning("%s: %s (%s); trying again", name, error.message, error.reason)
        except Exception:  # noqa: BLE001 - a loop outlives whatever one round meets
            _log.exception("%s failed; starting it again", name)
        if clock.time() - started > LOOP_BACKOFF_SECONDS_MAX:
            backoff = LOOP_BACKOFF_SECONDS
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, LOOP_BACKOFF_SECONDS_MAX)


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _check_environment(service: str, settings: Settings) -> None:
    for name, likely in unknown_variables(os.environ).items():
        _log.warning("%s is no setting%s", name, f": did you mean {likely}?" if likely else "")
    listens = {
        "AIOS_LISTEN_HOST": settings.listen_host,
        **{
            variable_of(field): str(getattr(settings, field)).rpartition(":")[0]
            for field in (f"{service}_address", f"{service}_http_address")
            if hasattr(settings, field)
        },
    }
    for variable, host in listens.items():
        if not _is_local(host) and not settings.mutual_tls:
            sys.exit(f"{variable} is not loopback: set AIOS_MUTUAL_TLS, or put Envoy in front.")


def _is_local(host: str) -> bool:
    """Whether nobody from outside can dial it. A name is one of a private network, as containers have it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return bool(host)

"""Keeps Envoy as the platform is: replicas and weights from the inference service, revoked tokens, public keys.

The last table stays in force while the inference service is away, across restarts of this process too: no news is
never an empty table.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from aios.config import Settings
from aios.errors import InvalidArgument
from aios.inference.v1 import deployment_pb2, inference_service_pb2, inference_service_pb2_grpc
from aios.names import DeploymentName, RevisionName
from aios.runtime.channel import service_channel
from aios.runtime.peers import Peer
from gateway import counting
from gateway.activation import Activator, Revision
from gateway.envoy.admin import Admin, EnvoyDown
from gateway.envoy.files import ConfigFiles
from gateway.envoy.model import (
    Address,
    Backend,
    DeploymentRoute,
    Inside,
    Mirror,
    Passage,
    Pem,
    Replica,
    Services,
    Snapshot,
    Tls,
)
from gateway.envoy.publish import ConfigRefused, Publisher
from gateway.identity.identity import Identity
from gateway.shedding import Shedder

COLD_SECONDS = 1.0  # until a revision that did not answer Envoy's health check is asked again
LOAD_SECONDS = 0.5  # between looks at how many spans come
SHARE_MIN = 0.01  # Envoy counts in hundredths
REFRESH_SECONDS = 30.0  # tokens are renewed in place: nobody tells us

_log = logging.getLogger(__name__)


class Edge:
    """The one writer of Envoy's configuration. Run its loops.

    Args:
        wanted_share: Of the requests that are traced, given that share now.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        wanted_share: Callable[[float], float] = lambda share: share,
        activator: Activator | None = None,
    ) -> None:
        assert settings.jwks_file is not None
        self._settings = settings
        self._identity = identity
        self._wanted_share = wanted_share
        self._activator = activator or Activator()
        self._jwks: Path = settings.jwks_file
        self._files = ConfigFiles(settings.home / "envoy")
        self._admin = Admin(self._files.admin_socket)
        self._publisher = Publisher(
            self._files,
            self._admin,
            listen=_address(settings.envoy_address),
            calls_per_second=settings.calls_per_second,
            tls=_tls(settings),
            peer=_inside(settings),
            passages=_passages(settings),
        )
        self._services = _services(settings)
        self._revoked: frozenset[str] = frozenset()
        self._deployments: tuple[DeploymentRoute, ...] = ()
        self._revision: int | None = None
        """Of the table in `_deployments`; None before the inference service has spoken."""
        self._confirmed: int | None = None
        self._in_force: dict[tuple[str, str], DeploymentRoute] = {}
        self._changed = asyncio.Event()
        self._shedder = Shedder(self._admin)
        self.shed = self._shedder.run

    async def follow_routes(self) -> None:
        """Take each routing table that the inference service sends."""
        async with service_channel(self._settings, "inference") as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            known = None  # who is asked anew may have forgotten that we confirmed
            async for table in stub.WatchRoutes(inference_service_pb2.WatchRoutesRequest()):
                if table != known:  # an unchanged table is only a sign of life
                    known = table
                    self._deployments, self._revision = deployments(table), table.revision
                    self._confirmed = None
                    self._changed.set()

    async def follow_revocations(self) -> None:
        """Take each set of revoked tokens."""
        async for tokens in self._identity.revocations():
            revoked = frozenset(token.id for token in tokens)
            if revoked != self._revoked:
                self._revoked = revoked
                self._changed.set()

    async def follow_load(self) -> None:
        """Have Envoy trace a smaller share of the requests while more spans come than are kept, or calls are refused."""
        share = 1.0
        while True:
            await asyncio.sleep(LOAD_SECONDS)
            wanted = min(self._wanted_share(share), self._shedder.traced_max)
            before, share = share, max(wanted, SHARE_MIN)
            if share != before or share < 1:  # one that restarted traces everything again
                with suppress(EnvoyDown):
                    await self._admin.trace(share)

    async def follow_counts(self) -> None:
        """Tell the inference service what Envoy counts, and at once what requests wait for."""
        await counting.follow(self._settings, self._activator)

    async def publish(self) -> None:
        """Bring Envoy to the newest state at each change, and tell the inference service once it is there."""
        former = await asyncio.to_thread(self._files.load)
        if former is not None and self._revision is None:
            self._deployments = former.deployments
        self._revoked = frozenset(token.id for token in await self._identity.revoked())
        await self._publisher.start(
            await self._snapshot(), node_id=self._settings.node, token=await self._token()
        )
        while True:
            self._changed.clear()
            deployments, revision = self._deployments, self._revision
            asleep = _asleep(deployments)
            await self._activator.let_sleep(self._activator.asleep | asleep)
            try:
                applied = await self._publisher.apply(
                    await self._snapshot(), partial(self._let_through, asleep)
                )
            except ConfigRefused as error:
                _log.error("%s", error)
                settled = False
            else:
                settled = self._note_in_force(deployments, set(applied.cold))
                if settled and revision is not None:
                    await self._confirm(revision)
            await asyncio.to_thread(self._files.write_token, await self._token())
            await _wait(self._changed, REFRESH_SECONDS if settled else COLD_SECONDS)

    async def _let_through(self, asleep: frozenset[Revision], cold: set[tuple[str, str]]) -> None:
        """Requests that were held go on: their replica can be reached."""
        still = (each for each in self._activator.asleep if (each.project, each.deployment) in cold)
        await self._activator.let_sleep({*asleep, *still})

    def _note_in_force(self, wanted: Iterable[DeploymentRoute], cold: set[tuple[str, str]]) -> bool:
        """Remember what Envoy serves now; whether that is all of what is wanted.

        A deployment whose replicas do not answer keeps its former route. That is settled where the former route is
        the wanted one: it is down, and no other revision waits to take over.
        """
        before, self._in_force = self._in_force, {}
        for deployment in wanted:
            held = deployment.key in cold and deployment.key in before
            self._in_force[deployment.key] = before[deployment.key] if held else deployment
        return all(self._in_force[deployment.key] == deployment for deployment in wanted)

    async def _confirm(self, revision: int) -> None:
        if revision == self._confirmed:
            return
        async with service_channel(self._settings, "inference") as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            await stub.ConfirmRoutes(inference_service_pb2.ConfirmRoutesRequest(revision=revision))
        self._confirmed = revision

    async def _snapshot(self) -> Snapshot:
        jwks = await asyncio.to_thread(self._jwks.read_text)
        return Snapshot(
            services=self._services,
            jwks=jwks,
            revoked=self._revoked,
            deployments=self._deployments,
            open_paths=("/readyz",),
            cors_origins=tuple(self._settings.cors_origins.split()),
        )

    async def _token(self) -> str:
        """Envoy's own token, for its spans; ours where it was given none."""
        own = self._settings.secret("envoy.token")
        path = own if await asyncio.to_thread(own.exists) else self._settings.token_file
        assert path is not None
        return (await asyncio.to_thread(path.read_text)).strip()


def deployments(table: inference_service_pb2.WatchRoutesResponse) -> tuple[DeploymentRoute, ...]:
    """A routing table as Envoy's model has it, ordered so that equal tables are equal."""
    found = []
    for route in table.deployments:
        name = DeploymentName.parse(route.deployment)
        # The newest first: whom a header's value sends there stays there when its share grows.
        backends = [
            Backend(RevisionName.parse(one.revision).id, one.weight, _replicas(one.replicas), one.asleep)
            for one in reversed(route.revisions)
        ]
        copied = [
            Mirror(backend, one.mirror_percent)
            for backend, one in zip(backends, reversed(route.revisions), strict=True)
            if one.mirror_percent
        ]
        mirror = copied[0] if copied else None
        answering = tuple(each for each in backends if mirror is None or each != mirror.backend)
        found.append(DeploymentRoute(name.project, name.deployment, answering, mirror, route.affinity_header))
    return tuple(sorted(found, key=lambda route: route.key))


def _asleep(deployments: Iterable[DeploymentRoute]) -> frozenset[Revision]:
    """The revisions whose requests are held."""
    return frozenset(
        Revision(*route.key, backend.revision)
        for route in deployments
        for backend in route.backends
        if backend.asleep
    )


def _replicas(replicas: Iterable[deployment_pb2.Replica]) -> tuple[Replica, ...]:
    ready = (one for one in replicas if one.state == deployment_pb2.Replica.STATE_READY)
    return tuple(sorted(Replica(one.host, one.http_port, one.grpc_port) for one in ready))


def _services(settings: Settings) -> Services:
    return Services(
        scheduler=_address(settings.scheduler_address),
        data=_address(settings.data_address),
        trainer=_address(settings.trainer_address),
        inference=_address(settings.inference_address),
        gateway_grpc=_address(settings.gateway_address),
        gateway_http=_address(settings.gateway_http_address),
        collector=_address(settings.otlp_endpoint) if settings.otlp_endpoint else None,
    )


def _tls(settings: Settings) -> Tls | None:
    if not settings.tls_address:
        return None
    files = settings.tls_certificate_file, settings.tls_key_file
    if None in files:
        raise InvalidArgument("AIOS_TLS_ADDRESS needs AIOS_TLS_CERTIFICATE_FILE and AIOS_TLS_KEY_FILE.")
    return Tls(_address(settings.tls_address), Pem(*map(str, files)))


def _passages(settings: Settings) -> list[Passage]:
    files = settings.tls_certificate_file, settings.tls_key_file
    pem = None if None in files else Pem(*map(str, files))
    doors = (
        ("mqtt", settings.mqtt_address, settings.nats_mqtt_address),
        ("edge", settings.edge_address, settings.nats_edge_address),
    )
    return [Passage(name, _address(at), _address(nats), pem) for name, at, nats in doors if at]


def _inside(settings: Settings) -> Inside | None:
    """Envoy finds its own certificate where we have ours: each container has its own files by the same names."""
    peer = Peer.of(settings)
    return Inside(Pem(str(peer.certificate), str(peer.key)), str(peer.authority)) if peer else None


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass

"""Bring Envoy from one snapshot to the next without losing a request: make before break.

Clusters and endpoints first (old and new together), wait until the new ones answer their health check, then move the
routes, then drop what nobody uses. Files decide: with Envoy down the same calls leave what it will start from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.envoy.admin import Admin, EnvoyDown
from gateway.envoy.clusters import clusters, endpoints
from gateway.envoy.files import ConfigFiles, write_resources
from gateway.envoy.listener import NAME as LISTENER
from gateway.envoy.listener import listener
from gateway.envoy.model import Address, Backend, DeploymentRoute, Services, Snapshot, Tls
from gateway.envoy.routes import NAME as ROUTES
from gateway.envoy.routes import routes

_WARM_SECONDS = (
    2.0  # replicas answered their agent before they got here; two applies fit in the 5 s of a revocation
)
_ACCEPT_SECONDS = 2.0  # Envoy takes 3-20 ms
_RETIRED_SECONDS = (
    60.0  # a request picks its cluster first and its replica once its body is here: up to 64 MiB
)
_POLL_SECONDS = 0.02

Json = dict[str, Any]
# Cluster name -> (what it serves, protocol)
_Clusters = dict[str, tuple[Backend, str]]


class ConfigRefused(Exception):
    """Envoy did not accept a file and keeps serving the former one. Its log has the reason."""


@dataclass(frozen=True)
class Applied:
    """What came of a snapshot.

    `cold` are deployments (project, name) whose new revision has no healthy replica: they keep their former
    route. Apply again when something has changed.
    """

    cold: tuple[tuple[str, str], ...] = ()


class Publisher:
    """The one writer of an Envoy's files."""

    def __init__(
        self,
        files: ConfigFiles,
        admin: Admin,
        *,
        listen: Address,
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._admin = admin
        self._listen = listen
        self._tls = tls
        self._clock = clock
        self._lock = asyncio.Lock()
        self._current: Snapshot | None = None
        self._retired: _Clusters = {}
        self._retired_at: dict[str, float] = {}

    async def start(self, snapshot: Snapshot, *, node_id: str, token: str) -> Applied:
        """Write everything Envoy needs to start, or bring a running one up to date.

        Args:
            snapshot: To keep the deployments of a former life until the first list arrives, take them from
                `ConfigFiles.load`.
            token: A service token for Envoy's spans; refresh it by `ConfigFiles.write_token`.
        """
        await asyncio.to_thread(self._files.create)
        self._current = await asyncio.to_thread(self._files.load)
        await asyncio.to_thread(self._files.write_token, token)
        applied = await self.apply(snapshot)
        await asyncio.to_thread(self._files.write_bootstrap, node_id)
        return applied

    async def apply(self, snapshot: Snapshot) -> Applied:
        """Make `snapshot` effective. Raises ConfigRefused when Envoy refuses it; what served before still serves.

        Calls queue up. A revocation takes effect first and waits for no replica. Call it with the same snapshot
        every few seconds too: cold deployments are looked at again, and what nobody uses any more is dropped.
        """
        async with self._lock:
            former = self._current
            if former is not None and former.revoked != snapshot.revoked:
                await self._write_routes(replace(former, revoked=snapshot.revoked))

            wanted = _clusters_of(snapshot.deployments)
            both = _merge(_clusters_of(former.deployments if former else ()), wanted)
            await self._write_clusters(snapshot.services, self._retired | both)
            cold = await self._wait_until_warm(snapshot.deployments)

            effective = replace(snapshot, deployments=_keep_cold(snapshot, former, cold))
            await self._write_listener(effective)
            await self._write_routes(effective)
            await asyncio.to_thread(self._files.save, effective)
            self._current = effective

            used = _merge(_clusters_of(effective.deployments), wanted)
            self._retire(both, used)
            await self._write_clusters(snapshot.services, self._retired | used)
            await asyncio.to_thread(self._files.drop_endpoints, self._retired.keys() | used.keys())
            return Applied(tuple(sorted(cold)))

    def _retire(self, before: _Clusters, used: _Clusters) -> None:
        """Keep clusters that lost their route for the requests that have chosen them already."""
        now = self._clock()
        for name in before.keys() - used.keys():
            self._retired[name], self._retired_at[name] = before[name], now
        for name in list(self._retired):
            if name in used or now - self._retired_at[name] > _RETIRED_SECONDS:
                del self._retired[name], self._retired_at[name]

    async def _write_clusters(self, services: Services, wanted: _Clusters) -> None:
        files = self._files

        def write() -> str:
            for name, (backend, protocol) in wanted.items():
                write_resources(files.endpoints / f"{name}.json", [endpoints(name, backend, protocol)])
            protocols = {name: protocol for name, (_, protocol) in wanted.items()}
            config = clusters(
                services, protocols, endpoints_dir=str(files.endpoints), token_path=str(files.token)
            )
            return write_resources(files.clusters, config)

        version = await asyncio.to_thread(write)
        await self._wait_for("cluster_manager.cds.version_text", version, files.clusters)

    async def _write_listener(self, snapshot: Snapshot) -> None:
        path = self._files.listeners
        config = listener(
            address=self._listen, jwks=snapshot.jwks, routes_path=str(self._files.routes), tls=self._tls
        )
        if not self._files.routes.exists():  # the listener waits for its routes: never leave it without
            await self._write_routes(snapshot)
        version = await asyncio.to_thread(write_resources, path, [config])
        await self._wait_for("listener_manager.lds.version_text", version, path)

    async def _write_routes(self, snapshot: Snapshot) -> None:
        path = self._files.routes
        version = await asyncio.to_thread(write_resources, path, [routes(snapshot)])
        await self._wait_for(f"http.{LISTENER}.rds.{ROUTES}.version_text", version, path)

    async def _wait_for(self, statistic: str, version: str, path: Path) -> None:
        async def accepted() -> bool:
            return (await self._admin.versions()).get(statistic) == version

        if not await _until(accepted, _ACCEPT_SECONDS):
            raise ConfigRefused(f"Envoy does not take {path.name} version {version}; its log says why")

    async def _wait_until_warm(self, deployments: tuple[DeploymentRoute, ...]) -> set[tuple[str, str]]:
        """Deployments that have a revision without a healthy replica, at the door it should serve."""
        needed = {
            deployment.key: [
                deployment.cluster_name(backend, protocol)
                for backend in deployment.serving
                for protocol in ("http", "grpc")
            ]
            for deployment in deployments
        }
        cold: set[tuple[str, str]] = set()

        async def warm() -> bool:
            cold.clear()
            healthy = await self._admin.healthy()
            cold.update(key for key, names in needed.items() if not all(healthy.get(name) for name in names))
            return not cold

        await _until(warm, _WARM_SECONDS)
        return cold


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether the condition came true in time. An Envoy that is down has nothing to wait for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if await condition():
                return True
        except EnvoyDown:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)


def _clusters_of(deployments: tuple[DeploymentRoute, ...]) -> _Clusters:
    return {
        name: (backend, protocol)
        for deployment in deployments
        for name, backend, protocol in deployment.clusters()
    }


def _merge(one: _Clusters, other: _Clusters) -> _Clusters:
    """Every cluster of both, each with the replicas of both."""
    merged = dict(one)
    for name, (backend, protocol) in other.items():
        known = one[name][0].replicas if name in one else ()
        merged[name] = (
            replace(backend, replicas=tuple(dict.fromkeys((*known, *backend.replicas)))),
            protocol,
        )
    return merged


def _keep_cold(
    snapshot: Snapshot, former: Snapshot | None, cold: set[tuple[str, str]]
) -> tuple[DeploymentRoute, ...]:
    before = {deployment.key: deployment for deployment in former.deployments} if former else {}
    return tuple(
        before.get(deployment.key, deployment) if deployment.key in cold else deployment
        for deployment in snapshot.deployments
    )

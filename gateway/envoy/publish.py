"""Bring Envoy from one snapshot to the next without losing a request: make before break.

Clusters and endpoints first (old and new together), wait until the new ones answer their health check, then move the
routes, then drop what nobody uses. Files decide: with Envoy down the same calls leave what it will start from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.envoy import limits
from gateway.envoy.admin import Admin, EnvoyDown
from gateway.envoy.clusters import clusters, endpoints
from gateway.envoy.files import ConfigFiles, read, replace_file, write_resources
from gateway.envoy.listener import NAME as LISTENER
from gateway.envoy.listener import listeners
from gateway.envoy.model import Address, Backend, DeploymentRoute, Inside, Passage, Services, Snapshot, Tls
from gateway.envoy.routes import NAME as ROUTES
from gateway.envoy.routes import routes

_WARM_SECONDS = 2.0  # replicas are ready when they get here; two applies fit in a revocation's 5 s
_ACCEPT_SECONDS = 10.0  # Envoy takes 3-20 ms; on a machine out of breath, longer
_RETIRED_SECONDS = 60.0  # a request chooses a cluster, then its body arrives, then the cluster is used
_POLL_SECONDS = 0.03

Json = dict[str, Any]
Warm = Callable[[set[tuple[str, str]]], Awaitable[None]]
"""Told of the deployments that cannot be reached yet."""
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
        calls_per_second: int = limits.CALLS_PER_SECOND,
        tls: Tls | None = None,
        peer: Inside | None = None,
        passages: Sequence[Passage] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._admin = admin
        self._listen = listen
        self._calls_per_second = calls_per_second
        self._tls = tls
        self._peer = peer
        self._passages = passages
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

    async def apply(self, snapshot: Snapshot, warm: Warm | None = None) -> Applied:
        """Make `snapshot` effective. Raises ConfigRefused when Envoy refuses it; what served before still serves.

        Calls queue up. `warm` is told once replicas can be reached, before the routes lead to them. A revocation takes
        effect first and waits for no replica. Call it with the same snapshot
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
            if warm is not None:
                await warm(cold)

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

        def write() -> None:
            for name, (backend, protocol) in wanted.items():
                write_resources(files.endpoints / f"{name}.json", [endpoints(name, backend, protocol)])

        await asyncio.to_thread(write)
        protocols = {name: protocol for name, (_, protocol) in wanted.items()}
        asleep = [name for name, (backend, _) in wanted.items() if backend.asleep]
        config = clusters(
            services,
            protocols,
            asleep,
            endpoints_dir=str(files.endpoints),
            token_path=str(files.token),
            peer=self._peer,
            passages=self._passages,
        )
        await self._put(files.clusters, config, "cluster_manager.cds")

    async def _write_listener(self, snapshot: Snapshot) -> None:
        if not self._files.routes.exists():  # the listener waits for its routes: never leave it without
            await self._write_routes(snapshot)
        routes_path = str(self._files.routes)
        config = listeners(
            address=self._listen,
            jwks=snapshot.jwks,
            routes_path=routes_path,
            calls_per_second=self._calls_per_second,
            tls=self._tls,
            peer=self._peer,
            passages=self._passages,
        )
        await self._put(self._files.listeners, config, "listener_manager.lds")

    async def _write_routes(self, snapshot: Snapshot) -> None:
        await self._put(self._files.routes, [routes(snapshot)], f"http.{LISTENER}.rds.{ROUTES}")

    async def _put(self, path: Path, resources: list[Json], source: str) -> None:
        """Write a file and wait until Envoy has it. What it refuses goes back: it must be able to restart."""
        try:
            before = await self._admin.update(source)
        except EnvoyDown:
            before = None
        former = await asyncio.to_thread(read, path)
        version = await asyncio.to_thread(write_resources, path, resources)
        if before is None:
            return

        async def decided() -> bool:
            now = await self._admin.update(source)
            if now.refused > before.refused:
                raise ConfigRefused(f"Envoy refused {path.name}; its log says why")
            return now.version == version

        try:
            if not await _until(decided, _ACCEPT_SECONDS):
                raise ConfigRefused(f"Envoy did not read {path.name} within {_ACCEPT_SECONDS} s")
        except ConfigRefused:
            if former is not None:
                await asyncio.to_thread(replace_file, path, former)
            raise

    async def _wait_until_warm(self, deployments: tuple[DeploymentRoute, ...]) -> set[tuple[str, str]]:
        """Deployments with a revision none of whose own replicas is healthy, at either door."""
        cold: set[tuple[str, str]] = set()

        async def warm() -> bool:
            healthy = await self._admin.healthy()
            cold.clear()
            cold.update(
                deployment.key
                for deployment in deployments
                for name, backend, protocol in deployment.clusters()
                if backend in deployment.serving
                and not backend.asleep
                and healthy.get(name, set()).isdisjoint(r.address(protocol) for r in backend.replicas)
            )
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
    """Every cluster of both, each with the replicas of both; asleep where it is in both."""
    merged = dict(one)
    for name, (backend, protocol) in other.items():
        if name in one:
            known = one[name][0]
            replicas = tuple(dict.fromkeys((*known.replicas, *backend.replicas)))
            backend = replace(backend, replicas=replicas, asleep=known.asleep and backend.asleep)
        merged[name] = (backend, protocol)
    return merged


def _keep_cold(
    snapshot: Snapshot, former: Snapshot | None, cold: set[tuple[str, str]]
) -> tuple[DeploymentRoute, ...]:
    before = {deployment.key: deployment for deployment in former.deployments} if former else {}
    return tuple(
        before.get(deployment.key, deployment) if deployment.key in cold else deployment
        for deployment in snapshot.deployments
    )

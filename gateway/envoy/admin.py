"""Questions to a running Envoy, through its admin socket: what it has accepted and which replicas it may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx

from gateway.envoy import counts
from gateway.envoy.model import Address
from gateway.envoy.routes import LIMITED

_TIMEOUT_SECONDS = 2.0  # the admin thread answers in milliseconds unless the machine is out of breath


class EnvoyDown(Exception):
    """No Envoy listens on the admin socket. It will read the files when it starts."""


class Update(NamedTuple):
    """The version in effect, and how many were refused since Envoy started."""

    version: str
    refused: int


class Taken(NamedTuple):
    """Of the calls that came as far as a service, since Envoy started: passed on to it, refused for want of a place, and
    ended either way."""

    taken: int
    refused: int
    ended: int


class Admin:
    """The admin interface of one Envoy. Every call raises EnvoyDown when it does not answer."""

    def __init__(self, socket: Path) -> None:
        # No connection is kept: Envoy may restart between two questions.
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://envoy", timeout=_TIMEOUT_SECONDS
        )

    async def update(self, source: str) -> Update:
        """What became of one source of configuration, named as in Envoy's statistics: `cluster_manager.cds`."""
        names = "version_text|update_rejected|update_failure"
        stats = await self._get(f"/stats?filter=^{source}.({names})$&format=json")
        found = {item["name"].rpartition(".")[2]: item["value"] for item in stats["stats"] if "name" in item}
        refused = int(found.get("update_rejected", 0)) + int(found.get("update_failure", 0))
        return Update(str(found.get("version_text", "")), refused)

    async def healthy(self) -> dict[str, set[Address]]:
        """Healthy endpoints of each cluster that is past warming."""
        status = await self._get("/clusters?format=json")
        return {
            cluster["name"]: {
                _address(host) for host in cluster.get("host_statuses", ()) if _is_healthy(host)
            }
            for cluster in status.get("cluster_statuses", ())
        }

    async def counts(self) -> dict[counts.Key, counts.Counts]:
        """What was counted of each revision so far."""
        query = urlencode({"filter": counts.FILTER, "histogram_buckets": "cumulative", "format": "json"})
        return counts.counts((await self._get(f"/stats?{query}"))["stats"])

    async def trace(self, share: float) -> None:
        """Trace this share of the requests, in hundredths, of those that no client asked to be traced."""
        await self.modify({"tracing.random_sampling": f"{share * 100:.0f}"})

    async def taken(self) -> dict[str, Taken]:
        """What each service took."""
        names = ("upstream_rq_total", "upstream_rq_active_overflow", "upstream_rq_completed")
        wanted = {f"cluster.{service}.{name}" for service in LIMITED for name in names}
        query = urlencode(
            {"filter": rf"^cluster\.({'|'.join(LIMITED)})\.({'|'.join(names)})$", "format": "json"}
        )
        stats = (await self._get(f"/stats?{query}"))["stats"]
        found = {one["name"]: int(one["value"]) for one in stats if one.get("name") in wanted}
        return {
            service: Taken(*(found.get(f"cluster.{service}.{name}", 0) for name in names))
            for service in LIMITED
        }

    async def modify(self, settings: Mapping[str, str]) -> None:
        """Change Envoy's runtime, until it restarts."""
        try:
            (await self._client.post("/runtime_modify", params=dict(settings))).raise_for_status()
        except httpx.HTTPError as error:
            raise EnvoyDown(str(error)) from error

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            response = (await self._client.get(path)).raise_for_status()
        except httpx.HTTPError as error:
            raise EnvoyDown(str(error)) from error
        value: dict[str, Any] = response.json()
        return value


def _address(host: dict[str, Any]) -> Address:
    socket = host["address"]["socket_address"]
    return Address(socket["address"], socket["port_value"])


def _is_healthy(host: dict[str, Any]) -> bool:
    health = host.get("health_status", {})
    return health.get("eds_health_status") == "HEALTHY" and not any(
        value is True for key, value in health.items() if key != "eds_health_status"
    )

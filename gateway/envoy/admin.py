"""Questions to a running Envoy, through its admin socket: what it has accepted and which replicas it may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

_TIMEOUT_SECONDS = 2.0  # the admin thread answers in milliseconds unless the machine is out of breath


class EnvoyDown(Exception):
    """No Envoy listens on the admin socket. It will read the files when it starts."""


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

    async def versions(self) -> dict[str, str]:
        """Version of each configuration in effect, by the statistic's name."""
        stats = await self._get("/stats?type=TextReadouts&filter=version_text&format=json")
        return {item["name"]: str(item["value"]) for item in stats["stats"] if "name" in item}

    async def healthy(self) -> dict[str, int]:
        """Healthy endpoints of each cluster that is past warming."""
        status = await self._get("/clusters?format=json")
        return {
            cluster["name"]: sum(_is_healthy(host) for host in cluster.get("host_statuses", ()))
            for cluster in status.get("cluster_statuses", ())
        }

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            response = (await self._client.get(path)).raise_for_status()
        except httpx.HTTPError as error:
            raise EnvoyDown(str(error)) from error
        value: dict[str, Any] = response.json()
        return value


def _is_healthy(host: dict[str, Any]) -> bool:
    health = host.get("health_status", {})
    return health.get("eds_health_status") == "HEALTHY" and not any(
        value is True for key, value in health.items() if key != "eds_health_status"
    )

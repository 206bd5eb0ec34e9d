"""The stack under test, as these tests need it: its addresses, and what an operator does through the front door."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Self

import grpc
import httpx

from aios.runtime import contract
from tests.doors.callers import PROJECT, Caller
from tests.doors.doors import call
from tests.doors.rpcs import rpcs
from tests.e2e.stack import Stack

PROCESSES = ("scheduler", "data", "trainer", "inference", "gateway")
"""Every process with a gRPC server of its own."""
ORIGIN = "https://console.example.org"
"""The one web page that may call."""
REVOKED_SECONDS = 5.0
"""What the contract promises: no door takes a revoked token after that."""


@dataclass(frozen=True)
class Live:
    """A running stack."""

    stack: Stack
    address: str
    """Envoy's, as a URL."""
    targets: dict[str, str]
    """gRPC address of each process, behind Envoy."""
    http_behind: str
    """The gateway's HTTP applications, behind Envoy, as a URL."""

    @classmethod
    def prepare(cls, stack: Stack, *projects: str) -> Self:
        """Make the projects."""
        ports = stack.state.ports
        live = cls(
            stack,
            stack.address,
            {name: f"127.0.0.1:{ports[name]}" for name in PROCESSES},
            f"http://127.0.0.1:{ports['gateway_http']}",
        )
        for project in projects:
            live.operate("POST", "/v1/projects", {"name": f"projects/{project}"}, projectId=project)
        return live

    @property
    def through_envoy(self) -> dict[str, str]:
        """Envoy's address, for each process."""
        return dict.fromkeys(PROCESSES, self.stack.target)

    def operate(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """A call as the operator. What is there already is no error."""
        with self.stack.http() as client:
            response = client.request(method, path, json=body, params=query)
        assert response.status_code in (200, 409), response.text
        return response.json()

    def issue(self, project: str) -> dict[str, Any]:
        """A fresh admin's token, and its record."""
        member = f"projects/{project}/members/someone"
        self.operate("PUT", f"/v1/{member}", {"role": "ROLE_ADMIN"})
        issued: dict[str, Any] = self.operate("POST", f"/v1/projects/{project}/tokens", {"member": member})
        return issued

    def revoke(self, issued: dict[str, Any]) -> None:
        self.operate("POST", f"/v1/{issued['token']['name']}:revoke", {})


async def refused_by(live: Live, token: str) -> dict[str, bool]:
    """Whether each door refuses a token, by the door's name."""
    caller = Caller("asking", token, None)
    one_of = {rpc.process: rpc for rpc in reversed(rpcs()) if _is_plain_read(rpc.path)}

    async def over_grpc(process: str, target: str) -> bool:
        async with grpc.aio.insecure_channel(target) as channel:
            rpc = one_of[process]
            code, _ = await call(channel, rpc, rpc.request(PROJECT).SerializeToString(), caller.metadata)
            return code is grpc.StatusCode.UNAUTHENTICATED

    async def over_http(address: str) -> bool:
        async with httpx.AsyncClient(base_url=address, headers=caller.headers, trust_env=False) as client:
            return (await client.get("/v1/caller")).status_code == 401

    asked = {
        "Envoy HTTP": over_http(live.address),
        "Envoy gRPC": over_grpc("gateway", live.stack.target),
        "gateway HTTP": over_http(live.http_behind),
        **{f"{name} gRPC": over_grpc(name, target) for name, target in live.targets.items()},
    }
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


def revoked_token(live: Live, project: str) -> str:
    """A token that was good, was revoked, and is refused by every door."""
    issued = live.issue(project)
    live.revoke(issued)
    until = time.monotonic() + REVOKED_SECONDS
    while not all((refused := asyncio.run(refused_by(live, issued["secret"]))).values()):
        assert time.monotonic() < until, f"still let in after {REVOKED_SECONDS:g} s: {refused}"
        time.sleep(0.1)
    return str(issued["secret"])


def _is_plain_read(path: str) -> bool:
    declared = contract.method(path)
    name = path.rpartition("/")[2]
    return declared is not None and declared.idempotent and name.startswith("Get")

"""Nothing is served that states no permission: methods, routes of the HTTP applications, and routes of Envoy."""

import asyncio
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import find
from hypothesis import strategies as st
from starlette.routing import Router

from aios.common.v1 import options_pb2
from aios.runtime import contract, roles
from gateway.envoy.routes import PREDICT, PREDICTORS
from gateway.http import app as http_app
from gateway.http.artifacts import Artifacts
from gateway.http.pages import Page, Stated
from gateway.openai.app import OpenAI
from tests.doors.callers import Caller
from tests.doors.live import Live
from tests.doors.rpcs import FOREIGN, contract_services, rpcs

RBAC, JWT = "envoy.filters.http.rbac", "envoy.filters.http.jwt_authn"
BODIES = {
    "/v1/chat/completions": {"model": "none", "messages": [{"role": "user", "content": "any"}]},
    "/v1/completions": {"model": "none", "prompt": "any"},
    "/v1/embeddings": {"model": "none", "input": "any"},
}
"""What these read before they ask who may."""
MISSING = {400, 404, 501}
"""Statuses of what is not there: whoever gets one was let through."""
OPEN_AT_ENVOY = {"/healthz", "/readyz", "/grpc.health.v1.Health/"}
"""What the door answers without a token. A new one is a decision: it belongs here and into docs/security.md."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Stated]:
    """Every route of the HTTP applications that no proto declares."""

    async def build() -> Router:
        channels = {name: grpc.aio.insecure_channel("127.0.0.1:1") for name in DOMAINS}
        openai = OpenAI(channels, "127.0.0.1:1")
        artifacts = Artifacts(channels, tmp_path_factory.mktemp("spool"))
        try:
            return http_app.build(channels, more=[*openai.routes(), *artifacts.routes()])
        finally:
            await asyncio.gather(
                openai.close(), artifacts.close(), *(each.close() for each in channels.values())
            )

    found = asyncio.run(build()).routes
    assert found
    assert all(isinstance(route, Stated) for route in found), "a route that states no permission"
    return [route for route in found if isinstance(route, Stated)]


DOMAINS = sorted({service.full_name.split(".")[1] for service in contract_services()})


def test_every_method_states_a_permission_that_some_role_has() -> None:
    for rpc in rpcs():
        assert rpc.permission in roles.KNOWN, f"{rpc} states {rpc.permission!r}: see aios.runtime.roles"
        assert rpc.permission not in roles.OPERATOR or not roles.allows("admin", rpc.permission)


def test_only_health_needs_no_token() -> None:
    assert {str(rpc) for rpc in rpcs() if rpc.permission == roles.PUBLIC} == {"Health.Check", "Health.Watch"}
    assert not [name for name, can in roles.ROLES.items() if roles.PUBLIC in can]


def test_every_method_under_a_project_names_it_in_its_path() -> None:
    """Else the interceptor could not keep projects apart."""
    for service in contract_services():
        if service.GetOptions().Extensions[options_pb2.dialect]:
            continue  # another API's field names, and nothing but the project of the caller's token
        for method in service.methods:
            declared = contract.method(f"/{service.full_name}/{method.name}")
            assert declared is not None
            named = {field.name for field in method.input_type.fields} & {"parent", "name"}
            assert named <= set(declared.resources), (
                f"{declared.path} takes {named} past the check of its project"
            )


def test_the_gateway_transcodes_every_service_there_is() -> None:
    served = {service.full_name for service in http_app.services()}
    assert served == {service.full_name for service in contract_services()}


async def test_every_process_serves_nothing_that_these_tests_do_not_know(
    live: Live, everyone: dict[str, Caller]
) -> None:
    known = {service.full_name for service in contract_services()} | set(FOREIGN)
    found: set[str] = set()
    for target in (live.stack.target, *live.targets.values()):
        found |= await _reflected(target, everyone["viewer"])
    assert found <= known, "a service whose methods nobody has tried"
    assert found >= {service.full_name for service in contract_services()}


@pytest.mark.parametrize("door", ["Envoy", "gateway"])
def test_every_page_is_shown_to_whom_its_permission_says(
    live: Live, everyone: dict[str, Caller], pages: list[Stated], door: str
) -> None:
    address = live.address if door == "Envoy" else live.http_behind
    asked = [(page, *each) for page in pages for each in page.permissions.items()]
    with httpx.Client(base_url=address, trust_env=False) as client:
        for page, method, permission in asked:
            path = re.sub(r"\{\w+(:path)?\}", "none", page.path)
            for caller in everyone.values():
                status = client.request(
                    method, path, headers=caller.headers, json=BODIES.get(path)
                ).status_code
                if permission != roles.PUBLIC and caller.role is None:
                    expected = {401}
                elif permission != roles.PUBLIC and not roles.allows(str(caller.role), permission):
                    expected = {403}
                else:  # where a path names something, there is none
                    expected = {200} if path == page.path and path not in BODIES else MISSING
                assert status in expected, f"{method} {path} said {status} to {caller.name}"


def test_a_page_without_a_permission_cannot_be_built() -> None:
    async def answer(_: Any) -> Any:
        raise AssertionError

    for permission in ("", "jobs.get", "everything"):
        with pytest.raises(ValueError, match="/page"):
            Page("/page", permission, answer, None)  # type: ignore[arg-type]


def test_envoy_opens_what_is_listed_and_asks_a_role_everywhere_else(live: Live) -> None:
    opened = set()
    for route, rbac in envoy_routes(live):
        if route.get("typed_per_filter_config", {}).get(JWT, {}).get("disabled"):
            opened.add(route["match"].get("path") or route["match"]["prefix"])
        else:
            assert allowed(rbac), f"no role is asked for at {route['match']}"
            assert allowed(rbac) <= set(PREDICTORS if _predicts(route) else roles.ROLES), route["match"]
    assert opened == OPEN_AT_ENVOY


def test_every_route_of_envoy_lets_in_whom_it_says(live: Live, everyone: dict[str, Caller]) -> None:
    with httpx.Client(base_url=live.address, trust_env=False) as client:
        for route, rbac in envoy_routes(live):
            opened = route.get("typed_per_filter_config", {}).get(JWT, {}).get("disabled")
            for caller in everyone.values():
                said = refusal(_ask(client, route["match"], caller))
                if opened:
                    expected = None
                elif caller.role is None:
                    expected = "UNAUTHENTICATED"
                else:
                    expected = None if caller.role in allowed(rbac) else "PERMISSION_DENIED"
                assert said == expected, f"{caller.name} at {route['match']}: {said}, not {expected}"


def envoy_routes(live: Live) -> Iterator[tuple[Any, Any]]:
    """Each route that Envoy has now, and the rules of roles in force there."""
    config = json.loads((live.stack.home / "envoy" / "routes.json").read_text())
    for resource in config["resources"]:
        for host in resource["virtual_hosts"]:
            for route in host["routes"]:
                own = route.get("typed_per_filter_config", {})
                yield route, own.get(RBAC, host["typed_per_filter_config"][RBAC])


def allowed(rbac: Any) -> set[str]:
    """The roles that a route's rules let in."""
    policies = rbac.get("rbac", {}).get("rules", {}).get("policies", {})
    return {
        principal["header"]["string_match"]["exact"]
        for policy in policies.values()
        for principal in policy["principals"]
    }


def refusal(response: httpx.Response) -> str | None:
    """Why the caller was refused, over HTTP or gRPC; None where it was let through."""
    by_status = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    by_code = {"16": "UNAUTHENTICATED", "7": "PERMISSION_DENIED"}
    return by_status.get(response.status_code) or by_code.get(response.headers.get("grpc-status", ""))


def _predicts(route: Any) -> bool:
    """Whether a route leads to replicas, or stays where they are looked for."""
    action = route.get("route", {})
    return "weighted_clusters" in action or action.get("cluster") == "none"


def _ask(client: httpx.Client, match: Any, caller: Caller) -> httpx.Response:
    """A request that the route is the first to match."""
    path = match.get("path") or (
        match["prefix"] + "any" if "prefix" in match else _sample(match["safe_regex"]["regex"])
    )
    over_grpc = "grpc" in match or path.count(".") > 1 or PREDICT in path
    headers = {"content-type": "application/grpc", "te": "trailers"} if over_grpc else {}
    for header in match.get("headers", ()):
        wanted = header["string_match"]["exact"]
        headers[header["name"]] = f"not {wanted}" if header.get("invert_match") else wanted
    headers.pop(":method", None)
    body = b"\0\0\0\0\0" if over_grpc else None
    method = "POST" if over_grpc else "GET"
    return client.request(method, path, headers=caller.headers | headers, content=body)


@cache
def _sample(regex: str) -> str:
    """The simplest path that a regular expression takes."""
    return str(find(st.from_regex(regex, fullmatch=True), lambda _: True))


async def _reflected(target: str, caller: Caller) -> set[str]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), metadata=caller.metadata)
        async for response in call:
            return {service.name for service in response.list_services_response.service}
    raise AssertionError(f"{target} describes nothing")

"""The gateway as a process with a real Envoy in front: one trace, revocation at the edge, kill -9."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton

from aios.stack import secrets
from aios.stack.layout import Layout
from tests.servers import free_port

READY_SECONDS = 20.0
REVOKED_SECONDS = 5.0  # what the contract promises


class Door:
    """A gateway and its Envoy."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._home = home
        names = "envoy gateway gateway_http scheduler data trainer inference".split()
        ports = {name: free_port() for name in names}
        addresses = {f"AIOS_{name.upper()}_ADDRESS": f"127.0.0.1:{port}" for name, port in ports.items()}
        nats = {"AIOS_NATS_URL": f"nats://127.0.0.1:{free_port()}"}
        self._env = {**os.environ, "AIOS_HOME": str(home), "AIOS_DRAIN_SECONDS": "1", **addresses, **nats}
        self.port = ports["envoy"]
        secrets.prepare(Layout(home))
        self.token = (home / "secrets" / "operator.token").read_text()
        self.gateway = self.start("gateway")
        self.envoy = self.start("gateway.envoy", str(home / "envoy"))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=15)
        stack.enter_context(self.http)
        until(lambda: self.get("/v1/caller").status_code == 200, READY_SECONDS)

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._home / f"{module}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=self._env, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def get(self, path: str, token: str = "") -> httpx.Response:
        return self.http.get(path, headers={"authorization": f"Bearer {token or self.token}"})

    def post(self, path: str, body: Any = None) -> Any:
        response = self.http.post(path, json=body, headers={"authorization": f"Bearer {self.token}"})
        assert response.status_code == 200, response.text
        return response.json()


def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with ExitStack() as stack:
        yield Door(tmp_path_factory.mktemp("door"), stack)


def test_one_trace_shows_the_edge_the_transcoder_and_the_service(door: Door) -> None:
    trace = door.get("/v1/projects").headers["x-aios-trace-id"]
    path = f"/v1/projects/default/traces/{trace}"
    until(lambda: len(door.get(path).json().get("spans", [])) >= 4, 10)
    spans = door.get(path).json()["spans"]
    by_id = {span["spanId"]: span for span in spans}
    service = next(s for s in spans if s["name"] == "aios.identity.v1.IdentityService/ListProjects")
    transcoder = by_id[service["parentSpanId"]]
    assert transcoder["name"] == "HTTP GET /v1/projects"
    assert by_id[transcoder["parentSpanId"]]["service"] == "envoy"
    listed = door.get("/v1/projects/default/traces").json()["traces"]
    assert path.removeprefix("/v1/") in [found["name"] for found in listed]


def test_without_a_token_nothing_is_open_but_health(door: Door) -> None:
    assert door.http.get("/v1/projects").status_code == 401
    assert door.http.get("/healthz").status_code == 200
    assert door.http.get("/readyz").json()["services"]["identity"] == "SERVING"


def test_the_inference_protocol_asks_about_the_server(door: Door) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{door.port}") as client:
        headers = {"authorization": f"Bearer {door.token}"}
        assert client.is_server_live(headers=headers)
        assert client.is_server_ready(headers=headers)
        assert client.get_server_metadata(headers=headers).name == "aios"
    assert door.get("/v2/health/ready").status_code == 200


def test_a_revoked_token_is_refused_at_the_edge_in_time(door: Door) -> None:
    issued = door.post("/v1/projects/default/tokens", {"displayName": "lost laptop"})
    assert door.get("/v1/caller", issued["secret"]).status_code == 200
    door.post(f"/v1/{issued['token']['name']}:revoke")
    until(lambda: door.get("/v1/caller", issued["secret"]).status_code in (401, 403), REVOKED_SECONDS)
    assert door.get("/v1/caller").status_code == 200


def test_a_killed_gateway_comes_back_with_what_it_knew(door: Door) -> None:
    issued = door.post("/v1/projects/default/tokens", {})
    revoked = door.post("/v1/projects/default/tokens", {})
    door.post(f"/v1/{revoked['token']['name']}:revoke")
    trace = door.get("/v1/projects").headers["x-aios-trace-id"]
    path = f"/v1/projects/default/traces/{trace}"
    until(lambda: door.get(path).status_code == 200, 10)

    door.gateway.kill()
    door.gateway.wait()
    assert door.http.get("/healthz").status_code == 200
    assert door.get("/v1/caller").status_code == 503

    door.gateway = door.start("gateway")
    until(lambda: door.get("/v1/caller").status_code == 200, READY_SECONDS)
    assert door.get("/v1/caller", issued["secret"]).status_code == 200
    assert door.get("/v1/caller", revoked["secret"]).status_code in (401, 403)
    assert door.get(path).status_code == 200


def test_a_stopped_gateway_drains_and_ends_well(door: Door) -> None:
    door.gateway.terminate()
    assert door.gateway.wait(timeout=10) == 0
    door.gateway = door.start("gateway")
    until(lambda: door.get("/v1/caller").status_code == 200, READY_SECONDS)

"""A platform whose processes know each other by certificates: what is not one of them gets no answer, whatever its token."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import pytest

from aios.config import Settings
from aios.errors import InvalidArgument, Unavailable
from aios.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from aios.runtime.channel import connect, service_channel
from aios.runtime.peers import AUTHORITY, CERTIFICATE, KEY, Peer
from aios.stack import health, probes, secrets
from aios.stack.authority import Authority
from aios.stack.layout import Layout
from tests.servers import free_port

READY_SECONDS = 30.0
CALLER = identity_service_pb2.GetCallerRequest()


def make_peer(home: Path, name: str) -> None:
    """A certificate of an authority of this home's own, where a process of the platform looks for it."""
    directory = Layout(home).secrets
    authority = Authority(directory / "authority")
    certificate, key = authority.issue(name)
    for source, target in ((certificate, CERTIFICATE), (key, KEY), (authority.certificate, AUTHORITY)):
        (directory / target).write_bytes(source.read_bytes())


@dataclass
class Platform:
    """A gateway behind its Envoy; the other services are away."""

    settings: Settings
    token: str

    @property
    def door(self) -> str:
        return f"https://{self.settings.envoy_address}"

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.settings.secret(AUTHORITY))

    def ask(self) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        with httpx.Client(verify=self.trusting(), trust_env=False, timeout=5) as http:
            return http.get(f"{self.door}/v1/caller", headers=headers)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("tls")
    secrets.prepare(Layout(home))
    make_peer(home, "gateway")
    names = "envoy gateway gateway_http scheduler data trainer inference".split()
    env = {
        "AIOS_HOME": str(home),
        "AIOS_MUTUAL_TLS": "1",
        "AIOS_DRAIN_SECONDS": "1",
        "AIOS_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "AIOS_TOKEN_FILE": str(home / "secrets" / "gateway.token"),
        **{f"AIOS_{name.upper()}_ADDRESS": f"127.0.0.1:{free_port()}" for name in names},
    }
    made = Platform(Settings.load(env), (home / "secrets" / "operator.token").read_text())
    with ExitStack() as stack:
        for module in (["gateway"], ["gateway.envoy", str(home / "envoy")]):
            log = stack.enter_context((home / f"{module[0]}.log").open("ab"))
            process = subprocess.Popen([sys.executable, "-m", *module], env={**os.environ, **env}, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if made.ask().status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (home / "gateway.log").read_text()[-2000:]
            time.sleep(0.1)
        yield made


def caller(address: str, credentials: grpc.ChannelCredentials | None, token: str) -> str:
    """Who the gateway says that we are."""

    async def ask() -> str:
        async with connect(address, lambda: token, credentials=credentials) as channel:
            stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
            return str((await stub.GetCaller(CALLER, timeout=3)).subject)

    return asyncio.run(ask())


def test_a_call_passes_the_door_and_the_services_behind_it_all_over_tls(platform: Platform) -> None:
    assert platform.ask().json()["subject"] == "operator"
    peer = Peer.of(platform.settings)
    assert peer is not None
    roots = grpc.ssl_channel_credentials(peer.authority.read_bytes())
    assert caller(platform.settings.envoy_address, roots, platform.token) == "operator"


def test_a_peer_reaches_a_service_itself(platform: Platform) -> None:
    async def ask() -> str:
        async with service_channel(platform.settings, "gateway") as channel:
            stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
            return str((await stub.GetCaller(CALLER)).subject)

    assert asyncio.run(ask()) == "gateway"


@pytest.mark.parametrize("who", ["in plain text", "without a certificate", "with a stranger's"])
def test_nobody_else_gets_an_answer_whatever_the_token(platform: Platform, who: str, tmp_path: Path) -> None:
    make_peer(tmp_path, "gateway")
    stranger = Peer.of(Settings.load({"AIOS_HOME": str(tmp_path), "AIOS_MUTUAL_TLS": "1"}))
    ours = platform.settings.secret(AUTHORITY)
    assert stranger is not None
    credentials = {
        "in plain text": None,
        "without a certificate": grpc.ssl_channel_credentials(ours.read_bytes()),
        "with a stranger's": grpc.ssl_channel_credentials(
            ours.read_bytes(), stranger.key.read_bytes(), stranger.certificate.read_bytes()
        ),
    }[who]
    with pytest.raises(Unavailable):
        caller(platform.settings.gateway_address, credentials, platform.token)


def test_the_http_applications_too_answer_peers_alone(platform: Platform) -> None:
    address = platform.settings.gateway_http_address
    peer = Peer.of(platform.settings)
    assert peer is not None
    with httpx.Client(verify=peer.client_context(), trust_env=False) as http:
        assert http.get(f"https://{address}/healthz").status_code == 200
    for url, trusted in ((f"http://{address}/healthz", False), (f"https://{address}/healthz", True)):
        with (
            httpx.Client(verify=platform.trusting() if trusted else False, trust_env=False) as http,
            pytest.raises(httpx.TransportError),
        ):
            http.get(url)


def test_the_door_speaks_no_plain_text_and_refuses_a_stranger_as_a_server(
    platform: Platform, tmp_path: Path
) -> None:
    with httpx.Client(trust_env=False) as http, pytest.raises(httpx.TransportError):
        http.get(f"http://{platform.settings.envoy_address}/healthz")
    make_peer(tmp_path, "envoy")
    other = ssl.create_default_context(cafile=Layout(tmp_path).secrets / AUTHORITY)
    with httpx.Client(verify=other, trust_env=False) as http, pytest.raises(httpx.ConnectError):
        http.get(f"{platform.door}/healthz")


def test_a_health_check_is_a_peer(platform: Platform) -> None:
    asyncio.run(health.probe_of("gateway", platform.settings)())
    plain = replace(platform.settings, mutual_tls=False)
    with pytest.raises(probes.NotReady):
        asyncio.run(health.probe_of("gateway", plain)())


def test_a_job_calls_the_door_with_a_token_and_trusts_the_authority_it_was_given(platform: Platform) -> None:
    code = (
        "import asyncio, sys\n"
        "from aios.identity.v1 import identity_service_pb2 as pb, identity_service_pb2_grpc as stubs\n"
        "from aios.runtime.channel import door_channel\n"
        "async def ask():\n"
        "    async with door_channel(sys.argv[1], lambda: sys.argv[2]) as channel:\n"
        "        print((await stubs.IdentityServiceStub(channel).GetCaller(pb.GetCallerRequest())).subject)\n"
        "asyncio.run(ask())\n"
    )
    command = [sys.executable, "-c", code, platform.door, platform.token]
    trust = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(platform.settings.secret(AUTHORITY))}
    done = subprocess.run(command, env={**os.environ, **trust}, capture_output=True, text=True)
    assert done.stdout.strip() == "operator", done.stderr[-2000:]


def test_a_process_without_its_certificate_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"peer\.crt"):
        Peer.of(Settings.load({"AIOS_HOME": str(tmp_path), "AIOS_MUTUAL_TLS": "1"}))

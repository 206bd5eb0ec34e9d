"""Projects see nothing of each other, an attempt is nothing but itself, and what stands behind the doors is locked too."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from aios.runtime import roles
from tests.doors.callers import OTHER_PROJECT, PROJECT, Caller, Outcome
from tests.doors.doors import QUIET_SECONDS, call, each
from tests.doors.live import Live
from tests.doors.rpcs import Rpc, roles_with, rpcs

SECRET = "only-the-others-know-this"


@pytest.fixture(scope="module")
def theirs(live: Live) -> list[str]:
    """Names of what the other project has; each holds the secret."""
    parent = f"/v1/projects/{OTHER_PROJECT}"
    command = {"command": ["true"], "environment": {"SECRET": SECRET}, "resources": {"cpuMillis": "1"}}
    made = [
        live.operate("POST", f"{parent}/datasets", {"description": SECRET}, datasetId="theirs"),
        live.operate("POST", f"{parent}/models", {"description": SECRET}, modelId="theirs"),
        live.operate("POST", f"{parent}/jobs", {"spec": command}, jobId="theirs"),
        live.operate("PUT", f"{parent}/members/theirs", {"role": "ROLE_ADMIN"}),
    ]
    return [
        f"projects/{OTHER_PROJECT}",
        *(one["name"] for one in made if "name" in one),
        f"projects/{OTHER_PROJECT}/jobs/theirs",
        f"projects/{OTHER_PROJECT}/datasets/theirs",
        f"projects/{OTHER_PROJECT}/models/theirs",
        f"projects/{OTHER_PROJECT}/models/theirs/versions/latest",
    ]


@pytest.mark.parametrize(
    "header",
    [
        ("grpc-timeout", "1x"),
        ("grpc-encoding", "none such"),
        ("some-bin", "no base64!"),
        ("grpc-previous-rpc-attempts", "-"),
    ],
)
def test_a_header_that_nobody_can_read_fails_the_call_that_has_it_and_no_other(
    live: Live, everyone: dict[str, Caller], header: tuple[str, str]
) -> None:
    """Calls of all callers share Envoy's connections, and gRPC compresses their headers by what came before."""
    bad = {**everyone["viewer"].headers, "content-type": "application/grpc-web+proto", header[0]: header[1]}
    path = "/aios.scheduler.v1.SchedulerService/ListNodes"
    metadata = (*everyone["others' admin"].metadata, ("some-bin", b"base64"))
    with (
        httpx.Client(base_url=live.address, trust_env=False) as client,
        grpc.insecure_channel(live.stack.target) as channel,
    ):
        nodes: Any = channel.unary_unary(path)
        for _ in range(10):
            refused = client.post(path, content=bytes(5), headers=bad)
            assert refused.headers["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0]), (
                refused.headers
            )
            for timeout in (10, None, 99_999):
                nodes(b"", metadata=metadata, timeout=timeout)


async def test_no_field_of_any_request_shows_another_projects_things(
    live: Live, everyone: dict[str, Caller], theirs: list[str]
) -> None:
    """Names in the path are checked at the door; here every other text of every request names something of theirs."""
    admin = everyone["admin"]
    asked = [
        (rpc, request)
        for rpc in rpcs()
        if admin.expected(rpc) is Outcome.PASSED and rpc.resources and not rpc.method.client_streaming
        for name in theirs
        for request in requests_naming(rpc, name)
    ]
    assert len(asked) > 100
    async with grpc.aio.insecure_channel(live.stack.target) as channel:

        async def leak(one: tuple[Rpc, Message]) -> str:
            answer = await _answer(channel, *one, admin)
            return f"{one[0]} with {one[1]}: {answer}" if SECRET in answer else ""

        assert not list(filter(None, await each(leak, asked)))


async def test_another_projects_name_is_answered_alike_whether_it_exists(
    live: Live, everyone: dict[str, Caller], theirs: list[str]
) -> None:
    admin = everyone["admin"]
    async with httpx.AsyncClient(base_url=live.address, headers=admin.headers, trust_env=False) as client:
        for name in theirs:
            there = await client.get(f"/v1/{name}")
            missing = await client.get(f"/v1/{name.replace('theirs', 'nothing')}")
            if there.status_code != 405:
                assert (there.status_code, missing.status_code) == (404, 404)
                assert there.json()["reason"] == missing.json()["reason"] == "NOT_FOUND"
                assert there.json()["detail"].replace("theirs", "nothing") == missing.json()["detail"]


async def test_a_workers_token_is_good_for_its_own_job_and_attempt_alone(
    live: Live, everyone: dict[str, Caller]
) -> None:
    mine = [
        rpc
        for rpc in rpcs()
        if "worker" in (who := roles_with(rpc.permission)) and who <= {"worker", "service"}
    ]
    mine = [rpc for rpc in mine if rpc.resources]
    assert len(mine) >= 6
    for rpc in mine:
        async with grpc.aio.insecure_channel(live.targets[rpc.process]) as channel:
            request: Any = rpc.request(PROJECT)
            for holder in (request, getattr(request, "checkpoint", None)):
                if holder is not None and "epoch" in holder.DESCRIPTOR.fields_by_name:
                    holder.epoch = 1
            code, text = await call(channel, rpc, request.SerializeToString(), everyone["worker"].metadata)
            assert code is grpc.StatusCode.NOT_FOUND, f"{rpc}: {code} {text}"


async def test_nobody_but_a_service_may_ask_for_every_project(
    live: Live, everyone: dict[str, Caller]
) -> None:
    for name in ("viewer", "editor", "admin", "worker"):
        for rpc in rpcs():
            if rpc.resources and rpc.lies_in_a_project and roles.allows(name, rpc.permission):
                async with grpc.aio.insecure_channel(live.targets[rpc.process]) as channel:
                    body = rpc.request("-").SerializeToString()
                    code, _ = await call(channel, rpc, body, everyone[name].metadata)
                    assert code is grpc.StatusCode.NOT_FOUND, f"{name} at {rpc}"


def test_the_bus_and_the_object_store_are_closed_to_whom_has_no_account(live: Live) -> None:
    ports = live.stack.state.ports
    with socket.create_connection(("127.0.0.1", ports["nats"])) as nats:
        assert b'"auth_required":true' in nats.recv(4096)
        nats.sendall(b"CONNECT {}\r\nPING\r\n")
        assert b"Authorization Violation" in nats.recv(4096)
    with httpx.Client(trust_env=False) as client:
        for method, path in (("GET", "/"), ("GET", "/aios"), ("PUT", "/aios/x"), ("DELETE", "/aios")):
            assert client.request(method, f"http://127.0.0.1:{ports['s3']}{path}").status_code == 403
        for path in ("/buckets/", "/buckets/aios/", "/"):
            assert client.get(f"http://127.0.0.1:{ports['seaweed_filer']}{path}").status_code in (401, 404)
        volumes = f"http://127.0.0.1:{ports['seaweed_volume']}"
        assert client.get(f"{volumes}/1,0000000000").status_code == 401
        assert client.put(f"{volumes}/1,0000000000", content=b"x").status_code == 401


def test_what_the_home_keeps_is_closed_to_other_users(live: Live) -> None:
    home = live.stack.home
    for path in (home, home / "secrets", *(home / "secrets").iterdir()):
        assert not path.stat().st_mode & 0o077, f"{path} is open to others"


def requests_naming(rpc: Rpc, name: str) -> Iterator[Message]:
    """The request with `name` in one text after another, wherever the path does not say it."""
    for path in _texts(rpc.request(PROJECT).DESCRIPTOR, 3):
        if path in rpc.resources:
            continue
        request: Any = rpc.request(PROJECT)
        holder = request
        *steps, last = path.split(".")
        for step in steps:
            holder = getattr(holder, step)
        setattr(holder, last, name)
        yield request


def _texts(message: Any, depth: int) -> Iterator[str]:
    """Paths of the strings in a message."""
    for field in message.fields:
        if field.is_repeated:
            continue
        if field.type == field.TYPE_STRING:
            yield field.name
        elif field.message_type is not None and depth:
            yield from (f"{field.name}.{path}" for path in _texts(field.message_type, depth - 1))


async def _answer(channel: grpc.aio.Channel, rpc: Rpc, request: Message, caller: Caller) -> str:
    """Everything that a call says."""
    body: Any = request.SerializeToString()
    options: Any = {"metadata": caller.metadata, "timeout": 10}
    try:
        if rpc.method.server_streaming:
            stream: Any = channel.unary_stream(rpc.path)
            async with asyncio.timeout(QUIET_SECONDS):
                return str(await stream(body, **options).read())
        unary: Any = channel.unary_unary(rpc.path)
        return str(await unary(body, **options))
    except TimeoutError:
        return ""
    except grpc.aio.AioRpcError as error:
        return f"{error.details()} {error.trailing_metadata()}"

"""More calls than a service can take: the door refuses the rest at once, and in words that a client can act on."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from aios.errors import AiosError, ResourceExhausted
from aios.runtime.roles import INTERNAL
from aios.runtime.status import from_rpc_error
from gateway.envoy import limits
from gateway.envoy.admin import Admin
from gateway.envoy.routes import GRPC_STREAMS, HTTP_STREAMS
from gateway.http import app
from gateway.http.rules import Routes
from gateway.shedding import PASSED_MIN, Shed, Shedder
from tests.service.envoy_stack import LOCAL, Stack, envoy

GET = "/aios.data.v1.DataService/GetDataset"
TOO_MANY = limits.CALLS_AT_ONCE * 2
DELAY_SECONDS = 0.3


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture
def slow(stack: Stack) -> Iterator[Stack]:
    """The same, behind which every answer takes its time."""
    stack.echo.delay, stack.app_delay = DELAY_SECONDS, 2.0
    yield stack
    stack.echo.delay = stack.app_delay = 0.0


async def ask(
    channel: grpc.aio.Channel,
    stack: Stack,
    method: str = GET,
    bearer: dict[str, str] | None = None,
    **claims: str,
) -> AiosError | None:
    """The error that a call ended with, if any."""
    unary: Any = channel.unary_unary(method)
    try:
        await unary(b"x", metadata=tuple((bearer or stack.bearer(**claims)).items()), timeout=30)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None


async def flooded(stack: Stack) -> list[AiosError | None]:
    bearer = stack.bearer()
    async with grpc.aio.insecure_channel(f"{LOCAL}:{stack.port}") as channel:
        await channel.channel_ready()
        return await asyncio.gather(*(ask(channel, stack, bearer=bearer) for _ in range(TOO_MANY)))


async def test_what_is_too_much_is_refused_at_once_with_the_time_to_come_back(stack: Stack) -> None:
    bearer = stack.bearer()
    stack.echo.answers.clear()
    async with grpc.aio.insecure_channel(f"{LOCAL}:{stack.port}") as channel:
        calls = [asyncio.ensure_future(ask(channel, stack, bearer=bearer)) for _ in range(TOO_MANY)]
        try:
            ended = asyncio.as_completed(calls)
            refused = [await next(ended) for _ in range(TOO_MANY - limits.CALLS_AT_ONCE)]
        finally:
            stack.echo.answers.set()
        for error in refused:
            assert isinstance(error, ResourceExhausted)
            assert error.reason == "OVERLOADED"
            assert error.retry_after is not None
        assert [await call for call in ended] == [None] * limits.CALLS_AT_ONCE
        began = time.monotonic()
        assert await ask(channel, stack) is None
    assert time.monotonic() - began < 1, "it is over when it is over"


async def test_health_streams_and_the_platforms_own_calls_have_room_of_their_own(slow: Stack) -> None:
    flood = asyncio.create_task(flooded(slow))
    await asyncio.sleep(DELAY_SECONDS / 2)
    async with grpc.aio.insecure_channel(f"{LOCAL}:{slow.port}") as channel:
        watched = ask(channel, slow, "/aios.data.v1.DataService/WatchSomething")
        internal = (ask(channel, slow, role=role) for role in INTERNAL)
        assert await asyncio.gather(watched, *internal) == [None] * 4
        assert await ask(channel, slow, "/grpc.health.v1.Health/Check") is None
    assert any(await flood)


async def test_over_http_it_is_429_with_the_header_to_come_back(slow: Stack) -> None:
    limit = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=slow.url, headers=slow.bearer(), limits=limit, timeout=30) as web:
        found = await asyncio.gather(*(web.get("/v1/jobs") for _ in range(TOO_MANY)))
    assert set(Counter(response.status_code for response in found)) == {200, 429}
    for response in found:
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
            problem = response.json()
            assert (problem["code"], problem["reason"]) == ("RESOURCE_EXHAUSTED", "OVERLOADED")


async def test_while_calls_are_refused_few_are_let_in_and_the_others_refused_before_they_cost_anything(
    stack: Stack,
) -> None:
    bearer = stack.bearer()
    admin = Admin(stack.files.admin_socket)
    shedder = Shedder(admin)
    await shedder.look()
    stack.echo.answers.clear()
    async with grpc.aio.insecure_channel(f"{LOCAL}:{stack.port}") as channel:
        calls = [asyncio.ensure_future(ask(channel, stack, bearer=bearer)) for _ in range(TOO_MANY)]
        ended = asyncio.as_completed(calls)
        for _ in range(TOO_MANY - limits.CALLS_AT_ONCE):
            await next(ended)
        await shedder.look()
        assert shedder.shed["data"] == Shed(True, PASSED_MIN), "none was answered"
        assert shedder.shed["scheduler"] == Shed(), "each service by itself"
        before, lots = len(stack.echo.seen), (await admin.taken())["data"]
        errors = await asyncio.gather(*(ask(channel, stack, bearer=bearer) for _ in range(100)))
        for error in errors:
            assert isinstance(error, ResourceExhausted)
            assert error.reason == "OVERLOADED"
            assert error.retry_after is not None
        came = (await admin.taken())["data"].refused - lots.refused
        assert came < 50, "most never came as far as the service"
        assert len(stack.echo.seen) == before
        others = [asyncio.ensure_future(ask(channel, stack, role=role)) for role in INTERNAL]
        stack.echo.answers.set()
        assert await asyncio.gather(*others) == [None] * len(others)
        assert [await call for call in ended] == [None] * limits.CALLS_AT_ONCE
        for _ in range(10):
            await shedder.look()
        assert shedder.shed["data"] == Shed(), "it is over when it is over"
        found = await asyncio.gather(*(ask(channel, stack, bearer=bearer) for _ in range(50)))
        assert found == [None] * 50


def test_what_streams_is_known_to_the_door() -> None:

    for binding in Routes(app.services()):
        streams = binding.method.client_streaming or binding.method.server_streaming
        assert bool(re.fullmatch(GRPC_STREAMS, binding.rpc)) == streams, binding.rpc
        assert bool(re.fullmatch(HTTP_STREAMS, binding.template.text)) == streams, binding.template.text

"""Probes against real listeners."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from aios.stack import health as container_health
from aios.stack import probes
from aios.stack.ports import claim_any
from aios.stack.probes import NotReady


@pytest.fixture
async def grpc_server() -> AsyncIterator[tuple[int, health.aio.HealthServicer]]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port, servicer
    await server.stop(None)


async def test_a_grpc_server_is_ready_when_it_says_serving(
    grpc_server: tuple[int, health.aio.HealthServicer],
) -> None:
    port, servicer = grpc_server
    probe = probes.grpc_health("127.0.0.1", port)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await probe()
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(probes.Waiting):
        await probe()


async def test_a_grpc_server_without_health_is_not_ready() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with pytest.raises(NotReady, match="not serving"):
        await probes.grpc_health("127.0.0.1", port)()
    await server.stop(None)


async def test_who_accepts_but_never_answers_is_not_ready() -> None:
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    silent_ones = (
        probes.grpc_health("127.0.0.1", port),
        probes.http("127.0.0.1", port, "/", 200),
        probes.nats("127.0.0.1", port),
    )
    answers = await asyncio.gather(*(probe() for probe in silent_ones), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotReady] * 3
    await probes.tcp("127.0.0.1", port)()
    silent.close()


async def test_nobody_there_is_not_ready() -> None:
    port = claim_any()
    for probe in (probes.tcp("127.0.0.1", port), probes.grpc_health("127.0.0.1", port)):
        with pytest.raises(NotReady, match=str(port)):
            await probe()


async def test_http_takes_only_the_statuses_it_was_given() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await probes.http("127.0.0.1", port, "/", 200, 403)()
    with pytest.raises(NotReady, match="HTTP 403"):
        await probes.http("127.0.0.1", port, "/", 200)()
    server.close()


async def test_a_lease_counts_until_it_has_run_out(tmp_path: Path) -> None:
    file = tmp_path / "lease"
    probe = probes.deadline(file)
    with pytest.raises(NotReady, match="no lease"):
        await probe()
    file.write_text(str(time.monotonic() + 10))
    await probe()
    file.write_text(str(time.monotonic() - 1))
    with pytest.raises(NotReady, match="run out"):
        await probe()


async def test_a_container_is_asked_again_until_its_service_answers() -> None:
    asked = 0

    async def probe() -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise NotReady("it starts")

    await container_health.wait(probe)
    assert asked == 3


async def test_a_container_that_never_answers_says_what_was_seen_last() -> None:
    async def probe() -> None:
        raise NotReady("it does not")

    with pytest.raises(NotReady, match="it does not"):
        await container_health.wait(probe, seconds=0.3)

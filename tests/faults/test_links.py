"""The proxy does what the harness relies on: each trouble is seen from outside, and ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.links import Link, Trouble


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    """A link in front of a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = Link("echo", lambda: port)
    await link.open()
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def ask(link: Link, seconds: float = 5.0) -> float:
    """A round trip on a new connection; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        try:
            writer.write(b"hello")
            if await reader.read(5) != b"hello":
                raise ConnectionResetError
        finally:
            writer.close()
    return time.monotonic() - began


async def test_a_whole_link_passes_everything_on() -> None:
    async with linked() as link:
        await ask(link)


async def test_latency_holds_back_both_ways() -> None:
    async with linked() as link, link.troubled(Trouble.LATENCY, 0.1):
        assert await ask(link) >= 0.2


@pytest.mark.parametrize("trouble", [Trouble.DROP, Trouble.ONE_WAY])
async def test_what_is_dropped_arrives_once_the_link_is_whole(trouble: Trouble) -> None:
    async with linked() as link:
        async with link.troubled(trouble):
            asked = asyncio.create_task(ask(link))
            done, _ = await asyncio.wait({asked}, timeout=0.3)
            assert not done
        assert await asked >= 0.3


async def test_a_refusing_link_breaks_open_connections_and_new_ones() -> None:
    async with linked() as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        async with link.troubled(Trouble.REFUSE):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            with pytest.raises(ConnectionError):
                await ask(link)
        writer.close()
        await ask(link)


async def test_a_reset_is_no_orderly_end() -> None:
    async with linked() as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        link.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_nobody_behind_it_is_an_end_and_no_hang() -> None:
    link = Link("nobody", lambda: 1)
    await link.open()
    with pytest.raises(ConnectionError):
        await ask(link)
    await link.close()

"""A TCP proxy between two parts of the platform, whose traffic can be delayed, stalled, reset or refused."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

CHUNK_BYTES = 65_536


class Trouble(StrEnum):
    """What a link does to what passes through it."""

    NONE = "none"
    LATENCY = "latency"  # every chunk is held back a little
    DROP = "drop"  # bytes stay in the buffer, as on a cut cable, and flow when it is whole again
    ONE_WAY = "one-way"  # the same, for the answers alone
    REFUSE = "refuse"  # open connections are reset, new ones too


class Link:
    """Listens on a port of its own and passes connections on to `upstream()`.

    Args:
        upstream: Asked at each connection; the port to dial on this machine, 0 while there is none.
    """

    def __init__(self, name: str, upstream: Callable[[], int]) -> None:
        self.name = name
        self.port = 0
        self._upstream = upstream
        self._trouble = Trouble.NONE
        self._latency = 0.0
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Break every open connection with RST, as a firewall or a dying router does."""
        for writer in self._connections:
            _reset(writer)

    @asynccontextmanager
    async def troubled(self, trouble: Trouble, latency: float = 0.0) -> AsyncIterator[None]:
        """Make trouble until left. One at a time per link: the later one wins."""
        self._trouble, self._latency = trouble, latency
        if trouble is Trouble.REFUSE:
            self.reset()
        if trouble in (Trouble.DROP, Trouble.ONE_WAY):
            self._whole.clear()
        try:
            yield
        finally:
            self._trouble = Trouble.NONE
            self._whole.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end went away, or the link did
        finally:
            self._connections.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._trouble is Trouble.REFUSE:
            _reset(writer)
            return
        if self._trouble is Trouble.DROP:
            await self._whole.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream())
        self._connections.add(far_writer)
        there = asyncio.create_task(self._pass(reader, far_writer, answers=False))
        back = asyncio.create_task(self._pass(far_reader, writer, answers=True))
        try:
            # An end that stops writing may still read: the connection is over when both have.
            await asyncio.gather(there, back)
        finally:
            there.cancel()
            back.cancel()
            self._connections.discard(far_writer)
            far_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self._trouble is Trouble.LATENCY:
                await asyncio.sleep(self._latency)
            if answers or self._trouble is not Trouble.ONE_WAY:
                await self._whole.wait()
            writer.write(chunk)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

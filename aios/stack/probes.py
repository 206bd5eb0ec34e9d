"""How a process is asked whether it answers. A probe returns, or raises `NotReady` with what it saw."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

PROBE_SECONDS = 2.0
"""A busy two-core machine answers late; a hung process does not answer at all."""

Probe = Callable[[], Coroutine[Any, Any, None]]


_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7  # frame types, RFC 9113
_END_STREAM, _END_HEADERS = 1, 4  # frame flags
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse{status}


class NotReady(Exception):
    """The process does not answer yet, or no longer."""


class Waiting(NotReady):
    """It answers, and says that it waits for another: a restart does not help."""


class Broken(NotReady):
    """It answers, and says that it cannot go on: only a restart helps."""


def tcp(host: str, port: int) -> Probe:
    """Somebody accepts connections."""

    async def probe() -> None:
        _, writer = await _open(host, port)
        writer.close()

    return probe


def nats(host: str, port: int) -> Probe:
    """A NATS server greets with INFO."""

    async def probe() -> None:
        reader, writer = await _open(host, port)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                greeting = await reader.readline()
        except TimeoutError:
            raise NotReady(f"{host}:{port} does not greet") from None
        finally:
            writer.close()
        if not greeting.startswith(b"INFO "):
            raise NotReady(f"{host}:{port} is no NATS server")

    return probe


def http(host: str, port: int, path: str, *accepted: int, broken: int = 0) -> Probe:
    """`GET path` answers with one of the statuses; with status `broken` when only a restart helps."""

    async def probe() -> None:
        await _expect(*await _open(host, port), path, accepted, broken)

    return probe


def http_socket(socket: Path, path: str, *accepted: int) -> Probe:
    """The same over a unix socket."""

    async def probe() -> None:
        try:
            streams = await asyncio.open_unix_connection(socket)
        except OSError as error:
            raise NotReady(f"{socket.name}: {error.strerror}") from None
        await _expect(*streams, path, accepted)

    return probe


def grpc_health(host: str, port: int, tls: "ssl.SSLContext | None" = None) -> Probe:
    """`grpc.health.v1.Health/Check` says SERVING; NOT_SERVING is `Waiting`. Asked over `tls` where that is given.

    Spoken by hand, six frames of HTTP/2: a supervisor that loaded gRPC could no longer fork safely, and would cost
    20 MB more for as long as it lives.
    """
    authority = f"{host}:{port}".encode()
    headers = b"\x83\x86"  # :method POST, :scheme http, from HPACK's static table
    headers += b"\x04" + _hpack(b"/grpc.health.v1.Health/Check") + b"\x01" + _hpack(authority)
    headers += b"\x0f\x10" + _hpack(b"application/grpc") + b"\x00" + _hpack(b"te") + _hpack(b"trailers")
    request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
    request += _frame(_HEADERS, _END_HEADERS, 1, headers) + _frame(_DATA, _END_STREAM, 1, b"\0" * 5)

    async def probe() -> None:
        reader, writer = await _open(host, port, tls)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                writer.write(request)
                answer = await _first_message(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            raise NotReady(f"{host}:{port}: no health answer") from None
        finally:
            writer.close()
        if answer == _NOT_SERVING:
            raise Waiting(f"{host}:{port}: not serving now")
        if answer != _SERVING:
            raise NotReady(f"{host}:{port}: not serving")

    return probe


def deadline(file: Path) -> Probe:
    """A file holds a time on the monotonic clock that has not passed: its writer renews a lease in it."""

    async def probe() -> None:
        try:
            until = float(file.read_text())
        except (OSError, ValueError):
            raise NotReady("it holds no lease yet") from None
        if until < time.monotonic():
            raise NotReady("its lease has run out")

    return probe


def every(*probes: Probe) -> Probe:
    """All of them."""

    async def probe() -> None:
        for one in probes:
            await one()

    return probe


async def _open(
    host: str, port: int, tls: "ssl.SSLContext | None" = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await asyncio.open_connection(host, port, ssl=tls)
    except (OSError, TimeoutError) as error:
        raise NotReady(f"{host}:{port}: {getattr(error, 'strerror', None) or 'no connection'}") from None


async def _expect(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    accepted: tuple[int, ...],
    broken: int = 0,
) -> None:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
            status_line = (await reader.readline()).split()
    except (OSError, TimeoutError, ValueError):
        raise NotReady(f"GET {path}: no answer") from None
    finally:
        writer.close()
    status = int(status_line[1]) if len(status_line) > 1 and status_line[1].isdigit() else 0
    if broken and status == broken:
        raise Broken(f"GET {path}: HTTP {status}")
    if status not in accepted:
        raise NotReady(f"GET {path}: HTTP {status or 'none'}")


async def _first_message(reader: asyncio.StreamReader) -> bytes:
    """The first gRPC message on stream 1; empty when the call ends without one."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF
        if kind == _DATA and stream == 1 and payload:
            return payload[5:]
        if kind == _GOAWAY or (stream == 1 and (kind == _RST_STREAM or flags & _END_STREAM)):
            return b""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _hpack(text: bytes) -> bytes:
    """A string of at most 126 bytes, not compressed."""
    return bytes((len(text),)) + text

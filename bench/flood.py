"""A load that costs little: one process, some HTTP/2 connections, requests written as ready bytes.

Measures what shares the machine with it, so it takes a tenth of what a client library takes: it reads of an answer
only what kind it is, by the frames it comes in and the bytes of its status. Source: RFC 9113, RFC 7541.

Run as `python -m bench.flood`, a JSON object of `Flood`'s fields on stdin; prints a `Result` as JSON.
"""

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

CONNECTIONS = 8
STREAMS_MAX = 1000  # of one connection: Envoy's own limit is 1024
TICK_SECONDS = 0.0003
PATIENCE_SECONDS = 10.0

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NUMBER, A_UUID = "%NUMBER%", "%UUID%".ljust(36, "_")
"""What becomes another number, and another UUID, in each request."""
_NUMBER, _UUID = NUMBER.encode(), A_UUID.encode()
_OK = b"\x88"  # `:status: 200`, from HPACK's static table
# `grpc-status: 8` and `:status: 429`, as an encoder without a table of its own may write them.
_STATUS = b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f"
_REFUSED = (b"grpc-status\x018", _STATUS + b"\x018", _STATUS + b"\x81\x7b", b"429", b"\x68\x4f\xff")


@dataclass(frozen=True)
class Flood:
    """What is to be sent."""

    address: str
    """`host:port`."""
    headers: dict[str, str]
    body_hex: str
    """May hold NUMBER and A_UUID; the headers, NUMBER."""
    seconds: float
    callers: int = 0
    """Who each send one request after another. 0: requests come by themselves,"""
    per_second: float = 0.0
    """at this rate and at random moments, whether those before were answered or not."""
    core: int | None = None
    """The one processor that the load may use, where it may not use all."""
    warm: float = 1.0
    """Seconds at the beginning that are not measured."""


@dataclass
class Result:
    """What came back, of what was sent while it was measured."""

    seconds: float = 0.0
    sent: int = 0
    ok: int = 0
    refused: int = 0
    """With RESOURCE_EXHAUSTED or 429."""
    failed: int = 0
    """With anything else, or not at all."""
    ok_millis: list[float] = field(default_factory=list)
    refused_millis: list[float] = field(default_factory=list)
    late_millis: list[float] = field(default_factory=list)
    """Of requests that come by themselves: how much later than they should they were sent. It counts as waiting."""

    @property
    def ok_per_second(self) -> float:
        return self.ok / self.seconds


def run(flood: Flood) -> Result:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.flood"],
        input=json.dumps(asdict(flood)),
        capture_output=True,
        text=True,
        check=True,
        timeout=flood.seconds + 3 * PATIENCE_SECONDS,
    )
    return Result(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    def __init__(self, sender: "_Sender") -> None:
        self._sender = sender
        self._buffer = b""
        self._next = 1
        self._began: dict[int, float] = {}
        self._first: dict[int, bytes] = {}
        self._data: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = (1).to_bytes(2) + (0).to_bytes(4) + (4).to_bytes(2) + (2**31 - 1).to_bytes(4)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        transport.write(_frame(_WINDOW, 0, 0, (2**30).to_bytes(4)))

    @property
    def under_way(self) -> int:
        return len(self._began)

    @property
    def full(self) -> bool:
        return self.under_way >= STREAMS_MAX

    def send(self, head: bytes, body: bytes, began: float) -> None:
        stream, self._next = self._next, self._next + 2
        self._began[stream] = began
        if body:
            frames = _frame(_HEADERS, _END_HEADERS, stream, head) + _frame(_DATA, _END_STREAM, stream, body)
        else:
            frames = _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, head)
        self._transport.write(frames)

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3])
            if len(buffer) < end:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9])
            self._take(kind, flags, stream, buffer[at + 9 : end])
            at = end
        self._buffer = buffer[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._first.setdefault(stream, payload)
        elif kind == _DATA:
            self._data.add(stream)
            if payload:
                # What was read is given back, so that the other side may always send.
                self._transport.write(_frame(_WINDOW, 0, 0, len(payload).to_bytes(4)))
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        if stream and (kind == _RST or (kind in (_HEADERS, _DATA) and flags & _END_STREAM)):
            self._end(stream, payload if kind == _HEADERS else b"", reset=kind == _RST)

    def _end(self, stream: int, last: bytes, *, reset: bool) -> None:
        began = self._began.pop(stream, None)
        first, data = self._first.pop(stream, b""), stream in self._data
        self._data.discard(stream)
        if began is None or reset:
            verdict = "failed"
        elif data and first.lstrip(b"\x20").startswith(_OK):
            verdict = "ok"
        else:
            verdict = "refused" if any(sign in first or sign in last for sign in _REFUSED) else "failed"
        self._sender.ended(began or 0.0, verdict)

    def connection_lost(self, exc: Exception | None) -> None:
        for began in self._began.values():
            self._sender.ended(began, "failed")
        self._began.clear()


class _Sender:
    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._head = b"".join(_literal(name, value) for name, value in flood.headers.items())
        self._body = bytes.fromhex(flood.body_hex)
        self._number = int(time.time() * 20_000)  # faster than any load counts: the next one begins beyond
        self._connections: deque[_Connection] = deque()
        self._under_way = 0
        self._measured_from = self._until = 0.0
        self.result = Result()

    async def go(self) -> Result:
        host, _, port = self._flood.address.rpartition(":")
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(lambda: _Connection(self), host, int(port))
            self._connections.append(connection)
        await asyncio.sleep(0.1)
        gc.disable()
        began = time.perf_counter()
        self._measured_from, self._until = began + self._flood.warm, began + self._flood.seconds
        if self._flood.callers:
            for _ in range(self._flood.callers):
                self._send(time.perf_counter())
            await asyncio.sleep(self._flood.seconds)
        else:
            await self._at_random(began)
        self.result.seconds = self._flood.seconds - self._flood.warm
        while self._under_way and time.perf_counter() < self._until + PATIENCE_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.result.failed += self._under_way
        return self.result

    async def _at_random(self, began: float) -> None:
        due = began
        while due < self._until:
            now = time.perf_counter()
            while due <= now and not all(each.full for each in self._connections):
                self._send(due)
                self.result.late_millis.append((now - due) * 1000)
                due += random.expovariate(self._flood.per_second)
            await asyncio.sleep(TICK_SECONDS)

    def _send(self, began: float) -> None:
        self._connections.rotate()
        if self._connections[0].full:
            self._connections = deque(sorted(self._connections, key=lambda each: each.under_way))
        self._under_way += 1
        if began >= self._measured_from:
            self.result.sent += 1
        body, head = self._body, self._head
        if _NUMBER in body or _NUMBER in head:
            self._number += 1
            number = b"%08x" % (self._number % 16**8)
            body, head = body.replace(_NUMBER, number), head.replace(_NUMBER, number)
        self._connections[0].send(head, body.replace(_UUID, str(uuid.uuid4()).encode()), began)

    def ended(self, began: float, verdict: str) -> None:
        now = time.perf_counter()
        self._under_way -= 1
        if began >= self._measured_from:
            setattr(self.result, verdict, getattr(self.result, verdict) + 1)
            if verdict == "ok":
                self.result.ok_millis.append((now - began) * 1000)
            elif verdict == "refused":
                self.result.refused_millis.append((now - began) * 1000)
        if self._flood.callers and now < self._until:
            self._send(now)


def _literal(name: str, value: str) -> bytes:
    return b"\x00" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    return bytes(_integer(len(text))) + text.encode()


def _integer(value: int) -> Iterator[int]:
    if value < 127:
        yield value
        return
    yield 127
    value -= 127
    while value >= 128:
        yield value % 128 + 128
        value //= 128
    yield value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


if __name__ == "__main__":
    flood = Flood(**json.load(sys.stdin))
    if flood.core is not None:
        os.sched_setaffinity(0, {flood.core})
    found = asyncio.run(_Sender(flood).go())
    print(json.dumps(asdict(found)))

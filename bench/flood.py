"""A load that costs little: what to send and what came back. `bench/flood.c` sends it, from a process of its own.

It measures what shares the machine with it, so it takes a hundredth of what a client library takes.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NUMBER, A_UUID = "%NUMBER%", "%UUID%".ljust(36, "_")
"""What becomes another number, and another UUID, in each request."""
_PATIENCE_SECONDS = 30.0  # beyond the load's own, for what came back to be read
_SOURCE = Path(__file__).with_name("flood.c")
_BUILT = Path("build/bench/flood")


@dataclass(frozen=True)
class Flood:
    """What is to be sent."""

    address: str
    """`host:port`."""
    headers: dict[str, str]
    body_hex: str
    """May hold NUMBER and A_UUID, as the headers may, once each."""
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
    cpu_seconds: float = 0.0
    """Of the load itself, the seconds that are not measured included."""

    @property
    def ok_per_second(self) -> float:
        return self.ok / self.seconds


def run(flood: Flood) -> Result:
    """In a process of its own. Raises RuntimeError: there is no C compiler, or the door closed a connection."""
    head = b"".join(_literal(name, value) for name, value in flood.headers.items())
    body = bytes.fromhex(flood.body_hex)
    host, _, port = flood.address.rpartition(":")
    core = -1 if flood.core is None else flood.core
    numbers = (flood.seconds, flood.callers, flood.per_second, flood.warm, core, len(head), len(body))
    before = os.times()
    done = subprocess.run(
        [_program(), host, port, *map(str, numbers)],
        input=head + body,
        capture_output=True,
        check=False,
        timeout=flood.seconds + _PATIENCE_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"the load ended with {done.returncode}: {done.stderr.decode()}")
    after = os.times()
    result = Result(seconds=flood.seconds - flood.warm)
    result.cpu_seconds = after[2] + after[3] - before[2] - before[3]
    *calls, end = done.stdout.decode().splitlines()
    for call in calls:
        verdict, millis, late = call.split()
        if verdict == "ok":
            result.ok_millis.append(float(millis))
        elif verdict == "refused":
            result.refused_millis.append(float(millis))
        result.late_millis.append(float(late))
    result.sent = int(end.split()[1])
    result.ok, result.refused = len(result.ok_millis), len(result.refused_millis)
    result.failed = result.sent - result.ok - result.refused
    return result


@functools.cache
def _program() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("the load is a C program, and there is no C compiler: apt install gcc")
    _BUILT.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-O2", "-Wall", "-o", _BUILT, _SOURCE, "-lm"], check=True)
    return _BUILT.resolve()


def _literal(name: str, value: str) -> bytes:
    """A header that no table remembers."""
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

"""Load by `h2load` over gRPC and `wrk` over HTTP (Debian's nghttp2-client and wrk), and what they say of it."""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.report import quantile


class Side(NamedTuple):
    """One way to ask."""

    name: str
    command: tuple[str, ...]
    """All but the number of callers."""


class Result(NamedTuple):
    """What one round of a side gave."""

    per_second: float
    p50_millis: float
    p99_millis: float


def need(*tools: str) -> None:
    """End with what to install where a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing: apt-get install nghttp2-client wrk")


def wrk(name: str, url: str, body: str, headers: dict[str, str], folder: Path, seconds: int) -> Side:
    """POST the same body again and again."""
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{body}]==]"]
    lines += [f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items()]
    script = folder / f"{name}.lua"
    script.write_text("\n".join(lines))
    return Side(name, ("wrk", "--latency", "-t1", f"-d{seconds}s", f"-s{script}", url))


def run(side: Side, callers: int, seconds: int) -> Result:
    """Load one side for that long, one request at a time on each of so many connections."""
    with tempfile.NamedTemporaryFile() as log:
        more = (f"-c{callers}", *((f"--log-file={log.name}",) if side.command[0] == "h2load" else ()))
        program, *rest = side.command
        done = subprocess.run([program, *more, *rest], capture_output=True, text=True, check=True, timeout=60)
        return _of_h2load(side, log.name, seconds) if program == "h2load" else _of_wrk(side, done.stdout)


def _of_h2load(side: Side, log: str, seconds: int) -> Result:
    """From the log of all requests: when each began, its HTTP status, and its time, in microseconds."""
    rows = [line.split("\t") for line in Path(log).read_text().splitlines()]
    if not rows or any(status != "200" for _, status, _ in rows):
        raise RuntimeError(
            f"{side.name}: {sum(status != '200' for _, status, _ in rows)} of {len(rows)} failed"
        )
    millis = [int(micros) / 1000 for _, _, micros in rows]
    return Result(len(rows) / seconds, statistics.median(millis), quantile(millis, 0.99))


def _of_wrk(side: Side, said: str) -> Result:
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{side.name}: {said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p50, p99 = (re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said) for share in (50, 99))
    if rate is None or p50 is None or p99 is None:
        raise RuntimeError(f"{side.name}: {said}")
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    return Result(float(rate[1]), float(p50[1]) * unit[p50[2]], float(p99[1]) * unit[p99[2]])

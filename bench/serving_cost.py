"""What the door costs a prediction: through Envoy with token, limits, routing and trace, beside the same Triton asked directly.

Load by `h2load` over gRPC and `wrk` over HTTP (Debian's nghttp2-client and wrk), one request at a time on each of so
many connections; the model is a small matrix product. Sides take turns within each round, and a ratio is the median
over rounds of what was measured side by side. Both the load and the servers have the same cores.
"""

import asyncio
import json
import statistics
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aios.inference.v1 import deployment_pb2
from bench import load, serving_load, serving_models, stack
from bench.load import Result, Side
from bench.report import Report
from bench.stack import Stack

NAME = serving_models.NAME
ROUNDS = 5
SECONDS = 3
CALLERS = (1, 16, 32)
GRPC_BAR, HTTP_BAR, ADDED_P50_MS = 0.50, 0.40, 1.0


@dataclass
class Measured:
    """All rounds of a side with so many callers."""

    rounds: list[Result] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Of Envoy."""
    requests: float = 0.0


async def main() -> None:
    report = Report("serving_cost")
    load.need("h2load", "wrk")
    report.say("starting a stack and one replica")
    # One token makes all of the calls: the limit for one token is not what is measured.
    with stack.running(AIOS_CALLS_PER_SECOND="1000000") as running, tempfile.TemporaryDirectory() as folder:
        async with running.client() as client:
            version = await serving_models.register(running, serving_models.good())
            await client.deployments.deploy(version, NAME, wait=True)
            [revision] = [each async for each in client.deployments.history(NAME, 1)]
        sides = _sides(running, revision.replicas[0], Path(folder))
        envoy = psutil.Process(running.state.services["envoy"].pid)
        for callers in CALLERS:
            found = await asyncio.to_thread(_take_turns, report, sides, callers, envoy)
            _conclude(report, found, callers)
    report.finish()


def _take_turns(
    report: Report, sides: list[Side], callers: int, envoy: psutil.Process
) -> dict[str, Measured]:
    found = {side.name: Measured() for side in sides}
    report.say(f"{len(sides)} sides x {ROUNDS} rounds x {SECONDS} s, {callers} at a time")
    for _ in range(ROUNDS):
        for side in sides:
            before = envoy.cpu_times()
            result = load.run(side, callers, SECONDS)
            after = envoy.cpu_times()
            one = found[side.name]
            one.rounds.append(result)
            one.cpu_seconds += after.user + after.system - before.user - before.system
            one.requests += result.per_second * SECONDS
    return found


def _conclude(report: Report, found: Mapping[str, Measured], callers: int) -> None:
    for name, measured in found.items():
        label = f"{name}_c{callers}"
        report.figure(f"{label}_per_second", statistics.median(each.per_second for each in measured.rounds))
        report.figure(f"{label}_p50_ms", statistics.median(each.p50_millis for each in measured.rounds))
        report.figure(f"{label}_p99_ms", statistics.median(each.p99_millis for each in measured.rounds))
        if "door" in name:
            report.figure(f"{label}_envoy_cpu_us", measured.cpu_seconds / max(1, measured.requests) * 1e6)
    for protocol, bar in (("grpc", GRPC_BAR), ("http", HTTP_BAR)):
        pairs = list(zip(found[f"{protocol}_door"].rounds, found[f"{protocol}_direct"].rounds, strict=True))
        ratio = statistics.median(door.per_second / direct.per_second for door, direct in pairs)
        if callers == 1:
            report.figure(f"{protocol}_ratio_c1", ratio)
            added = statistics.median(door.p50_millis - direct.p50_millis for door, direct in pairs)
            report.bar(f"{protocol}_added_p50_ms", added, ADDED_P50_MS)
        else:
            report.bar(f"{protocol}_ratio_c{callers}", ratio, at_least=bar)


def _sides(running: Stack, replica: deployment_pb2.Replica, folder: Path) -> list[Side]:
    message = serving_load.request(NAME).SerializeToString()
    framed = folder / "message"
    framed.write_bytes(struct.pack(">BI", 0, len(message)) + message)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]})
    json_headers = {"content-type": "application/json", "authorization": f"Bearer {running.token}"}
    headers = ("content-type: application/grpc", "te: trailers", f"authorization: Bearer {running.token}")
    grpc = ("h2load", *(f"--header={each}" for each in headers), f"--data={framed}", f"--duration={SECONDS}")
    door, host = running.state.address, f"http://{replica.host}"
    path = f"/v2/models/{NAME}/infer"
    return [
        Side("grpc_direct", (*grpc, f"{host}:{replica.grpc_port}{serving_load.INFER}")),
        Side("grpc_door", (*grpc, f"{door}{serving_load.INFER}")),
        load.wrk("http_direct", f"{host}:{replica.http_port}{path}", body, json_headers, folder, SECONDS),
        load.wrk("http_door", f"{door}{path}", body, json_headers, folder, SECONDS),
    ]


if __name__ == "__main__":
    asyncio.run(main())

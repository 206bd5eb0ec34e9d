"""Five times more than it can do: what is still done, how fast, and how the rest is refused.

Everything goes through the public door. For each kind of call: `unloaded` is one caller at a time; `capacity` is the
most answers per second that any number of steady callers gets; then five times as many calls come at random moments,
whether answered or not, each timed from the moment when it was due. What is measured is an overload that lasts: the
first seconds, in which the calls are worked off that a burst may leave waiting, are not. The limit on one token's calls
per second is out of the way: one token stands for many.

The load (`bench/flood.py`) must not be what is measured, nor take the processor from it. So, in every part alike, all
services have one core to themselves, and the load shares the other one with Envoy alone; how late the load itself sent
is a figure. The parts take turns, and a ratio is the median over rounds of what was measured within one.
"""

import asyncio
import os
import statistics
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from aios.common.v1 import resources_pb2
from aios.data.v1 import data_service_pb2 as data
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as scheduler
from bench import flood, model, stack
from bench.flood import Flood
from bench.report import Report, quantile
from bench.stack import Stack

CALLERS = (2, 4, 8, 16, 32)
ROUNDS = 3
UNLOADED_SECONDS, CAPACITY_SECONDS, OVERLOAD_SECONDS = 4.0, 3.0, 10.0
BURST_SECONDS = 5.0
TIMES = 5.0
GOODPUT_MIN = 0.8
P99_TIMES_MAX = 2.0
PROJECT = "projects/default"


@dataclass(frozen=True)
class Kind:
    """One kind of call, as the load sends it."""

    headers: Mapping[str, str]
    body: bytes


def main() -> None:
    report = Report("overload")
    report.say("starting a stack and one replica")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # and all that is started from here
    with stack.running(AIOS_CALLS_PER_SECOND="1000000") as running:
        job = asyncio.run(_prepare(running))
        for thread in psutil.Process(running.state.services["envoy"].pid).threads():
            os.sched_setaffinity(thread.id, cores[-1:])
        kinds = _kinds(running, job)
        for name in sys.argv[1:] or kinds:
            _measure(report, running, name, kinds[name], cores[-1])
    report.finish()


def _measure(report: Report, running: Stack, name: str, kind: Kind, core: int) -> None:
    address = running.state.address.removeprefix("http://")
    load = Flood(address, dict(kind.headers), kind.body.hex(), CAPACITY_SECONDS, core=core)
    found = {callers: flood.run(replace(load, callers=callers)).ok_per_second for callers in CALLERS}
    peak = max(found, key=lambda callers: found[callers])
    report.figure(f"{name}_capacity_callers", peak)
    rounds = [_round(load, peak) for _ in range(ROUNDS)]
    for figure in rounds[0]:
        report.figure(f"{name}_{figure}", statistics.median(each[figure] for each in rounds))

    def ratio(above: str, below: str) -> float:
        return statistics.median(each[above] / each[below] for each in rounds)

    report.bar(
        f"{name}_goodput_of_capacity",
        ratio("overload_ok_per_second", "capacity_per_second"),
        at_least=GOODPUT_MIN,
    )
    report.bar(f"{name}_p99_of_unloaded", ratio("overload_p99_ms", "unloaded_p99_ms"), P99_TIMES_MAX)
    report.figure(f"{name}_p50_of_unloaded", ratio("overload_p50_ms", "unloaded_p50_ms"))
    report.bar(f"{name}_failed_otherwise", sum(each["overload_failed"] for each in rounds), 0)


def _round(load: Flood, peak: int) -> dict[str, float]:
    unloaded = flood.run(replace(load, callers=1, seconds=UNLOADED_SECONDS))
    steady = flood.run(replace(load, callers=peak))
    over = flood.run(
        replace(load, per_second=TIMES * steady.ok_per_second, seconds=OVERLOAD_SECONDS, warm=BURST_SECONDS)
    )
    return {
        "unloaded_p50_ms": quantile(unloaded.ok_millis, 0.5),
        "unloaded_p99_ms": quantile(unloaded.ok_millis, 0.99),
        "capacity_per_second": steady.ok_per_second,
        "capacity_p99_ms": quantile(steady.ok_millis, 0.99),
        "overload_sent_per_second": over.sent / over.seconds,
        "overload_ok_per_second": over.ok_per_second,
        "overload_p50_ms": quantile(over.ok_millis, 0.5),
        "overload_p99_ms": quantile(over.ok_millis, 0.99),
        "overload_refused_p50_ms": quantile(over.refused_millis, 0.5),
        "overload_load_late_p99_ms": quantile(over.late_millis, 0.99),
        "overload_failed": over.failed,
    }


async def _prepare(running: Stack) -> str:
    """A job that has ended, to be read, and a model that is served."""
    target = running.state.address.removeprefix("http://")
    async with connect(target, lambda: running.token) as channel:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        resources = resources_pb2.Resources(cpu_millis=50, memory_bytes=32 << 20)
        job = job_pb2.Job(spec=job_pb2.JobSpec(command=["true"], resources=resources))
        made = await stub.CreateJob(
            scheduler.CreateJobRequest(parent=PROJECT, job=job, request_id=str(uuid.uuid4()))
        )
    await model.serve(running, replicas=1)
    return str(made.name)


def _kinds(running: Stack, job: str) -> dict[str, Kind]:
    def grpc(method: str, message: Message) -> Kind:
        text = message.SerializeToString()
        headers = _head("POST", f"/{method}", running) | {
            "content-type": "application/grpc",
            "te": "trailers",
        }
        return Kind(headers, b"\0" + len(text).to_bytes(4) + text)

    dataset = data.CreateDatasetRequest(
        parent=PROJECT, dataset_id=f"d-{flood.NUMBER}", request_id=flood.A_UUID
    )
    infer = service_pb2.ModelInferRequest(model_name=model.NAME)
    infer.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    infer.raw_input_contents.append(bytes(4 * 64))
    return {
        "read": grpc("aios.scheduler.v1.SchedulerService/GetJob", scheduler.GetJobRequest(name=job)),
        "write": grpc("aios.data.v1.DataService/CreateDataset", dataset),
        "http": Kind(_head("GET", f"/v1/{job}", running), b""),
        "predict": grpc("inference.GRPCInferenceService/ModelInfer", infer),
    }


def _head(method: str, path: str, running: Stack) -> dict[str, str]:
    return {
        ":method": method,
        ":scheme": "http",
        ":path": path,
        ":authority": "bench",
        "authorization": f"Bearer {running.token}",
    }


if __name__ == "__main__":
    main()

"""Five times more than it can do: what is still done, how fast, and how the rest is refused.

Everything goes through the public door. For each kind of call: `unloaded` is one caller at a time; `capacity` is the
most answers per second that any number of steady callers gets; then five times as many calls come at random moments,
whether answered or not. The load itself (`bench/flood.py`) shares both cores with what it measures, so the capacity is
that of what it leaves. The limit on one token's calls per second is out of the way: one token stands for many.
"""

import asyncio
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from aios.common.v1 import resources_pb2
from aios.data.v1 import data_service_pb2 as data
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as scheduler
from bench import flood, model, stack
from bench.flood import Flood, Result
from bench.report import Report, quantile
from bench.stack import Stack

CALLERS = (2, 4, 8, 16, 32)
UNLOADED_SECONDS, CAPACITY_SECONDS, OVERLOAD_SECONDS = 4.0, 3.0, 9.0
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
    with stack.running(AIOS_CALLS_PER_SECOND="1000000") as running:
        job = asyncio.run(_prepare(running))
        kinds = _kinds(running, job)
        for name in sys.argv[1:] or kinds:
            _measure(report, running, name, kinds[name])
    report.finish()


def _measure(report: Report, running: Stack, name: str, kind: Kind) -> None:
    address = running.state.address.removeprefix("http://")
    load = Flood(address, dict(kind.headers), kind.body.hex(), UNLOADED_SECONDS, callers=1)
    unloaded = flood.run(load)
    report.figure(f"{name}_unloaded_p50_ms", quantile(unloaded.ok_millis, 0.5))
    report.figure(f"{name}_unloaded_p99_ms", quantile(unloaded.ok_millis, 0.99))
    found = {
        callers: flood.run(replace(load, callers=callers, seconds=CAPACITY_SECONDS)) for callers in CALLERS
    }
    peak = max(found, key=lambda callers: found[callers].ok_per_second)
    capacity = found[peak].ok_per_second
    report.figure(f"{name}_capacity_per_second", capacity)
    report.figure(f"{name}_capacity_callers", peak)
    report.figure(f"{name}_capacity_p99_ms", quantile(found[peak].ok_millis, 0.99))
    half = flood.run(replace(load, callers=0, per_second=capacity / 2))
    report.figure(f"{name}_half_p99_ms", quantile(half.ok_millis, 0.99))

    over = flood.run(replace(load, callers=0, per_second=TIMES * capacity, seconds=OVERLOAD_SECONDS))
    _conclude(report, name, over, capacity, quantile(unloaded.ok_millis, 0.99))
    after = flood.run(replace(load, seconds=2.0))
    report.figure(f"{name}_afterwards_p50_ms", quantile(after.ok_millis, 0.5))


def _conclude(report: Report, name: str, over: Result, capacity: float, unloaded: float) -> None:
    report.figure(f"{name}_overload_sent_per_second", over.sent / over.seconds)
    report.figure(f"{name}_overload_ok_per_second", over.ok_per_second)
    report.figure(f"{name}_overload_p50_ms", quantile(over.ok_millis, 0.5))
    report.figure(f"{name}_overload_refused_p50_ms", quantile(over.refused_millis, 0.5))
    report.figure(f"{name}_overload_load_cores", over.cpu_seconds / over.seconds)
    report.bar(f"{name}_goodput_of_capacity", over.ok_per_second / capacity, at_least=GOODPUT_MIN)
    report.bar(f"{name}_p99_of_unloaded", quantile(over.ok_millis, 0.99) / unloaded, P99_TIMES_MAX)
    report.bar(f"{name}_failed_otherwise", over.failed, 0)


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

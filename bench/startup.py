"""From nothing to a stack that answers, what it then weighs, and how soon the scheduler is back after a kill.

Memory is proportional (PSS): a page that several processes share counts once among them. It is that of the
supervisor and everything below it, before any job.
"""

import asyncio
import hashlib
import os
import signal
import time

import grpc
import httpx
import psutil
from google.protobuf.json_format import MessageToDict

from aios.scheduler.v1 import scheduler_service_pb2 as scheduler
from bench import stack
from bench.report import Report
from bench.stack import Stack
from tests.service.replica_platform import LINEAR, linear_model

READY_SECONDS_MAX = 30.0
MEMORY_MIB_MAX = 2048.0
RECOVERY_SECONDS_MAX = 3.0
RECOVERY_PATIENCE_SECONDS = 30.0
ASK_SECONDS = 0.02  # between questions to a scheduler that is coming back
MIB = 1 << 20


async def main() -> None:
    report = Report("startup")
    with stack.fresh() as home:
        report.say("first start, in an empty home")
        report.bar("first_ready_seconds", home.up(), READY_SECONDS_MAX)
        report.say("unpacking the server for replicas")
        stack.settle(home)
        await asyncio.sleep(2)  # what only starting needed is given back
        processes = _memory_mib(psutil.Process(home.state.pid))
        report.figure("processes", len(processes))
        report.bar("memory_mib", sum(processes.values()), MEMORY_MIB_MAX)
        report.figures["memory_mib_by_process"] = {
            name: round(_memory_below_mib(psutil.Process(one.pid)))
            for name, one in home.state.services.items()
            if one.pid
        }
        recovered = [await _kill_scheduler(home)]
        await _replica(report, home)
        report.figure("stop_seconds", home.down())
        report.say("second start, where everything is in place")
        report.bar("second_ready_seconds", home.up(), READY_SECONDS_MAX)
        recovered.append(await _kill_scheduler(home))
        report.bar("scheduler_back_seconds", max(recovered), RECOVERY_SECONDS_MAX)
    report.finish()


async def _kill_scheduler(home: Stack) -> float:
    """kill -9 the scheduler. Returns the seconds until a client's call is answered again."""
    async with grpc.aio.insecure_channel(home.state.address.removeprefix("http://")) as channel:
        list_jobs = channel.unary_unary(
            "/aios.scheduler.v1.SchedulerService/ListJobs",
            scheduler.ListJobsRequest.SerializeToString,
            scheduler.ListJobsResponse.FromString,
        )
        request = scheduler.ListJobsRequest(parent="projects/default")
        metadata = (("authorization", f"Bearer {home.token}"),)
        await list_jobs(request, metadata=metadata)
        os.kill(home.state.services["scheduler"].pid, signal.SIGKILL)
        began = time.monotonic()
        async with asyncio.timeout(RECOVERY_PATIENCE_SECONDS):
            while True:
                await asyncio.sleep(ASK_SECONDS)
                try:
                    await list_jobs(request, metadata=metadata, timeout=1)
                except grpc.aio.AioRpcError:
                    continue
                return time.monotonic() - began


async def _replica(report: Report, home: Stack) -> None:
    """Deploy a small model: how soon it answers, and what one replica weighs."""
    version = _model_version(home)
    async with home.client() as client:
        before = {process.pid for process in _below(psutil.Process(home.state.pid))}
        began = time.monotonic()
        await client.deployments.deploy(version, "linear", wait=True)
        report.figure("replica_ready_seconds", time.monotonic() - began)
        new = [one for one in _below(psutil.Process(home.state.pid)) if one.pid not in before]
        report.figure("replica_memory_mib", sum(map(_pss_mib, new)))


def _model_version(home: Stack) -> str:
    """Register a model that no run made, over the JSON API. Returns its name."""
    content, project = linear_model(), f"{home.state.address}/v1/projects/default"
    file = {"sha256": hashlib.sha256(content).hexdigest(), "sizeBytes": str(len(content))}
    headers = {"authorization": f"Bearer {home.token}"}
    with httpx.Client(trust_env=False, headers=headers) as api, httpx.Client(trust_env=False) as store:
        upload = api.post(f"{project}/uploads:begin", json=file).raise_for_status().json()
        store.put(upload["url"], content=content, headers=upload["headers"]).raise_for_status()
        api.post(f"{home.state.address}/v1/{upload['name']}:complete", json={}).raise_for_status()
        version = {"files": [{"path": "model.onnx", **file}], "signature": MessageToDict(LINEAR)}
        made = api.post(f"{project}/models/linear/versions", json=version).raise_for_status()
        return str(made.json()["name"])


def _memory_mib(root: psutil.Process) -> dict[int, float]:
    return {process.pid: _pss_mib(process) for process in _below(root)}


def _memory_below_mib(root: psutil.Process) -> float:
    return sum(_memory_mib(root).values())


def _below(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _pss_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / MIB
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    asyncio.run(main())

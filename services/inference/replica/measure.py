"""`python -m services.inference.replica.measure`: what models cost where they would be served.

Reads a request as JSON from stdin, and writes the answer as JSON to stdout. Each model gets a Triton server of its own,
started and configured as a replica's is. The servers are asked in turns, a short round each, so that a machine that is
busy for a while slows all of them alike; one client waits for each answer before it asks again.

request: {"models": {NAME: {"folder": "...", "signature": {...}}}, "inputs": "x.npy", "batches": [1, 8, 32],
          "seconds": 2.0, "threads": 1, "outputs": "FOLDER"}
answer:  {NAME: {"memory_bytes": 1, "batches": {"32": {"p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "rounds_ms": [1.0],
          "predictions_per_second": 1.0, "cpu_seconds_per_1000": 1.0}}}}

FOLDER/NAME.npy gets the model's first output for all of the inputs.
"""

import asyncio
import http.client
import json
import math
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from aios.config import Settings
from aios.errors import AiosError, Internal
from services.inference.replica import repository
from services.inference.replica.life import INSTANCES, copy_runner, first_answer
from services.inference.replica.probe import Probe
from services.inference.replica.repository import Backend
from services.inference.replica.server import LOOPBACK, Ports, Server
from services.inference.replica.spec import ReplicaSpec, Signature, Tensor
from services.inference.replica.triton import Triton, unpacked

ROUNDS = 8
WARM_CALLS = 5
TIMEOUT_SECONDS = 60.0
ANSWER_BATCH = 32
MODEL = "measured"
_NUMPY_TYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1"}
Array = NDArray[Any]


@dataclass
class Costs:
    """Of one model at one batch size. Seconds."""

    latencies: list[list[float]] = field(default_factory=list)
    """One list a round."""
    cpu: float = 0.0

    def told(self, batch: int) -> dict[str, Any]:
        """The figures of the answer."""
        every = sorted(latency for each in self.latencies for latency in each)
        predictions = batch * len(every)
        return {
            **{f"p{share}_ms": quantile(every, share / 100) * 1000 for share in (50, 95, 99)},
            "rounds_ms": [statistics.median(each) * 1000 for each in self.latencies],
            "predictions_per_second": predictions / sum(every),
            "cpu_seconds_per_1000": self.cpu / predictions * 1000,
            "calls": len(every),
        }


class Served:
    """A model on a server of its own."""

    def __init__(self, server: Server, port: int, signature: Signature) -> None:
        self._processes = [psutil.Process(server.pid)]
        self._processes += self._processes[0].children(recursive=True)
        self._signature = signature
        self._connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_SECONDS)

    def ask(self, inputs: Array) -> Array:
        """The model's first output."""
        sent, got = self._signature.inputs[0], self._signature.outputs[0]
        data = np.ascontiguousarray(inputs).tobytes()
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": sent.name,
                        "datatype": sent.datatype,
                        "shape": inputs.shape,
                        "parameters": {"binary_data_size": len(data)},
                    }
                ],
                "outputs": [{"name": got.name, "parameters": {"binary_data": True}}],
            }
        ).encode()
        headers = {"inference-header-content-length": str(len(head))}
        self._connection.request("POST", f"/v2/models/{MODEL}/infer", head + data, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise Internal(f"the model does not answer: HTTP {answer.status}, {body[:500]!r}")
        length = int(answer.headers["inference-header-content-length"])
        shape = json.loads(body[:length])["outputs"][0]["shape"]
        return np.frombuffer(body[length:], _NUMPY_TYPES[got.datatype]).reshape(shape)

    def cpu_seconds(self) -> float:
        """Of the server and everything below it, since it was started."""
        return cpu_seconds(self._processes)

    def memory_bytes(self) -> int:
        """The most that the process which runs the model has held at once."""
        return peak_bytes(self._processes[-1])

    def close(self) -> None:
        """Hang up: the server waits for open connections."""
        self._connection.close()


async def measure(request: Mapping[str, Any], settings: Settings, scratch: Path) -> dict[str, Any]:
    """The answer to a request."""
    inputs = np.load(request["inputs"], allow_pickle=False)
    triton = await unpacked(settings, say)
    async with AsyncExitStack() as stack:
        served = {}
        for number, (name, model) in enumerate(request["models"].items()):
            served[name] = await _serve(
                stack, triton, model, scratch / str(number), threads=request.get("threads", 1)
            )
        return await asyncio.to_thread(_measured, served, inputs, request)


async def say(what: str) -> None:
    """Progress, for the log."""
    print(f"the measurement {what}", file=sys.stderr, flush=True)


def _measured(served: Mapping[str, Served], inputs: Array, request: Mapping[str, Any]) -> dict[str, Any]:
    for name, each in served.items():
        starts = range(0, len(inputs), ANSWER_BATCH)
        answers = [each.ask(inputs[start : start + ANSWER_BATCH]) for start in starts]
        np.save(Path(request["outputs"], f"{name}.npy"), np.concatenate(answers))
    batches = request["batches"]
    costs = {batch: _rounds(served, inputs, batch, request["seconds"]) for batch in batches}
    return {
        name: {
            "memory_bytes": each.memory_bytes(),
            "batches": {str(batch): costs[batch][name].told(batch) for batch in batches},
        }
        for name, each in served.items()
    }


def _rounds(served: Mapping[str, Served], inputs: Array, batch: int, seconds: float) -> dict[str, Costs]:
    """Every model in turns, for `seconds` each."""
    # Others than the last batch: an answer cannot come from what is still in a cache.
    repeated = np.resize(inputs, (max(len(inputs), 4 * batch), *inputs.shape[1:]))
    parts = [repeated[start : start + batch] for start in range(0, len(repeated) - batch + 1, batch)]
    costs = {name: Costs() for name in served}
    for each in served.values():
        for part in parts[:WARM_CALLS]:
            each.ask(part)
    for _ in range(ROUNDS):
        for name, each in served.items():
            latencies: list[float] = []
            before, until = each.cpu_seconds(), time.monotonic() + seconds / ROUNDS
            while not latencies or time.monotonic() < until:
                part = parts[len(latencies) % len(parts)]
                began = time.perf_counter()
                each.ask(part)
                latencies.append(time.perf_counter() - began)
            costs[name].latencies.append(latencies)
            costs[name].cpu += each.cpu_seconds() - before
    return costs


async def _serve(
    stack: AsyncExitStack, triton: Triton, model: Mapping[str, Any], scratch: Path, *, threads: int
) -> Served:
    """Start a server as a replica does, and end it with the stack."""
    signature = _signature(model["signature"])
    folder = Path(model["folder"])
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    spec = ReplicaSpec(MODEL, MODEL, MODEL, signature, 0, MODEL)
    place = scratch / "repository" / MODEL
    artifacts = place / repository.VERSION / repository.ARTIFACTS
    file = repository.model_file(files)
    artifacts.mkdir(parents=True)
    shutil.copy(folder / file, artifacts / Path(file).name)
    backend = triton.backend
    config = repository.config_text(
        spec, Path(file).name, backend, instances=INSTANCES, threads=threads, gpu=False
    )
    (place / "config.pbtxt").write_text(config)
    if backend is Backend.PYTHON:
        copy_runner("model.py", place / repository.VERSION)
    ports = Ports(http=free_port(), grpc=free_port(), metrics=free_port())
    check = Probe(LOOPBACK, ports.http, MODEL, signature)
    server = await Server.start(triton, place.parent, ports, triton.environment(threads, os.environ))
    stack.push_async_callback(server.stop, 0)  # nobody else asks it, and a graceful end takes seconds
    try:
        await first_answer(server, check, MODEL)
    finally:
        await check.close()
    served = Served(server, ports.http, signature)
    stack.callback(served.close)
    return served


def _signature(given: Mapping[str, Any]) -> Signature:
    """From the JSON form of the registry's message."""

    def tensors(key: str) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(each["name"], each["datatype"], tuple(int(size) for size in each.get("shape", ())))
            for each in given[key]
        )

    return Signature(tensors("inputs"), tensors("outputs"), int(given.get("maxBatchSize", 0)))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Of all of them, since they were started."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that it has held at once."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Answer one request. Exit code 1 and a line on stderr where a model cannot be served."""
    try:
        with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
            told = asyncio.run(measure(json.load(sys.stdin), Settings.load(), Path(scratch)))
    except AiosError as error:
        sys.exit(f"{error.reason}: {error.message}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()

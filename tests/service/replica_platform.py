"""What a replica finds around it: both services behind a real gRPC server, an OTLP receiver, a file server."""

import asyncio
import functools
import hashlib
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from aios.common.v1.file_pb2 import File
from aios.common.v1.tensor_pb2 import Signature, TensorSpec
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.errors import StaleEpoch
from aios.inference.v1 import deployment_pb2, inference_service_pb2, inference_service_pb2_grpc
from aios.runtime import tokens
from aios.runtime.server import Server, Service
from tests.servers import free_port

JOB = "projects/demo/jobs/digits-1"
REVISION = "projects/demo/deployments/digits/revisions/1"
STATE = deployment_pb2.Replica
PYTHON = sys.executable

# B batch, D features, C classes
WEIGHTS_DC = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def linear_model() -> bytes:
    """`y_BC = x_BD @ WEIGHTS_DC`, as ONNX."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(WEIGHTS_DC, "w")],
    )
    return as_bytes(graph)


def as_bytes(graph: onnx.GraphProto) -> bytes:
    """A whole ONNX file around a graph."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any], max_batch_size: int) -> Signature:
    """From `{name: (datatype, shape)}`."""

    def specs(tensors: Mapping[str, Any]) -> list[TensorSpec]:
        return [TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in tensors.items()]

    return Signature(inputs=specs(inputs), outputs=specs(outputs), max_batch_size=max_batch_size)


LINEAR = signature({"x": ("FP32", [64])}, {"y": ("FP32", [10])}, max_batch_size=64)


@dataclass
class Platform(
    inference_service_pb2_grpc.InferenceServiceServicer,
    data_service_pb2_grpc.DataServiceServicer,
    trace_service_pb2_grpc.TraceServiceServicer,
):
    """Answers what a replica asks, and remembers what it said."""

    files: Mapping[str, bytes]
    spec: inference_service_pb2.ReplicaSpec
    url: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    newer_attempt: bool = False
    reports: list[inference_service_pb2.ReportReplicaRequest] = field(default_factory=list)
    spans: list[tuple[str, Span]] = field(default_factory=list)

    async def GetReplicaSpec(self, request: Any, context: Any) -> inference_service_pb2.ReplicaSpec:
        assert request.job == JOB
        return self.spec

    async def ReportReplica(self, request: Any, context: Any) -> inference_service_pb2.ReportReplicaResponse:
        if self.newer_attempt:
            raise StaleEpoch("a newer attempt has reported")
        self.reports.append(request)
        return inference_service_pb2.ReportReplicaResponse()

    async def ListDownloads(self, request: Any, context: Any) -> data_service_pb2.ListDownloadsResponse:
        assert request.parent == self.spec.model_version
        downloads = []
        for path, content in self.files.items():
            digest = self.digests.get(path, hashlib.sha256(content).hexdigest())
            file = File(path=path, sha256=digest, size_bytes=len(content))
            downloads.append(data_service_pb2.Download(file=file, url=f"{self.url}/{path}"))
        return data_service_pb2.ListDownloadsResponse(downloads=downloads)

    async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        for group in request.resource_spans:
            service = {each.key: each.value.string_value for each in group.resource.attributes}[
                "service.name"
            ]
            self.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def state(self) -> int:
        """What the replica reported last."""
        return self.reports[-1].state if self.reports else STATE.STATE_UNSPECIFIED


@dataclass
class RunningReplica:
    """The replica's process, and where its server listens."""

    process: asyncio.subprocess.Process
    ports: dict[str, int]
    platform: Platform
    log: Path
    server: Server

    async def stop_services(self) -> None:
        """What a replica meets when the control plane is down."""
        await self.server.stop(0)

    def below(self) -> list[psutil.Process]:
        """Every process of the replica but its first."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def model_process(self) -> psutil.Process:
        """The one that runs `model.py`."""
        return next(each for each in self.below() if "stub" in each.name())

    async def ready(self, seconds: float = 20) -> None:
        """Wait for the first READY; fails with the log when the replica ends instead."""

        def there() -> bool:
            assert self.process.returncode is None, self.log.read_text()
            return self.platform.state() == STATE.STATE_READY

        await until(there, seconds)

    async def ended(self, within: float) -> int:
        return await asyncio.wait_for(self.process.wait(), within)


@asynccontextmanager
async def replica(
    directory: Path,
    triton_home: Path,
    files: Mapping[str, bytes] | None = None,
    tensors: Signature = LINEAR,
    *,
    batch_delay_micros: int = 0,
    digests: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[RunningReplica]:
    """Run `python -m services.inference.replica` amid a platform; nothing of it is left afterwards."""
    spec = inference_service_pb2.ReplicaSpec(
        deployment_id="digits",
        revision=REVISION,
        model_version="projects/demo/models/digits/versions/1",
        signature=tensors,
        batch_delay_micros=batch_delay_micros,
        manifest_sha256="0" * 64,
    )
    platform = Platform(files or {"model.onnx": linear_model()}, spec, digests=dict(digests or {}))
    served = directory / "served"
    for path, content in platform.files.items():
        (served / path).parent.mkdir(parents=True, exist_ok=True)
        (served / path).write_bytes(content)
    handler = functools.partial(QuietFiles, directory=str(served))
    store = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    platform.url = f"http://127.0.0.1:{store.server_port}"
    server, token = await control_plane(directory, platform)
    ports = {name: free_port() for name in ("HTTP", "GRPC", "METRICS")}
    scratch = directory / "scratch"
    scratch.mkdir()
    log = directory / "replica.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            "-m",
            "services.inference.replica",
            stdout=out,
            stderr=out,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(directory),
                "OMP_NUM_THREADS": "1",
                "AIOS_HOME": str(directory),
                "AIOS_TRITON_HOME": str(triton_home),
                "AIOS_ADDRESS": f"http://127.0.0.1:{server.port}",
                "AIOS_TOKEN_FILE": str(token),
                "AIOS_JOB": JOB,
                "AIOS_EPOCH": "1",
                "AIOS_SCRATCH": str(scratch),
                **{f"AIOS_PORT_{name}": str(port) for name, port in ports.items()},
                **(environment or {}),
            },
        )
    running = RunningReplica(process, ports, platform, log, server)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await server.stop(0)
        store.shutdown()
        store.server_close()


async def control_plane(directory: Path, platform: Platform) -> tuple[Server, Path]:
    """A real server with the platform's services, and a worker's token for it."""
    key = tokens.new_key()
    jwks = directory / "jwks.json"
    tokens.write_secret(jwks, json.dumps(tokens.jwks(key.public_key())))
    claims = {
        "sub": JOB,
        "jti": "1",
        "project": "demo",
        "role": "worker",
        "job": JOB,
        "epoch": 1,
    }
    token = directory / "token"
    tokens.write_secret(token, tokens.mint(key, claims, ttl_seconds=600))
    services = [
        Service(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, platform),
        Service(data_service_pb2_grpc.add_DataServiceServicer_to_server, platform),
        Service(trace_service_pb2_grpc.add_TraceServiceServicer_to_server, platform),
    ]
    foreign = {"opentelemetry.proto.collector.trace.v1.TraceService": "caller.get"}
    server = Server("127.0.0.1:0", services, tokens.Verifier(jwks), foreign=foreign)
    await server.start()
    return server, token


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


async def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)

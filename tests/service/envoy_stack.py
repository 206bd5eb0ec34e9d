"""A real Envoy over small fake servers: what tests of `gateway.envoy` share."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import numpy as np
import tritonclient.grpc as triton_grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.envoy import limits
from gateway.envoy.__main__ import command
from gateway.envoy.admin import Admin
from gateway.envoy.files import ConfigFiles
from gateway.envoy.model import Address, Backend, DeploymentRoute, Mirror, Replica, Services, Snapshot
from gateway.envoy.publish import Applied, Publisher
from tests.servers import free_port

LOCAL = "127.0.0.1"
GRACE_SECONDS = 0.5  # requests under way when a fake closes
SERVER_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 128 << 20)]


@dataclass
class Seen:
    """One request as a server behind Envoy got it."""

    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class GrpcEcho(grpc.GenericRpcHandler):
    """Answers every unary call of every service with the bytes it got."""

    seen: list[Seen] = field(default_factory=list)
    delay: float = 0.0
    """Seconds that an answer takes."""
    answers: threading.Event = field(default_factory=threading.Event)
    """While it is not set, no call is answered."""

    def __post_init__(self) -> None:
        self.answers.set()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        headers = {key: str(value) for key, value in call.invocation_metadata}

        def reply(request: bytes, _: grpc.ServicerContext) -> bytes:
            self.seen.append(Seen(call.method, headers, request))
            time.sleep(self.delay)
            self.answers.wait()
            return request

        return grpc.unary_unary_rpc_method_handler(reply)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent and the authorization they came with."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.authorizations: set[str] = set()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.authorizations.update(str(v) for k, v in context.invocation_metadata() if k == "authorization")
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, trace_id: str, count: int, seconds: float = 5.0) -> list[Span]:
        """The spans of a trace once there are `count`."""
        deadline = time.monotonic() + seconds
        while True:
            found = [span for span in list(self.spans) if span.trace_id.hex() == trace_id]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.02)


def serve_grpc(stack: ExitStack, add: Any) -> int:
    """Start a gRPC server that `add` puts its servicers on. Returns the port."""
    server = grpc.server(ThreadPoolExecutor(8), options=SERVER_OPTIONS)
    add(server)
    port = server.add_insecure_port(f"{LOCAL}:0")
    server.start()
    stack.callback(lambda: server.stop(GRACE_SECONDS).wait())
    return port


def serve_http(stack: ExitStack, answer: Any) -> int:
    """Start an HTTP server; `answer(seen) -> (status, json)`. Returns the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, value = answer(Seen(self.path, headers, body))
            payload = json.dumps(value).encode()
            head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
            self.wfile.write(head.encode() + payload)

        do_GET = do_POST = handle_any  # names that the base class looks up

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server((LOCAL, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return int(server.server_address[1])


class Model(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """A fake replica: adds its number to the input, over both doors of the Open Inference Protocol."""

    def __init__(self, number: int, delay: float = 0.0) -> None:
        self.number = number
        self.delay = delay
        self.seen: list[Seen] = []
        self.ready = True
        self._stack = ExitStack()
        self.grpc_port = serve_grpc(
            self._stack,
            lambda server: service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server),
        )
        self.http_port = serve_http(self._stack, self._http)

    @property
    def replica(self) -> Replica:
        return Replica(LOCAL, self.http_port, self.grpc_port)

    def close(self) -> None:
        self._stack.close()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        self.seen.append(Seen("ModelInfer", headers))
        time.sleep(self.delay)
        return self._answer(request)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=self._answer(request))

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, versions=[str(self.number)])

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.seen.append(Seen("RepositoryIndex", {}))
        return service_pb2.RepositoryIndexResponse()

    def _answer(self, request: Any) -> Any:
        values = np.frombuffer(request.raw_input_contents[0], np.float32)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=[1])
        response.raw_output_contents.append((values[:1] + self.number).tobytes())
        return response

    def _http(self, seen: Seen) -> tuple[int, Any]:
        if seen.path == "/v2/health/ready":
            return (200 if self.ready else 400), {}
        self.seen.append(seen)
        time.sleep(self.delay)
        if not seen.path.endswith("/infer"):
            return 200, {"path": seen.path, "number": self.number}
        values = json.loads(seen.body)["inputs"][0]["data"]
        output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [values[0] + self.number]}
        return 200, {"model_name": seen.path.split("/")[3], "outputs": [output]}


class Stack:
    """Envoy, its control plane's fakes, and clients of its door."""

    def __init__(self, root: Path, calls_per_second: int = limits.CALLS_PER_SECOND) -> None:
        self._calls_per_second = calls_per_second
        self._cleanup = ExitStack()
        self.echo = GrpcEcho()
        self.collector = Collector()
        self.app_seen: list[Seen] = []
        self.app_delay = 0.0
        services_port = serve_grpc(self._cleanup, lambda s: s.add_generic_rpc_handlers((self.echo,)))
        add_collector: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        collector_port = serve_grpc(self._cleanup, lambda s: add_collector(self.collector, s))
        app_port = serve_http(self._cleanup, self._app)
        services = Address(LOCAL, services_port)
        self._key = Ed25519PrivateKey.generate()
        self.http = self._cleanup.enter_context(httpx.Client(timeout=10))
        self.port = free_port()
        self.snapshot = Snapshot(
            services=Services(
                scheduler=services,
                data=services,
                trainer=services,
                inference=services,
                gateway_grpc=services,
                gateway_http=Address(LOCAL, app_port),
                collector=Address(LOCAL, collector_port),
            ),
            jwks=jwks(self._key),
            open_paths=("/openapi.json", "/console/"),
            cors_origins=("https://console.example.org",),
        )
        self.files = ConfigFiles(root)
        self.skipped_seconds = 0.0
        self.publisher = self.new_publisher()
        asyncio.run(self.publisher.start(self.snapshot, node_id="test", token="service-token"))
        self.start_envoy()

    def new_publisher(self) -> Publisher:
        def clock() -> float:
            return time.monotonic() + self.skipped_seconds

        admin = Admin(self.files.admin_socket)
        return Publisher(
            self.files,
            admin,
            listen=Address(LOCAL, self.port),
            calls_per_second=self._calls_per_second,
            clock=clock,
        )

    def start_envoy(self) -> None:
        self.process = subprocess.Popen(command(self.files.root))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if self.http.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise TimeoutError("Envoy does not answer")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._cleanup.close()

    @property
    def url(self) -> str:
        return f"http://{LOCAL}:{self.port}"

    def deploy(self, *deployments: DeploymentRoute) -> Applied:
        """Replace the deployments."""
        self.snapshot = replace(self.snapshot, deployments=deployments)
        return asyncio.run(self.publisher.apply(self.snapshot))

    def revoke(self, token_id: str) -> None:
        self.snapshot = replace(self.snapshot, revoked=self.snapshot.revoked | {token_id})
        asyncio.run(self.publisher.apply(self.snapshot))

    def token(self, key: Ed25519PrivateKey | None = None, **claims: Any) -> str:
        now = int(time.time())
        standard = {"iss": "aios", "aud": "aios", "sub": "ann", "jti": "t1", "iat": now, "exp": now + 600}
        payload = standard | {"project": "vision", "role": "editor"} | claims
        return jwt.encode(payload, key or self._key, algorithm="EdDSA", headers={"kid": "k1"})

    def bearer(self, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(**claims)}"}

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.http.get(self.url + path, headers=self.bearer() if headers is None else headers)

    def call(self, method: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """A unary gRPC call of raw bytes. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"{LOCAL}:{self.port}") as channel:
            metadata = tuple((self.bearer() if headers is None else headers).items())
            unary: Any = channel.unary_unary(method)
            reply: bytes = unary(body, metadata=metadata, timeout=10)
            return reply

    def predict_grpc(self, model: str, **claims: Any) -> float:
        """One prediction with the unmodified client."""
        with triton_grpc.InferenceServerClient(f"{LOCAL}:{self.port}") as client:
            result = client.infer(model, [grpc_input(np.zeros(1, np.float32))], headers=self.bearer(**claims))
            return float(result.as_numpy("y")[0])

    def predict_http(self, model: str, **claims: Any) -> httpx.Response:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}]}
        return self.http.post(f"{self.url}/v2/models/{model}/infer", json=body, headers=self.bearer(**claims))

    def _app(self, seen: Seen) -> tuple[int, Any]:
        self.app_seen.append(seen)
        time.sleep(self.app_delay)
        return 200, {"path": seen.path, "headers": seen.headers, "size": len(seen.body)}


@contextmanager
def envoy(root: Path, calls_per_second: int = limits.CALLS_PER_SECOND) -> Iterator[Stack]:
    """A stack with a running Envoy."""
    stack = Stack(root, calls_per_second)
    try:
        yield stack
    finally:
        stack.close()


def jwks(key: Ed25519PrivateKey) -> str:
    public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return json.dumps({"keys": [public | {"kid": "k1", "alg": "EdDSA", "use": "sig"}]})


def grpc_input(values: np.ndarray[Any, Any]) -> Any:
    tensor = triton_grpc.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def route(
    project: str, name: str, *models: Model, weights: tuple[int, ...] = (), mirror: Model | None = None
) -> Any:
    """A deployment whose revisions are named after their models' numbers."""
    shares = weights or (1,) * len(models)
    return DeploymentRoute(
        project,
        name,
        tuple(Backend(f"r{m.number}", w, (m.replica,)) for m, w in zip(models, shares, strict=True)),
        Mirror(Backend(f"r{mirror.number}", 0, (mirror.replica,)), 100.0) if mirror else None,
    )

"""What administers a model server is closed, however it is spelled: only known paths of predictions reach a replica."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.envoy import routes
from gateway.envoy.model import Backend, DeploymentRoute, Replica
from tests.doors.rpcs import SERVER_METHODS
from tests.doors.sizes import EXAMPLES
from tests.service.envoy_stack import LOCAL, GrpcEcho, Model, Stack, envoy, serve_grpc

SERVICE = "inference.GRPCInferenceService"
OPEN = re.compile(
    r"/v2/models/digits(/versions/[0-9]+)?(/(infer|generate|generate_stream|ready|config|stats))?"
)
CLOSED = (
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/repository/models/digits/unload",
    "/v2/models/digits/trace/setting",
    "/v2/models/digits/versions/1/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/any/register",
    "/v2/systemsharedmemory/region/any/unregister",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/region/any/register",
    "/v2/cudasharedmemory/region/any/unregister",
    "/v2/cudasharedmemory/unregister",
    "/v2/models/stats",
)
"""Triton's own paths. Source: its HTTP server's routes."""
METHODS = tuple(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)
CLOSED_METHODS = tuple(name for name in METHODS if name not in (*routes.PREDICT_METHODS, *SERVER_METHODS))


class Recorder:
    """A model server that would answer anything, and writes down what reached it."""

    def __init__(self, stack: ExitStack) -> None:
        self._http = Model(1)
        stack.callback(self._http.close)
        self._grpc = GrpcEcho()
        port = serve_grpc(stack, lambda server: server.add_generic_rpc_handlers((self._grpc,)))
        self.replica = Replica(LOCAL, self._http.http_port, port)

    def reached(self) -> list[str]:
        """Every path since the last question."""
        seen = [one.path for one in (*self._http.seen, *self._grpc.seen)]
        self._http.seen.clear()
        self._grpc.seen.clear()
        return seen


@pytest.fixture(scope="module")
def replica() -> Iterator[Recorder]:
    with ExitStack() as stack:
        yield Recorder(stack)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, replica: Recorder) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("closed")) as running:
        running.deploy(DeploymentRoute("vision", "digits", (Backend("r1", 1, (replica.replica,)),)))
        yield running


def respelled(path: str) -> st.SearchStrategy[str]:
    """A path in other words: some of them mean the same to some servers."""
    ways: tuple[Any, ...] = (
        lambda text, at: text[:at] + "/" + text[at:],
        lambda text, at: text[:at] + "/./" + text[at:],
        lambda text, at: text[:at] + f"%{ord(text[at]):02x}" + text[at + 1 :],
        lambda text, at: text[:at] + f"%25{ord(text[at]):02X}" + text[at + 1 :],
        lambda text, at: text[:at] + text[at].swapcase() + text[at + 1 :],
        lambda text, at: "/v2/models/digits/infer/" + "../" * 4 + text.lstrip("/"),
        lambda text, at: "/v2/models/digits" + "/.." * (at % 4) + text,
        lambda text, at: text.replace("/", "\\"),
        lambda text, at: text.replace("/", "%2F"),
        lambda text, at: text.replace("/", "%c0%af"),
        lambda text, at: text[:at] + ";a=b" + text[at:],
        lambda text, at: text + "?" + text,
        lambda text, at: text + "/",
        lambda text, at: text + "%00",
        lambda text, at: text + "#/v2/models/digits/infer",
        lambda text, at: f"http://{LOCAL}{text}",
        lambda text, at: "/v2/models/digits/versions/1" + text.removeprefix("/v2"),
    )
    steps = st.lists(st.tuples(st.sampled_from(ways), st.integers(0, 60)), max_size=3)

    def apply(chosen: list[tuple[Any, int]]) -> str:
        text = path
        for way, at in chosen:
            text = way(text, at % len(text))
        return text

    return steps.map(apply)


@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(CLOSED).flatmap(respelled), st.sampled_from(["GET", "POST", "DELETE", "TRACE", "CONNECT"])
)
@example("/v2/models/digits/../../repository/index", "POST")
@example("/v2/models/digits%2f..%2f..%2frepository%2findex", "POST")
@example("/v2//repository/index", "POST")
@example("/V2/Repository/Index", "POST")
@example("/v2/models/digits/versions/1/trace/setting", "GET")
@example("/v2/models/digits/infer/../trace/setting", "POST")
def test_no_spelling_of_a_closed_path_reaches_a_replica(
    door: Stack, replica: Recorder, path: str, method: str
) -> None:
    raw_request(door, method, path)
    reached = [one.partition("?")[0] for one in replica.reached()]
    assert all(OPEN.fullmatch(one) for one in reached), f"{method} {path} reached {reached}"


def test_every_closed_path_as_it_is_written_is_not_found(door: Stack, replica: Recorder) -> None:
    for path in CLOSED:
        for method in ("GET", "POST"):
            assert raw_request(door, method, path) == 404
    assert replica.reached() == []


def test_every_method_that_is_not_a_prediction_is_closed(door: Stack, replica: Recorder) -> None:
    assert len(CLOSED_METHODS) >= 10
    for name in CLOSED_METHODS:
        for path in spellings(name):
            with pytest.raises(grpc.RpcError) as refused:
                door.call(path, b"\x0a\x06digits")
            assert refused.value.code() in (
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.INVALID_ARGUMENT,  # a path that cannot be read
                grpc.StatusCode.INTERNAL,  # a path that HTTP/2 itself refuses: the stream is reset
            ), path
    assert replica.reached() == []


def test_what_is_open_does_reach_the_replica(door: Stack, replica: Recorder) -> None:
    assert raw_request(door, "GET", "/v2/models/digits/versions/1/stats") == 200
    assert replica.reached() == ["/v2/models/digits/versions/1/stats"]
    assert door.call(f"/{SERVICE}/ModelConfig", b"\x0a\x06digits") == b"\x0a\x06digits"
    assert replica.reached() == [f"/{SERVICE}/ModelConfig"]


def spellings(method: str) -> Iterator[str]:
    yield f"/{SERVICE}/{method}"
    yield f"//{SERVICE}/{method}"
    yield f"/{SERVICE}//{method}"
    yield f"/{SERVICE}/ModelInfer/../{method}"
    yield f"/x/../{SERVICE}/{method}"
    yield f"/{SERVICE}/%{ord(method[0]):02x}{method[1:]}"
    yield f"/{SERVICE}%2f{method}"
    yield f"/{SERVICE}/{method.lower()}"
    yield f"/{SERVICE.lower()}/{method}"
    yield f"/{SERVICE}/{method}?"


def raw_request(door: Stack, method: str, path: str) -> int:
    """The status of one request with exactly this path; 0 where the connection was closed without an answer."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {LOCAL}\r\nauthorization: Bearer {door.token()}\r\n"
    with socket.create_connection((LOCAL, door.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: 2\r\nconnection: close\r\n\r\n{{}}".encode())
        answer = connection.makefile("rb").readline()
    return int(answer.split()[1]) if answer else 0

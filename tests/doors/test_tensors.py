"""What would end a model server is refused before it gets there, and what it cannot read is the request's fault."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from aios.errors import InvalidArgument
from aios.runtime.status import from_rpc_error
from gateway.envoy import limits
from gateway.envoy.model import Backend, DeploymentRoute, Replica
from tests.doors.sizes import EXAMPLES
from tests.service.envoy_stack import LOCAL, GrpcEcho, Seen, Stack, envoy, serve_grpc, serve_http

INFER = "/v2/models/digits/infer"
GENERATE = "/v2/models/digits/generate"
GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"
PIECE_BYTES = 65536
"""What the script looks at in one piece: a key may lie across the edge of two."""


class Replay:
    """A model server that says what it is told to, and writes down what reached it."""

    def __init__(self, stack: ExitStack) -> None:
        self.seen: list[bytes] = []
        self.says: tuple[int, Any] = (200, {})
        self._grpc = GrpcEcho()
        http = serve_http(stack, self._answer)
        port = serve_grpc(stack, lambda server: server.add_generic_rpc_handlers((self._grpc,)))
        self.replica = Replica(LOCAL, http, port)

    def reached(self) -> list[bytes]:
        """Every body since the last question."""
        seen = [*self.seen, *(one.body for one in self._grpc.seen)]
        self.seen.clear()
        self._grpc.seen.clear()
        return seen

    def _answer(self, seen: Seen) -> tuple[int, Any]:
        if seen.path == "/v2/health/ready":
            return 200, {}
        self.seen.append(seen.body)
        return self.says


@pytest.fixture(scope="module")
def replica() -> Iterator[Replay]:
    with ExitStack() as stack:
        yield Replay(stack)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, replica: Replay) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("tensors")) as running:
        running.deploy(DeploymentRoute("vision", "digits", (Backend("r1", 1, (replica.replica,)),)))
        yield running


def tensor(shape: object, before: int = 0) -> bytes:
    """A request with one tensor, after `before` bytes of something else."""
    inputs = [{"name": "x", "datatype": "FP32", "shape": shape, "data": [1.0]}]
    return json.dumps({"id": "x" * before, "inputs": inputs}).encode()


TOO_LARGE = tensor([2**40])
REFUSED = {
    "large": TOO_LARGE,
    "more than the body": tensor([70_100], 70_000),
    "overflows to nothing": tensor([2**32, 2**32]),
    "more than a double has": tensor([10**400]),
    "empty, with a size that no memory has": tensor([0, 2**62]),
    "empty, after one that no number has": tensor([10**400, 0]),
    "negative": tensor([-1]),
    "fraction": tensor([1.5]),
    "nested": tensor([[2]]),
    "spaces": TOO_LARGE.replace(b'"shape": [', b'"shape"' + b" \n" * PIECE_BYTES + b":\t[ "),
    "escaped key": TOO_LARGE.replace(b"shape", b"sh\\u0061pe"),
    "second of two": tensor([1]).replace(b"[1]", b'[1], "shape": [1099511627776]'),
    "large together": b'{"inputs":[' + b",".join([b'{"shape":[400]}'] * 40) + b"]}",
    "deep": b"[" * 65,
    "deep data": tensor([1]).replace(b"[1.0]", b"[" * 100_000 + b"]" * 100_000),
    **{f"across an edge, {at}": tensor([2**40], PIECE_BYTES - 40 - at) for at in range(0, 40, 3)},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_a_body_that_would_end_the_model_server_never_reaches_it(
    door: Stack, replica: Replay, body: bytes
) -> None:
    reply = door.http.post(door.url + INFER, content=body, headers=door.bearer())
    assert replica.reached() == []
    assert reply.status_code == 400, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["reason"] in ("SHAPE_INVALID", "MALFORMED_JSON")


def test_nesting_has_a_limit_where_the_json_is_of_the_models_own_making(door: Stack, replica: Replay) -> None:
    deep = b'{"a":' * 65 + b"1" + b"}" * 65
    for headers in ({}, {"inference-header-content-length": "0"}):  # which means nothing there
        reply = door.http.post(door.url + GENERATE, content=deep, headers=door.bearer() | headers)
        assert (reply.status_code, reply.json()["reason"]) == (400, "MALFORMED_JSON")
        assert str(limits.JSON_DEPTH_MAX) in reply.json()["detail"]
    assert replica.reached() == []


PASSING = {
    "one": tensor([1]),
    "empty": tensor([0, 28, 28]),
    "scalar": tensor([]),
    "large": tensor([1 << 20], 1 << 20),
    "words in data": json.dumps(
        {
            "inputs": [
                {
                    "shape": [3],
                    "data": ['"shape":[9999999999]', "shape", '\\"shape\\": [99999'],
                    "name": "shape",
                }
            ]
        }
    ).encode(),
    "escapes in data": json.dumps({"inputs": [{"shape": [2], "data": ["é\x7f\\", "\\u0061:["]}]}).encode(),
    "no shape": b'{"shape": "round", "parameters": {"shape": true}}',
    "deep, side by side": b'{"data":[' + b",".join([b"[[[[1]]]]"] * 50_000) + b"]}",
    "no JSON": b"\xff\x00 {",
    "nothing": b"",
}


@pytest.mark.parametrize("body", PASSING.values(), ids=PASSING.keys())
def test_ordinary_tensors_reach_the_model_server_unchanged(door: Stack, replica: Replay, body: bytes) -> None:
    assert door.http.post(door.url + INFER, content=body, headers=door.bearer()).status_code == 200
    assert replica.reached() == [body]


def test_a_shape_means_nothing_where_the_json_is_of_the_models_own_making(
    door: Stack, replica: Replay
) -> None:
    assert door.http.post(door.url + GENERATE, content=TOO_LARGE, headers=door.bearer()).status_code == 200
    assert replica.reached() == [TOO_LARGE]


def test_raw_tensors_behind_the_json_mean_nothing(door: Stack, replica: Replay) -> None:
    head = tensor([1])
    raw = head + b'"shape":[99999999999]' + b"[{" * 100
    headers = door.bearer() | {"inference-header-content-length": str(len(head))}
    assert door.http.post(door.url + INFER, content=raw, headers=headers).status_code == 200
    assert replica.reached() == [raw]


@pytest.mark.parametrize("length", ["0x10", "-1", "1e9", "many", "", "99999999", "9" * 400])
def test_the_length_of_the_json_is_a_number_of_bytes_that_are_there(
    door: Stack, replica: Replay, length: str
) -> None:
    headers = door.bearer() | {"inference-header-content-length": length}
    refused = door.http.post(door.url + INFER, content=tensor([1]), headers=headers)
    assert (refused.status_code, refused.json()["reason"]) == (400, "HEADER_INVALID")
    assert replica.reached() == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 9)
    | st.text(max_size=8)
    | st.sampled_from(["shape", '"shape":[', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5).filter(str.isidentifier), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON, st.lists(st.integers(0, 80), max_size=4), st.sampled_from([None, 2, "\t"]), st.booleans())
def test_a_shape_is_found_wherever_it_stands_and_nothing_else_is_taken_for_one(
    door: Stack, replica: Replay, around: object, shape: list[int], indent: Any, escaped: bool
) -> None:
    text = json.dumps(
        {"a": around, "inputs": [around, {"shape": shape}, around]}, indent=indent, ensure_ascii=escaped
    )
    body = text.encode("utf-8", "surrogatepass")
    elements = 1
    for size in shape:
        elements *= size
    status = door.http.post(door.url + INFER, content=body, headers=door.bearer()).status_code
    assert status == (400 if elements > len(body) else 200)
    replica.reached()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("Unable to parse 'data': Shape does not match true shape of 'data' field", 400),
        ("failed to parse the request JSON buffer: Invalid value. at 0", 400),
        ("attempt to get members for non-object", 400),
        ("Failed to process the request(s) for model instance 'digits': Unable to parse this", 500),
    ],
)
def test_what_triton_cannot_read_is_the_requests_fault_and_what_a_model_does_is_not(
    door: Stack, replica: Replay, error: str, status: int
) -> None:
    replica.says = (500, {"error": error})
    reply = door.http.post(door.url + INFER, content=tensor([1]), headers=door.bearer())
    replica.says = (200, {})
    replica.reached()
    assert (reply.status_code, reply.json()["error"]) == (status, error)


def message(*shapes: list[int], raw: bytes = b"\0" * 16) -> bytes:
    """The bytes of a prediction with these inputs."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    for shape in shapes:
        request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.append(raw)
    return bytes(request.SerializeToString())


UNPACKED = b"\x0a\x06digits" + b"\x2a\x0e" + b"\x18\x80\x80\x80\x80\x10" * 2 + b"\x18\x01"
BAD_MESSAGES = {
    "large": (message([2**40]), "SHAPE_INVALID"),
    "overflows to nothing": (message([2**32, 2**32]), "SHAPE_INVALID"),
    "more than the message": (message([5000], raw=b"\0" * 4900), "SHAPE_INVALID"),
    "negative": (message([-1, 4]), "SHAPE_INVALID"),
    "empty, with a size that no memory has": (message([0, 2**62]), "SHAPE_INVALID"),
    "large together": (message([100], [100], [100], raw=b""), "SHAPE_INVALID"),
    "not packed": (UNPACKED, "SHAPE_INVALID"),
    "behind a large tensor": (message([1], raw=b"\0" * 5000) + message([2**40])[8:], "SHAPE_INVALID"),
    "bytes behind it": (message([1]) + b"\xff\xff", "MALFORMED_MESSAGE"),
    "cut": (message([1])[:-3], "MALFORMED_MESSAGE"),
    "more fields than any": (message([1]) + b"\x20\x01" * 70_000, "MALFORMED_MESSAGE"),
}


@pytest.mark.parametrize(("body", "reason"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_over_grpc_such_a_shape_never_reaches_the_model_server(
    door: Stack, replica: Replay, body: bytes, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        door.call(GRPC_INFER, body)
    error = from_rpc_error(refused.value)
    assert isinstance(error, InvalidArgument), error
    assert error.reason in (reason, "INVALID_ARGUMENT"), error
    assert replica.reached() == []


@pytest.mark.parametrize("size", [0, 4, 4090, 70_000, 3 << 20])
def test_ordinary_tensors_pass_over_grpc_however_large(door: Stack, replica: Replay, size: int) -> None:
    body = message([1, size // 4], [], [0, 3], raw=b"\xff" * size)
    assert door.call(GRPC_INFER, body) == body
    assert replica.reached() == [body]


@settings(max_examples=20 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.integers(0, 300), max_size=3), max_size=4),
    st.binary(max_size=200),
)
def test_over_grpc_the_elements_are_counted_as_they_are(
    door: Stack, replica: Replay, shapes: list[list[int]], raw: bytes
) -> None:
    body = message(*shapes, raw=raw)
    elements = 0
    for shape in shapes:
        product = 1
        for size in shape:
            product *= size
        elements += product
    try:
        door.call(GRPC_INFER, body)
    except grpc.RpcError:
        assert elements > len(body)
    else:
        assert elements <= len(body) + 5
    replica.reached()

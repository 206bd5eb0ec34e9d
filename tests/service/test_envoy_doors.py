"""Who gets through Envoy, to where, and what the others are told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tritonclient.utils import InferenceServerException

from aios.runtime.status import from_rpc_error
from gateway.envoy import limits
from gateway.envoy.admin import Admin
from tests.service.envoy_stack import LOCAL, Model, Stack, envoy, grpc_input, route

GET_JOB = "/aios.scheduler.v1.SchedulerService/GetJob"


@pytest.fixture(scope="module")
def vision() -> Iterator[Model]:
    model = Model(1)
    yield model
    model.close()


@pytest.fixture(scope="module")
def audio() -> Iterator[Model]:
    model = Model(2)
    yield model
    model.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, vision: Model, audio: Model) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("envoy")) as running:
        running.deploy(
            route("vision", "digits", vision), route("audio", "digits", audio), route("vision", "sleeping")
        )
        yield running


def bad_tokens(stack: Stack) -> dict[str, tuple[str | None, int, grpc.StatusCode, str]]:
    past = int(time.time()) - 60
    unknown, denied = (401, grpc.StatusCode.UNAUTHENTICATED), (403, grpc.StatusCode.PERMISSION_DENIED)
    return {
        "none": (None, *unknown, "TOKEN_MISSING"),
        "not a token": ("abc", *unknown, "TOKEN_INVALID"),
        "expired": (stack.token(exp=past), *unknown, "TOKEN_EXPIRED"),
        "signed by another": (stack.token(Ed25519PrivateKey.generate()), *unknown, "TOKEN_INVALID"),
        "other issuer": (stack.token(iss="evil"), *unknown, "TOKEN_INVALID"),
        "other audience": (stack.token(aud="evil"), *unknown, "TOKEN_INVALID"),
        "unknown role": (stack.token(role="king"), *denied, "ROLE_TOO_LOW"),
        "no role": (stack.token(role=None), *denied, "ROLE_TOO_LOW"),
    }


def test_a_bad_token_passes_neither_door(stack: Stack) -> None:
    for name, (token, status, code, reason) in bad_tokens(stack).items():
        headers = {"authorization": f"Bearer {token}"} if token else {}

        reply = stack.get("/v1/projects", headers)
        with pytest.raises(grpc.RpcError) as refusal:
            stack.call(GET_JOB, b"", headers)

        assert (reply.status_code, refusal.value.code()) == (status, code), name
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["status"] == status
        assert reply.json()["reason"] == reason
        assert reply.json()["code"] == code.name
        assert "{" not in (refusal.value.details() or ""), "gRPC gets a sentence, not JSON"
        assert from_rpc_error(refusal.value).reason == reason


def test_a_token_in_the_url_is_no_token(stack: Stack) -> None:
    assert stack.get(f"/v1/projects?access_token={stack.token()}", {}).status_code == 401


def test_a_good_token_reaches_the_service_with_its_claims(stack: Stack) -> None:
    claimed = stack.bearer() | {
        "x-aios-project": "forged",
        "x-aios-role": "admin",
        "x-envoy-max-retries": "9",
    }

    assert stack.call(GET_JOB, b"abc", claimed) == b"abc"

    headers = stack.echo.seen[-1].headers
    assert (headers["x-aios-project"], headers["x-aios-role"]) == ("vision", "editor")
    assert headers["authorization"] == claimed["authorization"], "the service verifies again"
    assert "x-envoy-max-retries" not in headers


def test_open_paths_need_no_token_and_trust_no_header(stack: Stack) -> None:
    assert stack.get("/healthz", {}).text == "ok\n"
    assert stack.get("/openapi.json", {}).status_code == 200
    assert stack.call("/grpc.health.v1.Health/Check", b"", {}) == b""
    page = stack.get("/console/index.html", {"x-aios-role": "admin"})
    assert page.status_code == 200
    assert "x-aios-role" not in page.json()["headers"]


def test_each_grpc_package_has_a_server_and_others_are_unimplemented(stack: Stack) -> None:
    packages = ("scheduler", "data", "trainer", "inference", "identity", "telemetry")
    for method in [f"/aios.{package}.v1.AnyService/Any" for package in packages] + [
        "/grpc.reflection.v1.ServerReflection/Any",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    ]:
        assert stack.call(method, b"x") == b"x"
    with pytest.raises(grpc.RpcError) as refusal:
        stack.call("/evil.v1.Service/Any")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_unmodified_clients_predict_by_the_models_name(stack: Stack) -> None:
    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        assert client.is_model_ready("digits", headers=stack.bearer())
        assert client.get_model_metadata("digits", headers=stack.bearer()).name == "digits"
    assert stack.predict_grpc("digits") == 1.0

    tensor = triton_http.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, np.float32), binary_data=False)
    with triton_http.InferenceServerClient(f"{LOCAL}:{stack.port}") as http:
        assert http.is_model_ready("digits", headers=stack.bearer())
        assert http.infer("digits", [tensor], headers=stack.bearer()).as_numpy("y")[0] == 1.0


def test_a_model_does_not_see_its_callers_token(stack: Stack, vision: Model) -> None:
    stack.predict_grpc("digits")
    stack.predict_http("digits")
    assert all("authorization" not in seen.headers for seen in vision.seen)


def test_the_same_name_in_two_projects_is_two_deployments(stack: Stack) -> None:
    assert stack.predict_grpc("digits", project="vision") == 1.0
    assert stack.predict_grpc("digits", project="audio") == 2.0
    assert stack.predict_http("digits", project="vision").json()["outputs"][0]["data"] == [1.0]
    assert stack.predict_http("digits", project="audio").json()["outputs"][0]["data"] == [2.0]


def test_a_prediction_names_its_revision_and_trace(stack: Stack) -> None:
    reply = stack.predict_http("digits")
    assert reply.headers["x-aios-revision"] == "r1"
    assert len(reply.headers["x-aios-trace-id"]) == 32
    assert reply.headers["x-request-id"]


def test_predictions_stream(stack: Stack) -> None:
    answers: list[float] = []
    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        client.start_stream(
            lambda result, error: answers.append(result.as_numpy("y")[0]), headers=stack.bearer()
        )
        for value in range(3):
            client.async_stream_infer("digits", [grpc_input(np.full(1, value, np.float32))])
        client.stop_stream()
    assert answers == [1.0, 2.0, 3.0]


def test_an_unknown_deployment_is_not_found_and_named(stack: Stack) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        stack.predict_grpc("nothing")
    assert refusal.value.status() == "StatusCode.NOT_FOUND"
    assert 'Project vision has no deployment "nothing"' in str(refusal.value)

    reply = stack.predict_http("nothing")
    assert reply.status_code == 404
    assert reply.json()["detail"].startswith("Project vision serves nothing at /v2/models/nothing/infer.")


def test_a_deployment_without_a_revision_is_unavailable(stack: Stack) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        stack.predict_grpc("sleeping")
    assert refusal.value.status() == "StatusCode.UNAVAILABLE"
    assert stack.predict_http("sleeping").status_code == 503


def test_a_node_may_not_predict(stack: Stack) -> None:
    assert stack.predict_http("digits", role="node").status_code == 403
    with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
        stack.predict_grpc("digits", role="node")


CLOSED_HTTP = [
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/repository/models/digits/unload",
    "/v2/models/digits/trace/setting",
    "/v2/models/digits/versions/1/trace/setting",
    "/v2/models/digits/infer/../trace/setting",
    "/v2//models/digits//trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/cudasharedmemory/region/a/register",
    "/v2/models/digits/load",
    "/v2/models/digits/versions/x/infer",
    "/v2/models/digits%2Ftrace/setting",
]
CLOSED_GRPC = [
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "TraceSetting",
    "LogSettings",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
]


def test_the_model_servers_administration_is_closed_to_everyone(stack: Stack, vision: Model) -> None:
    vision.seen.clear()
    admin = stack.bearer(role="admin")
    for path in CLOSED_HTTP:
        for method in ("GET", "POST"):
            assert stack.http.request(method, stack.url + path, headers=admin).status_code in (400, 404), path
    for name in CLOSED_GRPC:
        with pytest.raises(grpc.RpcError) as refusal:
            stack.call(f"/inference.GRPCInferenceService/{name}", b"", admin)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED, name
    assert vision.seen == []


def test_a_models_version_is_part_of_its_path(stack: Stack) -> None:
    assert (
        stack.get("/v2/models/digits/versions/3/ready").json()["path"] == "/v2/models/digits/versions/3/ready"
    )
    assert stack.get("/v2/health/live").json()["path"] == "/v2/health/live"


def test_a_large_tensor_passes_and_a_larger_one_is_refused_before_the_model(
    stack: Stack, vision: Model
) -> None:
    floats = limits.TENSOR_BODY_BYTES_MAX // 4
    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        fits = grpc_input(np.zeros(floats - 1024, np.float32))
        assert client.infer("digits", [fits], headers=stack.bearer()).as_numpy("y")[0] == 1.0
        vision.seen.clear()
        with pytest.raises(InferenceServerException, match="64 MiB for tensors") as refusal:
            client.infer("digits", [grpc_input(np.zeros(floats + 1, np.float32))], headers=stack.bearer())
    assert refusal.value.status() == "StatusCode.RESOURCE_EXHAUSTED"

    body = b" " * (limits.TENSOR_BODY_BYTES_MAX + 1)
    reply = stack.http.post(f"{stack.url}/v2/models/digits/infer", content=body, headers=stack.bearer())
    assert (reply.status_code, reply.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert vision.seen == []


def test_a_large_json_body_is_refused(stack: Stack) -> None:
    fits, large = b" " * limits.JSON_BODY_BYTES_MAX, b" " * (limits.JSON_BODY_BYTES_MAX + 1)
    assert stack.http.post(f"{stack.url}/v1/x", content=fits, headers=stack.bearer()).json()["size"] == len(
        fits
    )
    reply = stack.http.post(f"{stack.url}/v1/x", content=iter([large]), headers=stack.bearer())
    assert (reply.status_code, reply.json()["reason"]) == (413, "BODY_TOO_LARGE")


def test_compressed_predictions_are_refused_because_they_hide_their_size(stack: Stack) -> None:
    headers = stack.bearer() | {"content-encoding": "gzip"}
    reply = stack.http.post(f"{stack.url}/v2/models/digits/infer", content=b"x", headers=headers)
    assert (reply.status_code, reply.json()["reason"]) == (415, "UNSUPPORTED_ENCODING")
    tensor = grpc_input(np.zeros(1000, np.float32))
    with (
        triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client,
        pytest.raises(InferenceServerException, match="without gRPC compression"),
    ):
        client.infer("digits", [tensor], headers=stack.bearer(), compression_algorithm="gzip")


def test_a_chunked_body_reaches_the_model_with_its_length(stack: Stack, vision: Model) -> None:
    body = b'{"inputs": [{"data": [1.0]}]}'
    reply = stack.http.post(
        f"{stack.url}/v2/models/digits/infer", content=iter([body]), headers=stack.bearer()
    )
    assert reply.status_code == 200
    assert vision.seen[-1].headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in vision.seen[-1].headers


def test_paths_are_normal_before_they_are_matched(stack: Stack) -> None:
    assert stack.get("//v1/a/../b").json()["path"] == "/v1/b"
    reply = stack.get("/v1/a%2fb")
    assert (reply.status_code, reply.json()["reason"]) == (400, "BAD_REQUEST")


def test_too_many_or_too_large_headers_are_refused(stack: Stack) -> None:
    assert stack.get("/healthz", {"x-big": "a" * (limits.HEADERS_KIB_MAX * 1024)}).status_code == 431
    assert stack.get("/healthz", {f"x-{i}": "a" for i in range(limits.HEADERS_MAX)}).status_code == 431


def test_a_browser_calls_by_grpc_web_from_a_known_origin_only(stack: Stack) -> None:
    page = {"origin": "https://console.example.org"}
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for path in ("/v1/projects", GET_JOB, "/v2/models/digits/infer"):
        allowed = stack.http.options(stack.url + path, headers=page | ask)
        assert allowed.headers["access-control-allow-origin"] == page["origin"], path
    evil = stack.http.options(stack.url + GET_JOB, headers=ask | {"origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in evil.headers

    web = page | {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    reply = stack.http.post(stack.url + GET_JOB, content=b"\0\0\0\0\3abc", headers=web | stack.bearer())
    assert reply.content.startswith(b"\0\0\0\0\3abc\x80")
    assert b"grpc-status:0" in reply.content
    refused = stack.http.post(stack.url + GET_JOB, content=b"\0\0\0\0\3abc", headers=web)
    assert refused.headers["grpc-status"] == "16"


def test_one_trace_runs_from_the_client_through_envoy_to_the_model(stack: Stack, vision: Model) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = stack.bearer() | {"traceparent": f"00-{trace}-{parent}-01"}

    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        client.infer("digits", [grpc_input(np.zeros(1, np.float32))], headers=headers)

    spans = {span.parent_span_id.hex(): span for span in stack.collector.wait_for(trace, 2)}
    server = spans[parent]
    upstream = spans[server.span_id.hex()]
    assert server.name == "predict digits"
    tags = {attribute.key: attribute.value.string_value for attribute in server.attributes}
    assert (tags["aios.project"], tags["aios.deployment"]) == ("vision", "digits")
    assert vision.seen[-1].headers["traceparent"] == f"00-{trace}-{upstream.span_id.hex()}-01"
    assert stack.collector.authorizations == {"Bearer service-token"}


async def test_as_many_requests_are_traced_as_envoy_is_told_and_a_clients_own_request_id_changes_nothing(
    stack: Stack, vision: Model
) -> None:
    admin = Admin(stack.files.admin_socket)

    async def traced(**own: str) -> set[str]:
        """Flags of the trace contexts that arrived."""
        vision.seen.clear()
        async with httpx.AsyncClient(base_url=stack.url, headers=stack.bearer() | own) as web:
            replies = [await web.get("/v2/models/digits/config") for _ in range(20)]
        if chosen := own.get("x-request-id"):
            ids = [reply.headers["x-request-id"] for reply in replies]
            assert {*ids, *(seen.headers["x-request-id"] for seen in vision.seen)} == {chosen}
        return {seen.headers["traceparent"][-2:] for seen in vision.seen}

    mine = {"x-request-id": "mine, and no UUID"}
    assert await traced() == await traced(**mine) == {"01"}
    await admin.trace(0)
    try:
        assert await traced() == await traced(**mine) == {"00"}
        asked = f"00-{'a' * 32}-{'b' * 16}-01"
        assert await traced(traceparent=asked) == {"01"}, "who asks for a trace has it"
        assert await traced(traceparent=f"{asked[:-2]}00") == {"00"}, "and who asks for none has none"
        refused = stack.http.get(f"{stack.url}/v1/jobs", headers=mine)
        assert refused.headers["x-request-id"] == mine["x-request-id"]
        assert refused.json()["instance"].endswith(mine["x-request-id"])
    finally:
        await admin.trace(1)

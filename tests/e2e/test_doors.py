"""Bad input at every door: refused with the field named, and nothing is half-made; and what only doors do."""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import nats
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from aios.client import Client
from aios.runtime.tokens import mint, read_key
from aios.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc
from tests.e2e import digits
from tests.e2e.stack import Stack, eventually

pytestmark = pytest.mark.timeout(300)

RUNS = "/v1/projects/default/runs"
REVOKED_SECONDS = 5.0
NOUNS = ("datasets", "models", "runs", "jobs", "deployments")


@pytest.fixture
def api(aios: Stack) -> Iterator[httpx.Client]:
    """The JSON API as operator."""
    with aios.http() as api:
        yield api


@pytest.fixture
def unchanged(api: httpx.Client) -> Iterator[None]:
    """The test makes nothing."""
    before = everything(api)
    yield
    assert everything(api) == before


@pytest.fixture(scope="module")
def stranger(aios: Stack) -> str:
    """The token of an editor of another project."""
    aios.aios("project", "create", "other")
    aios.aios("project", "add-member", "alice", "--role", "editor", "-p", "other")
    return str(aios.json("token", "create", "--member", "alice", "-p", "other")["secret"])


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("spec", "field", "advice"),
    [
        ({"recipee": "image_classifier"}, "run.spec.recipee", "did you mean recipe?"),
        ({"recipe": "image_clasifier"}, "spec.recipe", "did you mean image_classifier?"),
        ({"dataset": "datasets/nothing"}, "spec.dataset", "does not exist"),
        ({"hyperparameters": {"epoch": 1}}, "spec.hyperparameters.epoch", "did you mean epochs?"),
        ({"hyperparameters": {"epochs": -1}}, "spec.hyperparameters.epochs", "between 1 and"),
        ({"maxRestarts": "many"}, "run.spec.maxRestarts", "integer"),
    ],
)
def test_json_with_a_wrong_field_is_told_which(
    api: httpx.Client, dataset: dict[str, Any], spec: dict[str, Any], field: str, advice: str
) -> None:
    good = {"recipe": "image_classifier", "dataset": "datasets/digits"}

    problem = refused(api.post(RUNS, json={"spec": good | spec}), 400)

    assert advice in problem["fields"][field], problem


@pytest.mark.usefixtures("unchanged")
def test_json_that_is_none_or_too_large_is_refused(api: httpx.Client) -> None:
    typed = {"content-type": "application/json"}
    assert refused(api.post(RUNS, content=b'{"spec":', headers=typed), 400)["reason"] == "MALFORMED_JSON"
    large = b'{"spec": {"description": "' + b"x" * (4 << 20) + b'"}}'
    assert refused(api.post(RUNS, content=large, headers=typed), 413)["reason"] == "BODY_TOO_LARGE"
    assert (
        refused(api.post(RUNS, content=b"spec", headers={"content-type": "text/plain"}), 415)["reason"]
        == "NOT_JSON"
    )
    assert refused(api.get("/v1/projects/default/run"), 404)["reason"] == "PATH_NOT_FOUND"


@pytest.mark.usefixtures("unchanged")
def test_a_run_file_is_read_strictly(aios: Stack, dataset: dict[str, Any], tmp_path: Path) -> None:
    def submit(**changed: Any) -> str:
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(digits.spec(**changed)))
        return aios.aios("run", "submit", "-f", file, code=1).err

    assert "hyperparameter: unknown key; did you mean hyperparameters?" in submit(
        hyperparameter={"epochs": 1}
    )
    assert "resources.cpus: unknown key; did you mean cpu?" in submit(resources={"cpus": 2})
    assert "dataset: " in submit(dataset="datasets/digit")
    assert "learning_rat" in submit(hyperparameters={"learning_rat": 1})
    (tmp_path / "broken.yaml").write_text("recipe: [")
    assert "is not YAML" in aios.aios("run", "submit", "-f", tmp_path / "broken.yaml", code=1).err


@pytest.mark.usefixtures("unchanged")
def test_a_version_of_bytes_that_never_came_is_refused(api: httpx.Client, dataset: dict[str, Any]) -> None:
    content, other = secrets.token_bytes(1000), secrets.token_bytes(1000)
    file = {"path": "a.bin", "sha256": hashlib.sha256(content).hexdigest(), "sizeBytes": "1000"}
    begun = api.post(
        "/v1/projects/default/uploads:begin", json={k: file[k] for k in ("sha256", "sizeBytes")}
    ).json()

    with httpx.Client(trust_env=False) as store:
        store.put(begun["url"], content=other, headers=begun["headers"])
    assert refused(api.post(f"/v1/{begun['name']}:complete", json={}), 400)["code"] == "FAILED_PRECONDITION"

    version = {"files": [file]}
    problem = refused(api.post("/v1/projects/default/datasets/digits/versions", json=version), 400)
    assert problem["code"] == "FAILED_PRECONDITION"
    assert "a.bin" in problem["detail"]
    latest = api.get("/v1/projects/default/datasets/digits/versions/latest").json()
    assert latest["name"] == dataset["name"]


@pytest.mark.usefixtures("unchanged")
def test_another_projects_names_do_not_exist(
    aios: Stack,
    run: dict[str, Any],
    deployment: dict[str, Any],
    dataset: dict[str, Any],
    folder: Path,
    stranger: str,
) -> None:
    mine = [run["name"], run["job"], run["modelVersion"], deployment["name"], dataset["name"]]
    with aios.http(stranger) as api:
        for name in [*mine, f"projects/default/traces/{run['traceId']}"]:
            assert refused(api.get(f"/v1/{name}"), 404)["code"] == "NOT_FOUND", name
        assert refused(api.get(RUNS), 404)["code"] == "NOT_FOUND"
        spec = {"recipe": "image_classifier", "dataset": "datasets/digits"}
        assert refused(api.post(RUNS, json={"spec": spec}), 404)["code"] == "NOT_FOUND"
        assert refused(api.post(f"/v1/{run['name']}:cancel", json={}), 404)["code"] == "NOT_FOUND"
        problem = refused(api.post("/v2/models/digits/infer", json={}), 404)
        assert "Project other serves nothing at /v2/models/digits/infer" in problem["detail"]
        lineage = api.get("/v1/projects/other/lineage", params={"resource": run["name"]})
        assert lineage.status_code in (400, 404) or not lineage.json().get("edges")
    with pytest.raises(grpc.RpcError) as missing:
        get_run(aios.target, stranger, run["name"])
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(InferenceServerException, match='Project other has no deployment "digits"'):
        infer_grpc(aios, digits.held_out(folder)[0][:1], token=stranger)


def test_a_token_counts_at_every_door_until_it_is_revoked(
    aios: Stack, run: dict[str, Any], deployment: dict[str, Any], folder: Path
) -> None:
    made = aios.json("token", "create", "--role", "viewer", "--ttl", "1h", "--for", "this test")
    doors = doors_for(aios, made["secret"], run["name"], digits.held_out(folder)[0][:1])
    assert {name for name, ask in doors.items() if ask() != "passed"} == set()

    aios.aios("token", "revoke", made["token"]["name"])
    revoked = time.monotonic()

    for name, ask in doors.items():
        said = eventually(lambda ask=ask: refusal(ask()), f"{name} refuses it", REVOKED_SECONDS)  # type: ignore[misc]
        assert said in ("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"), (name, said)
    assert time.monotonic() - revoked < REVOKED_SECONDS


def test_an_expired_token_and_none_at_all_pass_no_door(
    aios: Stack, run: dict[str, Any], deployment: dict[str, Any], folder: Path
) -> None:
    key = read_key(aios.home / "secrets" / "identity.pem")
    claims = {"sub": "operator", "jti": "late", "project": "default", "role": "admin"}
    late = mint(key, claims, ttl_seconds=1, now=time.time() - 120)
    image = digits.held_out(folder)[0][:1]
    for token in (late, "nonsense"):
        said = {name: ask() for name, ask in doors_for(aios, token, run["name"], image).items()}
        assert set(said.values()) == {"401", "UNAUTHENTICATED"}, said


@pytest.mark.parametrize(
    ("name", "shape", "datatype", "complaint"),
    [
        ("image", (1, 1, 28, 27), "FP32", "unexpected shape for input 'image'"),
        ("image", (28, 28), "FP32", "unexpected shape for input 'image'"),
        ("image", (257, 1, 28, 28), "FP32", "batch"),
        ("image", (1, 1, 28, 28), "INT32", "'image' data-type is 'INT32'"),
        ("picture", (1, 1, 28, 28), "FP32", "unexpected inference input 'picture'"),
    ],
)
def test_a_wrong_tensor_is_named_at_both_doors(
    aios: Stack,
    deployment: dict[str, Any],
    name: str,
    shape: tuple[int, ...],
    datatype: str,
    complaint: str,
) -> None:
    values = np.zeros(shape, np.float32 if datatype == "FP32" else np.int32)
    for infer in (infer_http, infer_grpc):
        with pytest.raises(InferenceServerException) as refusal:
            infer(aios, values, name=name, datatype=datatype)
        assert complaint in str(refusal.value)
        assert refusal.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_an_unknown_deployment_is_named_at_both_doors(aios: Stack, deployment: dict[str, Any]) -> None:
    values = np.zeros((1, 1, 28, 28), np.float32)
    with pytest.raises(InferenceServerException, match="serves nothing at /v2/models/digit/infer"):
        infer_http(aios, values, deployment="digit")
    with pytest.raises(InferenceServerException, match='has no deployment "digit"'):
        infer_grpc(aios, values, deployment="digit")


@pytest.mark.parametrize(
    "path",
    [
        "repository/index",
        "repository/models/digits/unload",
        "models/digits/trace/setting",
        "models/digits/infer/../trace/setting",
        "trace/setting",
        "logging",
        "systemsharedmemory/status",
        "cudasharedmemory/region/a/register",
    ],
)
def test_the_model_servers_administration_is_closed(
    aios: Stack, api: httpx.Client, deployment: dict[str, Any], path: str
) -> None:
    for method in ("GET", "POST"):
        assert api.request(method, f"{aios.address}/v2/{path}").status_code in (400, 404)
    with triton_grpc.InferenceServerClient(aios.target) as server:
        for ask in (server.get_model_repository_index, server.get_trace_settings, server.get_log_settings):
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                ask(headers=aios.bearer())
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            server.unload_model("digits", headers=aios.bearer())


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_changes_of_runs_stream_over_http(
    aios: Stack, api: httpx.Client, client: Client, dataset: dict[str, Any], accept: str
) -> None:
    since = api.get(RUNS).json().get("revision", "0")
    submitted = client.runs.submit(digits.spec())
    client.runs.cancel(submitted.name)

    seen: list[str] = []
    watched = {"startRevision": since}
    with api.stream("GET", f"{RUNS}:watch", params=watched, headers={"accept": accept}) as stream:
        lines = stream.iter_lines()
        while "cancelled" not in seen:
            line = next(lines)
            if accept == "text/event-stream":
                assert not line or line.startswith("data: ")
                line = line.removeprefix("data: ")
            for event in json.loads(line).get("events", []) if line else []:
                assert event["run"]["name"] == submitted.name
                seen.append(event["type"])
    media = "text/event-stream" if accept == "text/event-stream" else "application/x-ndjson"
    assert stream.headers["content-type"] == media
    assert seen[0] == "created"


def test_a_watch_from_a_revision_that_never_was_is_refused(
    api: httpx.Client, dataset: dict[str, Any]
) -> None:
    problem = refused(api.get(f"{RUNS}:watch", params={"startRevision": 10**9}), 400)
    assert problem["code"] == "OUT_OF_RANGE"
    assert "list again" in problem["detail"]


def test_health_needs_no_token_and_reflection_describes_every_service(aios: Stack) -> None:
    with grpc.insecure_channel(aios.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING

        described = ProtoReflectionDescriptorDatabase(grpc.intercept_channel(channel, _Bearer(aios.token)))
        assert set(described.get_services()) > {
            "aios.scheduler.v1.SchedulerService",
            "aios.data.v1.DataService",
            "aios.trainer.v1.TrainerService",
            "aios.inference.v1.InferenceService",
            "aios.identity.v1.IdentityService",
            "aios.telemetry.v1.TraceService",
            "inference.GRPCInferenceService",
        }
        service = DescriptorPool(described).FindServiceByName("aios.trainer.v1.TrainerService")
        assert "CreateRun" in service.methods_by_name


def everything(api: httpx.Client) -> dict[str, list[str]]:
    """The names of what there is."""
    return {
        noun: [each["name"] for each in api.get(f"/v1/projects/default/{noun}").json().get(noun, [])]
        for noun in NOUNS
    }


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that a refusal carries."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    return problem


def doors_for(aios: Stack, token: str, run: str, image: Any) -> dict[str, Callable[[], str]]:
    """A call through each door: `passed`, or the code of its refusal."""

    def rest(path: str, **more: Any) -> str:
        with aios.http(token) as api:
            response = api.request("POST" if more else "GET", path, **more)
        return "passed" if response.status_code == 200 else str(response.status_code)

    def rpc(target: str) -> str:
        try:
            get_run(target, token, run)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "passed"

    def predict() -> str:
        try:
            infer_grpc(aios, image, token=token)
        except InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode.")
        return "passed"

    tensor = {"name": "image", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
    return {
        "JSON": lambda: rest(f"/v1/{run}"),
        "gRPC": lambda: rpc(aios.target),
        "the service itself": lambda: rpc(aios.service_target("trainer")),
        "predictions over HTTP": lambda: rest("/v2/models/digits/infer", json={"inputs": [tensor]}),
        "predictions over gRPC": predict,
    }


def refusal(said: str) -> str:
    """What a door said, if it refused."""
    return "" if said == "passed" else said


def get_run(target: str, token: str, name: str) -> Any:
    """GetRun with a bare generated stub."""
    with grpc.insecure_channel(target) as channel:
        stub: Any = trainer_service_pb2_grpc.TrainerServiceStub(channel)  # type: ignore[arg-type]  # its stubs are async
        request = trainer_service_pb2.GetRunRequest(name=name)
        return stub.GetRun(request, timeout=10, metadata=[("authorization", f"Bearer {token}")])


def infer_http(
    aios: Stack,
    values: Any,
    *,
    name: str = "image",
    datatype: str = "FP32",
    deployment: str = "digits",
    token: str = "",
) -> Any:
    tensor = triton_http.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    with triton_http.InferenceServerClient(aios.target) as server:
        return server.infer(deployment, [tensor], headers=aios.bearer(token))


def infer_grpc(
    aios: Stack,
    values: Any,
    *,
    name: str = "image",
    datatype: str = "FP32",
    deployment: str = "digits",
    token: str = "",
) -> Any:
    tensor = triton_grpc.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    with triton_grpc.InferenceServerClient(aios.target) as server:
        return server.infer(deployment, [tensor], headers=aios.bearer(token))


class _Bearer(grpc.StreamStreamClientInterceptor):
    """Sends a token with each call of the reflection client, which knows none."""

    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(_Details(details.method, details.timeout, self._metadata), requests)


class _Details(grpc.ClientCallDetails):
    """What an interceptor may change of a call."""

    def __init__(self, method: str, timeout: float | None, metadata: Any) -> None:
        self.method, self.timeout, self.metadata = method, timeout, metadata
        self.credentials = self.wait_for_ready = self.compression = None


def test_an_event_that_nobody_can_read_is_shown_to_the_operator(aios: Stack) -> None:
    secret = json.loads((aios.home / "secrets" / "nats.json").read_text())

    async def publish() -> None:
        bus = await nats.connect(f"nats://127.0.0.1:{aios.state.ports['nats']}", **secret)
        await bus.jetstream().publish("aios.scheduler.job.default.x.created", b"no event")
        await bus.close()

    asyncio.run(publish())
    dead = eventually(lambda: aios.json("events", "dead"), "it is kept")
    assert {event["payload"] for event in dead} == {"no event"}
    assert {event["consumer"] for event in dead} <= {"trainer-jobs", "inference-jobs"}
    aios.aios("events", "delete", dead[0]["name"])
    assert dead[0] not in aios.json("events", "dead")

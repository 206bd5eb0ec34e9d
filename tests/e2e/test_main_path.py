"""The main job, as a person does it: push, train, register, deploy, predict; then where it came from and what it took."""

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from aios.client import Client
from aios.errors import NotFound
from tests.e2e import digits
from tests.e2e.stack import Stack, eventually

pytestmark = pytest.mark.timeout(300)


def test_data_becomes_a_version_known_by_its_content(
    aios: Stack, dataset: dict[str, Any], folder: Path
) -> None:
    again = aios.json("dataset", "push", "digits", folder / "digits")

    assert again["name"] == dataset["name"], "the same content is the same version"
    assert dataset["name"].endswith(dataset["manifestSha256"][:16])
    assert [version["name"] for version in aios.json("dataset", "versions", "digits")] == [dataset["name"]]


def test_a_run_trains_on_that_version_and_registers_a_model(
    aios: Stack, client: Client, dataset: dict[str, Any], run: dict[str, Any]
) -> None:
    assert (run["state"], run["epoch"], run["exitCode"]) == ("STATE_SUCCEEDED", "1", 0)
    assert run["spec"]["dataset"] == dataset["name"].removeprefix("projects/default/")
    assert run["progress"]["step"] == str(digits.STEPS)
    assert run["metrics"]["test_accuracy"] > 0.8
    told = aios.json("job", "get", run["job"])["progress"]
    assert (told["step"], told["totalSteps"], told["saves"]) == (str(digits.STEPS), str(digits.STEPS), True)
    assert "100%" in aios.aios("job", "get", run["job"]).out

    losses = [step for key, step in digits.curve(client, run["name"]) if key == "loss"]
    assert sorted(losses) == digits.REPORTED
    assert f"registered as {run['modelVersion']}" in aios.aios("run", "logs", run["name"]).out

    version = aios.json("model", "get", "digits/1")
    assert (version["name"], version["run"]) == (run["modelVersion"], run["name"])
    assert version["metrics"]["accuracy"] == pytest.approx(run["metrics"]["test_accuracy"])
    outputs = aios.json("dataset", "get", run["outputs"].removeprefix("projects/default/"))
    assert {"report.html", "report.json"} == {file["path"] for file in outputs["files"]}


def test_both_doors_of_the_inference_protocol_give_the_same_answers(
    aios: Stack, run: dict[str, Any], deployment: dict[str, Any], folder: Path
) -> None:
    images, labels = digits.held_out(folder)

    over_http, _ = predict_http(aios, images)
    over_grpc, _ = predict_grpc(aios, images)

    assert np.array_equal(over_http, over_grpc)
    accuracy = float((over_http.argmax(axis=1) == labels).mean())
    assert accuracy == pytest.approx(run["metrics"]["test_accuracy"]), "what is served is what was trained"


def test_the_command_predicts_and_names_its_trace(
    aios: Stack, deployment: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    images, _ = digits.held_out(folder)
    np.save(tmp_path / "image.npy", images[:3])

    answer = aios.json("predict", "digits", "--input", tmp_path / "image.npy")

    expected, _ = predict_http(aios, images[:3])
    assert np.allclose(answer["outputs"]["logits"], expected)
    assert len(answer["traceId"]) == 32


def test_the_lineage_leads_from_the_deployment_to_the_data(
    aios: Stack, dataset: dict[str, Any], run: dict[str, Any], deployment: dict[str, Any]
) -> None:
    edges = aios.json("lineage", "deployments/digits", "--direction", "up")

    assert {(edge["target"], edge["source"]) for edge in edges} >= {
        (deployment["name"], deployment["liveRevision"]),
        (deployment["liveRevision"], run["modelVersion"]),
        (run["modelVersion"], run["name"]),
        (run["name"], dataset["name"]),
    }
    down = aios.json("lineage", dataset["name"], "--direction", "down")
    assert deployment["name"] in {edge["target"] for edge in down}


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_one_trace_runs_from_the_request_through_envoy_to_the_models_compute(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path, door: str
) -> None:
    images, _ = digits.held_out(folder)
    predict = predict_http if door == "http" else predict_grpc

    _, trace_id = predict(aios, images[:1])

    trace = Trace.whole(client, trace_id, "predict digits", "model.compute")
    assert trace.path("model.compute") == [
        ("envoy", "predict digits"),
        ("envoy", f"to default~digits~1~{door}"),
        ("triton", "model.compute"),
    ]


def test_one_trace_runs_from_submit_over_the_queue_to_registration(
    aios: Stack, client: Client, run: dict[str, Any]
) -> None:
    trace = Trace.whole(client, run["traceId"], "consume job.succeeded")

    submitted = trace.path("aios.trainer.v1.TrainerService/CreateRun")
    assert [service for service, _ in submitted] == ["envoy", "envoy", "trainer"]
    scheduled = [*submitted, ("trainer", "hand to scheduler")]
    scheduled.append(("scheduler", "aios.scheduler.v1.SchedulerService/CreateJob"))
    for service, step in (("scheduler", "queue wait"), ("scheduler", "assign"), ("agent", "start process")):
        assert trace.path(step) == [*scheduled, (service, step)]

    process = [*scheduled, ("trainer.job", "training process")]
    assert trace.path("training process") == process
    for phase in ("load libraries", "load data", "train", "export", "register model"):
        assert trace.path(phase) == [*process, ("trainer.job", phase)]
    assert trace.path("save checkpoint") == [
        *process,
        ("trainer.job", "train"),
        ("trainer.job", "save checkpoint"),
    ]
    registration = trace.path("aios.data.v1.DataService/CreateModelVersion")
    assert registration[: len(process) + 1] == [*process, ("trainer.job", "register model")]

    printed = aios.json("trace", run["traceId"])
    assert len(printed["spans"]) >= len(trace.spans)
    assert "queue wait" in aios.aios("trace", run["traceId"]).out


class Trace:
    """The spans of one trace id."""

    def __init__(self, spans: list[Any]) -> None:
        self.spans = spans
        self._by_id = {span.span_id: span for span in spans}

    @classmethod
    def whole(cls, client: Client, trace_id: str, *names: str) -> "Trace":
        """The trace, once spans of these names have arrived, and every one that something hangs from."""

        def ask() -> "Trace | None":
            try:
                found = cls(list(client.traces.get(trace_id).spans))
            except NotFound:
                return None
            complete = found.roots == 1 and {span.name for span in found.spans}.issuperset(names)
            return found if complete else None

        found = eventually(ask, f"{names} in trace {trace_id}", pause=0.3)
        assert found is not None
        return found

    def path(self, name: str) -> list[tuple[str, str]]:
        """Service and name of each span from the root to the first one of this name."""
        span = next(span for span in self.spans if span.name == name)
        way: list[tuple[str, str]] = []
        while span is not None:
            way.insert(0, (span.service, span.name))
            span = self._by_id.get(span.parent_span_id)
        return way

    @property
    def roots(self) -> int:
        """How many spans have no parent among the others: one, whose parent is the client's if it sent any."""
        return sum(span.parent_span_id not in self._by_id for span in self.spans)


def predict_http(aios: Stack, images: Any) -> tuple[Any, str]:
    """The logits that the unmodified HTTP client gets, and the trace of the request."""
    tensor = triton_http.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    trace_id, headers = traced(aios)
    with triton_http.InferenceServerClient(aios.target) as server:
        return server.infer("digits", [tensor], headers=headers).as_numpy("logits"), trace_id


def predict_grpc(aios: Stack, images: Any) -> tuple[Any, str]:
    """The same over gRPC."""
    tensor = triton_grpc.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    trace_id, headers = traced(aios)
    with triton_grpc.InferenceServerClient(aios.target) as server:
        return server.infer("digits", [tensor], headers=headers).as_numpy("logits"), trace_id


def traced(aios: Stack) -> tuple[str, dict[str, str]]:
    """A fresh trace id, and headers that carry it and the operator's token."""
    trace_id = secrets.token_hex(16)
    return trace_id, {**aios.bearer(), "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}

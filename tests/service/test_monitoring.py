"""Feedback, drift reports and alerts of the inference service; the data service and a receiver of webhooks are played."""

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from aios.data.v1 import data_service_pb2, dataset_pb2, transform_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as transforms
from aios.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aios.inference.v1 import deployment_pb2, inference_service_pb2, monitoring_pb2
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.inference.v1.monitoring_service_pb2_grpc import MonitoringServiceStub
from aios.runtime.server import Service
from tests.service.neighbours import channel, token, until
from tests.service.test_inference import MODEL, PARENT, WEB, Data, World, inference, live, neighbours

TRAINED_ON = f"{PARENT}/datasets/people/versions/{'a' * 16}"
KEPT = deployment_pb2.PayloadLog(sample_rate=1.0, window_seconds=10)
Alert, Report = monitoring_pb2.Alert, monitoring_pb2.DriftReport


@dataclass
class Store(Data):
    """Also takes versions, and knows what a model came from."""

    versions: list[dataset_pb2.DatasetVersion] = field(default_factory=list)

    async def GetLineage(
        self, request: data_service_pb2.GetLineageRequest, context: Any
    ) -> data_service_pb2.Lineage:
        run = f"{PARENT}/runs/first"
        edges = [(TRAINED_ON, run), (run, f"{MODEL}/1")] if request.resource == f"{MODEL}/1" else []
        return data_service_pb2.Lineage(
            edges=[data_service_pb2.LineageEdge(source=source, target=target) for source, target in edges]
        )

    async def CreateDatasetVersion(
        self, request: data_service_pb2.CreateDatasetVersionRequest, context: Any
    ) -> dataset_pb2.DatasetVersion:
        request.dataset_version.name = f"{request.parent}/versions/{'b' * 16}"
        self.versions.append(request.dataset_version)
        return request.dataset_version


@dataclass
class Transforms(transform_service_pb2_grpc.TransformServiceServicer):
    """Keeps transforms; each has the report that a test says."""

    made: list[transform_pb2.Transform] = field(default_factory=list)
    state: "transform_pb2.Transform.State.ValueType" = transform_pb2.Transform.STATE_RUNNING
    report: dict[str, Any] = field(default_factory=dict)

    async def CreateTransform(
        self, request: transforms.CreateTransformRequest, context: Any
    ) -> transform_pb2.Transform:
        request.transform.name = f"{request.parent}/transforms/{request.transform_id}"
        self.made.append(request.transform)
        return request.transform

    async def GetTransform(
        self, request: transforms.GetTransformRequest, context: Any
    ) -> transform_pb2.Transform:
        output = f"{PARENT}/datasets/web-drift/versions/{'c' * 16}"
        done = self.state == transform_pb2.Transform.STATE_SUCCEEDED
        return transform_pb2.Transform(
            name=request.name, state=self.state, output_version=output if done else ""
        )

    async def GetTransformReport(
        self, request: transforms.GetTransformReportRequest, context: Any
    ) -> transforms.GetTransformReportResponse:
        answer = transforms.GetTransformReportResponse()
        answer.report.update(self.report)
        return answer


@dataclass
class Town:
    world: World
    data: Store
    transforms: Transforms

    def stub(self, role: str, **claims: Any) -> MonitoringServiceStub:
        return MonitoringServiceStub(channel(self.world.settings.inference_address, token(role, **claims)))

    @property
    def editor(self) -> MonitoringServiceStub:
        return self.stub("editor")

    async def keep(self, *answers: tuple[str, str], job: str = "web-r1-0") -> None:
        """As a replica that has stored a file of predictions: trace and class of each."""
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC))
        name = f"{PARENT}/jobs/{job}"
        file = monitoring_pb2.PayloadFile(
            sha256=digest(len(answers)),
            size_bytes=10,
            rows=len(answers),
            start_time=now,
            end_time=now,
            answers=[monitoring_pb2.Answer(trace_id=trace, label=label) for trace, label in answers],
        )
        worker = self.stub("worker", job=name, epoch=1)
        await worker.ReportPayloads(pb.ReportPayloadsRequest(job=name, epoch=1, file=file))

    async def say(self, *truths: tuple[str, str]) -> tuple[int, int]:
        said = [monitoring_pb2.Feedback(trace_id=trace, label=label) for trace, label in truths]
        answer = await self.editor.ReportFeedback(pb.ReportFeedbackRequest(name=WEB, feedback=said))
        return answer.joined, answer.waiting

    async def figures(self) -> deployment_pb2.RevisionFigures:
        request = inference_service_pb2.ListFiguresRequest(parent=PARENT)
        [found] = (await self.world.editor.ListFigures(request)).figures
        return found

    async def alert(
        self, name: str, metric: "monitoring_pb2.Alert.Metric.ValueType", **more: Any
    ) -> monitoring_pb2.Alert:
        rule = Alert(deployment=WEB, metric=metric, **more)
        return await self.editor.CreateAlert(pb.CreateAlertRequest(parent=PARENT, alert_id=name, alert=rule))


@asynccontextmanager
async def town(tmp_path: Path, **settings: Any) -> AsyncIterator[Town]:
    """A live deployment that keeps its predictions."""
    data, made = Store(), Transforms()
    add = transform_service_pb2_grpc.add_TransformServiceServicer_to_server
    async with neighbours(tmp_path, data=data, beside=[Service(add, made)]) as w:
        w.settings = replace(w.settings, **settings)
        async with inference(w):
            await live(w, payload_log=KEPT)
            yield Town(w, data, made)


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Takes webhooks."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.append(({key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", calls
    finally:
        server.shutdown()
        server.server_close()


def digest(rows: int) -> str:
    """Of a file of so many rows."""
    return hashlib.sha256(bytes([rows])).hexdigest()


def traces(count: int, first: int = 0) -> list[str]:
    return [f"{number:032x}" for number in range(first, first + count)]


async def test_feedback_is_compared_with_the_answer_whichever_comes_first_and_counts_for_its_revision(
    tmp_path: Path,
) -> None:
    async with town(tmp_path) as t:
        early, late = traces(2)
        assert await t.say((early, "cat")) == (0, 1)
        await t.keep((early, "cat"), (late, "cat"))
        assert await t.say((late, "dog")) == (1, 0)
        found = await t.figures()
        assert (found.feedback, found.live_accuracy) == (2, 0.5)
        assert await t.say((late, "cat")) == (1, 0), "said again, the newest counts"
        assert (await t.figures()).live_accuracy == 1.0
        assert "live_accuracy" not in (await t.world.history())[0].quality, "two answers decide nothing"

        many = traces(58, 2)
        await t.keep(*((trace, "cat") for trace in many))
        await t.say(*((trace, "cat" if number % 2 else "dog") for number, trace in enumerate(many)))
        assert dict((await t.world.history())[0].quality) == {"live_accuracy": pytest.approx(31 / 60)}

        with pytest.raises(InvalidArgument, match=r"feedback\[0\]\.trace_id"):
            await t.say(("nonsense", "cat"))
        with pytest.raises(PermissionDenied):
            await t.stub("viewer").ReportFeedback(pb.ReportFeedbackRequest(name=WEB))


async def test_a_drift_report_compares_what_was_kept_with_what_the_model_was_trained_on(
    tmp_path: Path,
) -> None:
    async with town(tmp_path) as t:
        asked = pb.CreateDriftReportRequest(parent=WEB, request_id="5a0d6a0e-9f0e-4f60-8d39-0d5b6d2f1c11")
        with pytest.raises(FailedPrecondition, match="was kept"):
            await t.editor.CreateDriftReport(asked)
        await t.keep((traces(1)[0], "cat"))
        made = await t.editor.CreateDriftReport(asked)
        assert (made.state, made.against, made.psi_limit) == (Report.STATE_RUNNING, TRAINED_ON, 0.2)
        assert await t.editor.CreateDriftReport(asked) == made, "once"

        await until(lambda: _is(t.transforms.made))
        [transform] = t.transforms.made
        assert (transform.spec.type, transform.spec.inputs["baseline"]) == ("drift", TRAINED_ON)
        assert transform.spec.parameters["model"] == f"{MODEL}/1"
        assert [each.sha256 for each in t.data.versions[0].files] == [digest(1)]
        t.transforms.report = {
            "rows": {"input": 1, "baseline": 100},
            "drift": {"age": {"psi": 0.4, "drifted": True, "outliers": 0.25}},
        }
        t.transforms.state = transform_pb2.Transform.STATE_SUCCEEDED

        async def ended() -> monitoring_pb2.DriftReport | None:
            found = await t.editor.GetDriftReport(pb.GetDriftReportRequest(name=made.name))
            return None if found.state == Report.STATE_RUNNING else found

        found = await until(ended)
        assert (found.state, found.psi_max, found.rows) == (Report.STATE_SUCCEEDED, 0.4, 1)
        assert (found.columns[0].column, found.columns[0].outliers) == ("age", 0.25)
        assert found.version.endswith(f"/web-drift/versions/{'c' * 16}")
        listed = await t.stub("viewer").ListDriftReports(pb.ListDriftReportsRequest(parent=WEB))
        assert list(listed.drift_reports) == [found]

        # Its figures are what a rule on drift looks at.
        await t.alert("web-drifts", Alert.METRIC_DRIFT, threshold=0.3)
        fired = await until(lambda: _firing(t, "web-drifts"))
        assert fired.state_message == "the largest PSI is 0.4, above 0.3"


async def test_an_alert_calls_its_webhook_signed_when_it_fires_and_when_it_is_over(tmp_path: Path) -> None:
    with receiver() as (url, calls):
        async with town(tmp_path, webhooks_inside=True) as t:
            made = await t.alert("wrong", Alert.METRIC_LIVE_ACCURACY, threshold=0.9, webhook=url)
            assert (made.state, len(made.secret)) == (Alert.STATE_OK, 64)
            assert not (await t.editor.GetAlert(pb.GetAlertRequest(name=made.name))).secret
            with pytest.raises(AlreadyExists):
                await t.alert("wrong", Alert.METRIC_NO_REPLICA)
            known = traces(50)
            await t.keep(*((trace, "cat") for trace in known))
            await t.say(*((trace, "dog") for trace in known))
            fired = await until(lambda: _firing(t, "wrong"))
            assert fired.state_message == "0.0% of the newest answers were right, below 90%"
            await t.say(*((trace, "cat") for trace in known))
            await until(lambda: _is(len(calls) == 2))
            for (headers, body), event in zip(calls, ("firing", "resolved"), strict=True):
                signed = headers["x-aios-timestamp"].encode() + b"." + body
                again = hmac.new(made.secret.encode(), signed, "sha256").hexdigest()
                assert headers["x-aios-signature"] == f"sha256={again}"
                said = json.loads(body)
                assert (said["type"], said["data"]["name"]) == (f"aios.inference.alert.{event}", made.name)
                assert made.secret not in body.decode()
                assert said["data"]["webhook"] == made.webhook != url
            [listed] = (await t.stub("viewer").ListAlerts(pb.ListAlertsRequest(parent=PARENT))).alerts
            assert (listed.state, listed.webhook) == (Alert.STATE_OK, url.rpartition("/")[0] + "/…")
            await t.editor.DeleteAlert(pb.DeleteAlertRequest(name=made.name))
            with pytest.raises(NotFound):
                await t.editor.GetAlert(pb.GetAlertRequest(name=made.name))


async def test_an_alert_that_could_never_be_is_refused_and_a_webhook_leads_outside(tmp_path: Path) -> None:
    async with town(tmp_path) as t:
        with pytest.raises(InvalidArgument, match=r"alert\.webhook"):
            await t.alert("a", Alert.METRIC_NO_REPLICA, webhook="https://127.0.0.1/hook")
        with pytest.raises(InvalidArgument, match=r"alert\.webhook"):
            await t.alert("a", Alert.METRIC_NO_REPLICA, webhook="http://93.184.216.34/hook")
        with pytest.raises(InvalidArgument, match=r"alert\.threshold"):
            await t.alert("a", Alert.METRIC_LIVE_ACCURACY, threshold=90)
        with pytest.raises(InvalidArgument, match=r"alert\.metric"):
            await t.alert("a", Alert.METRIC_UNSPECIFIED)
        rule = Alert(deployment=f"{PARENT}/deployments/gone", metric=Alert.METRIC_NO_REPLICA)
        with pytest.raises(NotFound):
            await t.editor.CreateAlert(pb.CreateAlertRequest(parent=PARENT, alert_id="a", alert=rule))


async def _is(value: Any) -> Any:
    return value


async def _firing(t: Town, name: str) -> monitoring_pb2.Alert | None:
    found = await t.editor.GetAlert(pb.GetAlertRequest(name=f"{PARENT}/alerts/{name}"))
    return found if found.state == Alert.STATE_FIRING else None

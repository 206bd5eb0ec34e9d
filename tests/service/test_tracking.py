"""Tracking as MLflow's clients speak it: its paths, field names and error codes, over the HTTP door to a real trainer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aios.errors import NotFound, PermissionDenied
from aios.runtime.channel import connect
from aios.trainer.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    run_pb2,
    trainer_service_pb2,
    trainer_service_pb2_grpc,
)
from gateway.http import app as http_app
from tests.service.neighbours import channel, token
from tests.service.test_trainer import PARENT, World, create, world

API = "/api/2.0/mlflow"


@dataclass
class Mlflow:
    """A client that knows MLflow's REST API alone."""

    http: httpx.AsyncClient
    world: World

    async def post(self, path: str, **body: Any) -> Any:
        return self._read(await self.http.post(f"{API}/{path}", json=body))

    async def get(self, path: str, **query: Any) -> Any:
        return self._read(await self.http.get(f"{API}/{path}", params=query))

    async def refused(self, path: str, **body: Any) -> str:
        answer = await self.http.post(f"{API}/{path}", json=body)
        assert answer.status_code >= 400, answer.text
        problem = answer.json()
        assert problem["message"]
        return str(problem["error_code"])

    async def start(self, experiment: str = "0", **more: Any) -> str:
        made = await self.post("runs/create", experiment_id=experiment, start_time=millis(), **more)
        return str(made["run"]["info"]["run_id"])

    async def run(self, run_id: str) -> dict[str, Any]:
        """Its status, metrics, params and tags."""
        found = (await self.get("runs/get", run_id=run_id))["run"]
        data = found.get("data", {})
        return {
            "status": found["info"]["status"],
            "metrics": {each["key"]: each.get("value", 0.0) for each in data.get("metrics", [])},
            "params": {each["key"]: each.get("value", "") for each in data.get("params", [])},
            "tags": {each["key"]: each.get("value", "") for each in data.get("tags", [])},
        }

    async def search(self, text: str = "", experiments: tuple[str, ...] = ("0",), **more: Any) -> list[str]:
        found = await self.post("runs/search", experiment_ids=experiments, filter=text, **more)
        return [run["info"]["run_name"] for run in found.get("runs", [])]

    def _read(self, answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest_asyncio.fixture
async def mlflow(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: Callable[[str], str]
) -> AsyncIterator[Mlflow]:
    async with world(tmp_path, database_url(getattr(request, "param", "sqlite"))) as made:
        channels = {
            domain: connect(made.settings.trainer_address, None)
            for domain in ("scheduler", "data", "trainer", "inference", "identity", "telemetry")
        }
        door = httpx.ASGITransport(http_app.build(channels))
        headers = {"authorization": f"Bearer {token('editor')}"}
        async with httpx.AsyncClient(transport=door, base_url="http://door", headers=headers) as http:
            yield Mlflow(http, made)
        for each in channels.values():
            await each.close()


def millis() -> int:
    return int(time.time() * 1000)


def metric(key: str, value: float | str, step: int) -> dict[str, Any]:
    return {"key": key, "value": value, "step": step, "timestamp": millis()}


async def test_a_run_is_tracked_from_its_start_to_its_end(mlflow: Mlflow) -> None:
    made = await mlflow.post("experiments/create", name="first", tags=[{"key": "team", "value": "vision"}])
    experiment = made["experiment_id"]
    run = await mlflow.start(experiment, run_name="hello", user_id="me", tags=[{"key": "a", "value": "b"}])
    for step in (0, 1, 2):
        await mlflow.post("runs/log-metric", run_id=run, **metric("loss", 1 / (step + 1), step))
    await mlflow.post("runs/log-parameter", run_id=run, key="lr", value="0.1")
    await mlflow.post(
        "runs/log-batch",
        run_id=run,
        metrics=[metric("acc", 0.5, 1), metric("acc", 0.9, 2)],
        params=[{"key": "model", "value": "cnn"}],
        tags=[{"key": "a", "value": "c"}],
    )
    await mlflow.post("runs/set-tag", run_id=run, key="gone", value="soon")
    await mlflow.post("runs/delete-tag", run_id=run, key="gone")
    await mlflow.post("runs/update", run_id=run, status="FINISHED", end_time=millis())
    assert await mlflow.run(run) == {
        "status": "FINISHED",
        "metrics": {"loss": 1 / 3, "acc": 0.9},
        "params": {"lr": "0.1", "model": "cnn"},
        "tags": {"a": "c", "mlflow.runName": "hello"},
    }
    curve = await mlflow.get("metrics/get-history", run_id=run, metric_key="loss")
    assert [(point.get("step", "0"), point["value"]) for point in curve["metrics"]] == [
        ("0", 1.0),
        ("1", 0.5),
        ("2", 1 / 3),
    ]
    named = await mlflow.get("experiments/get-by-name", experiment_name="first")
    assert named["experiment"]["experiment_id"] == experiment
    assert named["experiment"]["tags"] == [{"key": "team", "value": "vision"}]


async def test_a_tracked_run_is_a_run_of_the_platform_and_the_other_way_round(mlflow: Mlflow) -> None:
    tracked = await mlflow.start(run_name="theirs")
    await mlflow.post("runs/log-metric", run_id=tracked, **metric("loss", 0.5, 7))
    async with channel(mlflow.world.settings.trainer_address, token("editor")) as door:
        stub = trainer_service_pb2_grpc.TrainerServiceStub(door)
        ours = await stub.CreateRun(create("ours", hyperparameters={"epochs": 2}))
        listed = await stub.ListRuns(trainer_service_pb2.ListRunsRequest(parent=PARENT))
        assert {run.name for run in listed.runs} == {ours.name, f"{PARENT}/runs/{tracked}"}
        found = await stub.GetRun(trainer_service_pb2.GetRunRequest(name=f"{PARENT}/runs/{tracked}"))
        assert (found.state, dict(found.metrics), found.job) == (
            run_pb2.Run.STATE_RUNNING,
            {"loss": 0.5},
            "",
        )
    assert sorted(await mlflow.search()) == ["ours", "theirs"]
    assert (await mlflow.run("ours"))["params"]["epochs"] == "2"
    assert await mlflow.refused("runs/update", run_id="ours", status="FAILED") == "INVALID_STATE"
    assert await mlflow.refused("runs/delete", run_id="ours") == "INVALID_STATE"
    # Nothing starts a job for what somebody else runs.
    await asyncio.sleep(0.3)
    assert f"{PARENT}/jobs/{tracked}" not in mlflow.world.scheduler.jobs


@pytest.mark.parametrize("mlflow", ["sqlite", "postgresql"], indirect=True)
async def test_runs_are_found_by_what_was_logged(mlflow: Mlflow) -> None:
    for number, (model, status) in enumerate([("cnn", "FINISHED"), ("CNN", "FAILED"), ("mlp", "KILLED")]):
        run = await mlflow.start(run_name=f"r{number}")
        await mlflow.post("runs/log-batch", run_id=run, metrics=[metric("acc", number / 10, 1)])
        await mlflow.post("runs/log-parameter", run_id=run, key="model", value=model)
        await mlflow.post("runs/update", run_id=run, status=status)
    bare = await mlflow.start(run_name="bare")
    assert await mlflow.search() == ["bare", "r2", "r1", "r0"]
    assert await mlflow.search("metrics.acc >= 0.1") == ["r2", "r1"]
    assert await mlflow.search("params.model = 'cnn'") == ["r0"]
    assert await mlflow.search("params.model LIKE 'c%'") == ["r0"]
    assert await mlflow.search("params.model ILIKE 'c%'") == ["r1", "r0"]
    assert await mlflow.search("params.model IN ('mlp', 'CNN') AND metrics.acc < 0.2") == ["r1"]
    assert await mlflow.search("attributes.status = 'FAILED'") == ["r1"]
    assert await mlflow.search("run_name LIKE 'r_'") == ["r2", "r1", "r0"]
    assert await mlflow.search("start_time > 0 and end_time > 0") == ["r2", "r1", "r0"]
    assert await mlflow.search(order_by=["metrics.acc ASC"]) == ["r0", "r1", "r2", "bare"]
    assert await mlflow.search(order_by=["metrics.acc DESC"], max_results=1) == ["r2"]
    await mlflow.post("runs/delete", run_id=bare)
    assert "bare" not in await mlflow.search()
    assert await mlflow.search(run_view_type="DELETED_ONLY") == ["bare"]
    await mlflow.post("runs/restore", run_id=bare)
    assert "bare" in await mlflow.search(run_view_type="ALL")
    assert await mlflow.search(experiments=("other",)) == []

    seen, token_ = [], ""
    while True:
        page = await mlflow.post("runs/search", experiment_ids=["0"], max_results=3, page_token=token_)
        seen += [run["info"]["run_name"] for run in page["runs"]]
        if not (token_ := page.get("next_page_token", "")):
            break
    assert seen == ["bare", "r2", "r1", "r0"]


async def test_errors_are_those_that_clients_of_mlflow_know(mlflow: Mlflow) -> None:
    run = await mlflow.start()
    await mlflow.post("runs/log-parameter", run_id=run, key="lr", value="1")
    await mlflow.post("runs/log-parameter", run_id=run, key="lr", value="1")
    assert await mlflow.refused("runs/log-parameter", run_id=run, key="lr", value="2") == (
        "INVALID_PARAMETER_VALUE"
    )
    # A batch is stored as a whole or not at all.
    wrong = {"run_id": run, "metrics": [metric("x", 1, 1)], "params": [{"key": "lr", "value": "3"}]}
    assert await mlflow.refused("runs/log-batch", **wrong) == "INVALID_PARAMETER_VALUE"
    assert (await mlflow.run(run))["metrics"] == {}
    assert await mlflow.refused("runs/log-metric", run_id="no-such", **metric("x", 1, 1)) == (
        "RESOURCE_DOES_NOT_EXIST"
    )
    assert await mlflow.refused("runs/delete-tag", run_id=run, key="none") == "RESOURCE_DOES_NOT_EXIST"
    assert await mlflow.refused("runs/create", experiment_id="none") == "RESOURCE_DOES_NOT_EXIST"
    await mlflow.post("experiments/create", name="twice")
    assert await mlflow.refused("experiments/create", name="twice") == "RESOURCE_ALREADY_EXISTS"
    assert await mlflow.refused("experiments/create", name="Default") == "RESOURCE_ALREADY_EXISTS"
    assert await mlflow.refused("runs/search", experiment_ids=["0"], filter="acc = 1") == (
        "INVALID_PARAMETER_VALUE"
    )
    assert await mlflow.refused("runs/log-metric", run_id=run, key="x", value="much") == (
        "INVALID_PARAMETER_VALUE"
    )
    missing = await mlflow.http.get(f"{API}/experiments/get-by-name", params={"experiment_name": "none"})
    assert (missing.status_code, missing.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


async def test_numbers_that_are_none_are_kept_as_tags_and_unknown_fields_are_passed_over(
    mlflow: Mlflow,
) -> None:
    run = await mlflow.start(a_field_of_tomorrow=1)
    await mlflow.post("runs/log-metric", run_id=run, **metric("loss", "NaN", 3))
    await mlflow.post("runs/log-metric", run_id=run, **metric("loss", 2.0, 4))
    found = await mlflow.run(run)
    assert found["metrics"] == {"loss": 2.0}
    assert found["tags"]["aios.metric.loss"] == "nan at step 3"


async def test_experiments_are_renamed_tagged_hidden_and_shown_again(mlflow: Mlflow) -> None:
    made = await mlflow.post("experiments/create", name="one")
    key = made["experiment_id"]
    await mlflow.post("experiments/update", experiment_id=key, new_name="two")
    await mlflow.post("experiments/set-experiment-tag", experiment_id=key, key="k", value="v")
    await mlflow.post("experiments/delete", experiment_id=key)

    async def names(**more: Any) -> list[str]:
        found = await mlflow.post("experiments/search", **more)
        return [each["name"] for each in found.get("experiments", [])]

    assert await names() == ["Default"]
    assert await names(view_type="DELETED_ONLY") == ["two"]
    assert await mlflow.refused("runs/create", experiment_id=key) == "INVALID_PARAMETER_VALUE"
    await mlflow.post("experiments/restore", experiment_id=key)
    assert await names(filter="tags.k = 'v'") == ["two"]
    assert await names(order_by=["name ASC"]) == ["Default", "two"]
    assert await mlflow.refused("experiments/delete", experiment_id="0") == "INVALID_PARAMETER_VALUE"


async def test_another_project_sees_and_changes_nothing(mlflow: Mlflow) -> None:
    run = await mlflow.start()
    made = await mlflow.post("experiments/create", name="ours")
    mlflow.http.headers["authorization"] = f"Bearer {token('admin', project='other')}"
    for path, body in {
        "runs/log-metric": metric("x", 1, 1),
        "runs/log-parameter": {"key": "x", "value": "1"},
        "runs/log-batch": {},
        "runs/set-tag": {"key": "x", "value": "1"},
        "runs/delete-tag": {"key": "x"},
        "runs/update": {"status": "FAILED"},
        "runs/delete": {},
        "runs/restore": {},
    }.items():
        assert await mlflow.refused(path, run_id=run, **body) == "RESOURCE_DOES_NOT_EXIST"
    for path in ("update", "delete", "restore", "set-experiment-tag"):
        refused = await mlflow.refused(
            f"experiments/{path}", experiment_id=made["experiment_id"], new_name="theirs", key="k"
        )
        assert refused == "RESOURCE_DOES_NOT_EXIST"
    assert await mlflow.search(experiments=("0", made["experiment_id"])) == []
    assert [each["name"] for each in (await mlflow.post("experiments/search"))["experiments"]] == ["Default"]


async def test_viewers_and_jobs_of_other_runs_track_nothing(mlflow: Mlflow) -> None:
    run = await mlflow.start()
    for bearer in (token("viewer"), token("worker", job=f"{PARENT}/jobs/other", epoch=1)):
        mlflow.http.headers["authorization"] = f"Bearer {bearer}"
        refused = await mlflow.refused("runs/log-metric", run_id=run, **metric("x", 1, 1))
        assert refused in ("PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")


async def test_what_a_job_tracks_is_its_own_run_and_no_other(mlflow: Mlflow) -> None:
    other = await mlflow.start(run_name="somebody's")
    async with channel(mlflow.world.settings.trainer_address, token("editor")) as door:
        await trainer_service_pb2_grpc.TrainerServiceStub(door).CreateRun(
            create("r1", hyperparameters={"epochs": 2})
        )
    made = await mlflow.post("experiments/create", name="churn")
    job = Mlflow(mlflow.http, mlflow.world)

    def attempt(epoch: int) -> str:
        return f"Bearer {token('worker', job='projects/demo/jobs/r1', epoch=epoch)}"

    mlflow.http.headers["authorization"] = attempt(1)
    assert await job.start(made["experiment_id"], run_name="script") == "r1"
    await job.post("runs/log-metric", run_id="r1", **metric("loss", 0.5, 1))
    await job.post("runs/log-parameter", run_id="r1", key="lr", value="0.1")
    # It says that it has finished; whether it has, its exit code says.
    await job.post("runs/update", run_id="r1", status="FINISHED", end_time=millis())
    found = await job.run("r1")
    assert (found["status"], found["metrics"]) == ("SCHEDULED", {"loss": 0.5})
    assert (found["params"]["epochs"], found["params"]["lr"]) == ("2", "0.1")
    child = await job.start(
        made["experiment_id"], run_name="fold", tags=[{"key": "mlflow.parentRunId", "value": "r1"}]
    )
    second = await job.start(made["experiment_id"], run_name="another")
    assert len({"r1", child, second}) == 3
    for mine in (child, second):
        await job.post("runs/log-metric", run_id=mine, **metric("loss", 0.1, 1))
        await job.post("runs/update", run_id=mine, status="FINISHED", end_time=millis())

    for path, body in (
        ("runs/log-metric", metric("loss", 0.5, 1)),
        ("runs/log-parameter", {"key": "lr", "value": "9"}),
        ("runs/set-tag", {"key": "a", "value": "b"}),
        ("runs/update", {"status": "FAILED"}),
        ("runs/delete", {}),
        ("runs/log-inputs", {"datasets": []}),
    ):
        assert await job.refused(path, run_id=other, **body) == "RESOURCE_DOES_NOT_EXIST", path
    assert await job.refused("logged-models", experiment_id="0", source_run_id=other, name="m")
    assert await job.refused("experiments/delete", experiment_id=made["experiment_id"])

    mlflow.http.headers["authorization"] = attempt(2)
    assert await job.start(made["experiment_id"], run_name="script") == "r1"
    mlflow.http.headers["authorization"] = f"Bearer {token('editor')}"
    assert set(await mlflow.search(experiments=(made["experiment_id"],))) == {"script", "fold", "another"}
    assert await mlflow.refused("runs/update", run_id="r1", status="FAILED") == "INVALID_STATE"


async def test_artifacts_of_a_job_are_outputs_of_its_run(mlflow: Mlflow) -> None:
    address = mlflow.world.settings.trainer_address
    async with channel(address, token("editor")) as door:
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(door)
        await trainer_service_pb2_grpc.TrainerServiceStub(door).CreateRun(create("r1"))
        put = artifact_service_pb2.PutArtifactRequest(
            path="0/r1/artifacts/a.txt", sha256="0" * 64, size_bytes=3
        )
        with pytest.raises(PermissionDenied):
            await stub.PutArtifact(put)
    async with channel(address, token("worker", job="projects/demo/jobs/r1", epoch=1)) as door:
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(door)
        await stub.PutArtifact(put)
        listed = await stub.ListArtifacts(artifact_service_pb2.ListArtifactsRequest(path="0/r1/artifacts"))
        assert [each.path for each in listed.files] == ["a.txt"]
    async with channel(address, token("worker", job="projects/demo/jobs/r2", epoch=1)) as door:
        with pytest.raises(NotFound):
            await artifact_service_pb2_grpc.ArtifactServiceStub(door).PutArtifact(put)


async def test_a_registered_model_is_renamed_and_deleted(mlflow: Mlflow) -> None:
    models = "registered-models"
    await mlflow.post(f"{models}/create", name="Irises", tags=[{"key": "team", "value": "vision"}])
    await mlflow.post(f"{models}/create", name="Other")
    renamed = await mlflow.post(f"{models}/rename", name="Irises", new_name="Flowers")
    assert renamed["registered_model"]["name"] == "Flowers"
    found = (await mlflow.get(f"{models}/get", name="Flowers"))["registered_model"]
    assert (found["name"], found["tags"]) == ("Flowers", [{"key": "team", "value": "vision"}])
    assert (await mlflow.get(f"{models}/get", name="irises"))["registered_model"]["name"] == "Flowers"
    assert await mlflow.refused(f"{models}/rename", name="Flowers", new_name="OTHER") == (
        "RESOURCE_ALREADY_EXISTS"
    )
    assert await mlflow.refused(f"{models}/create", name="Irises") == "RESOURCE_ALREADY_EXISTS"

    async def delete(name: str) -> httpx.Response:
        return await mlflow.http.request("DELETE", f"{API}/{models}/delete", json={"name": name})

    mlflow.world.data.down = True
    assert (await delete("Flowers")).json()["error_code"] == "INVALID_STATE"
    assert (await mlflow.get(f"{models}/get", name="Flowers"))["registered_model"]["name"] == "Flowers"
    mlflow.world.data.down = False
    assert (await delete("Flowers")).status_code == 200
    assert (await delete("Flowers")).status_code == 404
    made = await mlflow.post(f"{models}/create", name="Irises")
    assert "tags" not in made["registered_model"]
    mlflow.world.data.models.clear()  # by `aios model delete`
    await mlflow.post(f"{models}/create", name="Irises")

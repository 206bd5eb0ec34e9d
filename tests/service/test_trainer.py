"""The trainer over real gRPC, SQLite and NATS; the scheduler and the data service are played by the test."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict

from aios.bus import Bus
from aios.common.v1 import resources_pb2
from aios.config import Settings
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, model_pb2
from aios.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    StaleEpoch,
    Unavailable,
)
from aios.records import Event
from aios.runtime.clock import SystemClock
from aios.runtime.server import Service
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from aios.trainer.v1 import run_pb2, trainer_service_pb2, trainer_service_pb2_grpc
from services.trainer.app import build
from tests.servers import nats_server
from tests.service.neighbours import channel, neighbour, serving, settings_in, token, until

PARENT = "projects/demo"
RUN = "projects/demo/runs/r1"
VERSION = "projects/demo/datasets/digits/versions/0123456789abcdef"
NODE_CPU_MILLIS = 64_000
Stub = trainer_service_pb2_grpc.TrainerServiceStub


@dataclass
class Scheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Keeps jobs and lets the test say what becomes of them."""

    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    down: bool = False

    async def CreateJob(self, request: scheduler_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        if self.down:
            raise Unavailable("down")
        if request.job.spec.resources.cpu_millis > NODE_CPU_MILLIS:
            message = "asks for too much cpu"
            raise InvalidArgument(
                f"The job {message}.", fields={"job.spec.resources": message}, reason="UNPLACEABLE"
            )
        name = f"{request.parent}/jobs/{request.job_id}"
        if request.validate_only:
            return job_pb2.Job(name=name)
        job = job_pb2.Job(name=name, spec=request.job.spec, state=job_pb2.Job.STATE_QUEUED)
        return self.jobs.setdefault(name, job)

    async def GetJob(self, request: scheduler_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        if request.name not in self.jobs:
            raise NotFound("no such job")
        return self.jobs[request.name]

    async def CancelJob(self, request: scheduler_service_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        self.cancelled.append(request.name)
        return self.jobs[request.name]

    def says(
        self, state: job_pb2.Job.State.ValueType, epoch: int = 1, exit_code: int | None = None
    ) -> job_pb2.Job:
        job = self.jobs["projects/demo/jobs/r1"]
        job.state, job.epoch = state, epoch
        if exit_code is not None:
            job.attempt.exit_code = exit_code
        return job


@dataclass
class Data(data_service_pb2_grpc.DataServiceServicer):
    """One dataset version and a registry."""

    edges: list[data_service_pb2.LineageEdge] = field(default_factory=list)
    registered: list[data_service_pb2.CreateModelVersionRequest] = field(default_factory=list)
    models: dict[str, model_pb2.Model] = field(default_factory=dict)
    down: bool = False

    async def CreateModel(
        self, request: data_service_pb2.CreateModelRequest, context: Any
    ) -> model_pb2.Model:
        name = f"{request.parent}/models/{request.model_id}"
        if name in self.models:
            raise AlreadyExists("taken")
        self.models[name] = model_pb2.Model(name=name, description=request.model.description)
        return self.models[name]

    async def GetModel(self, request: data_service_pb2.GetModelRequest, context: Any) -> model_pb2.Model:
        if request.name not in self.models:
            raise NotFound("no such model")
        return self.models[request.name]

    async def DeleteModel(
        self, request: data_service_pb2.DeleteModelRequest, context: Any
    ) -> data_service_pb2.Deletion:
        if self.down:
            raise FailedPrecondition("served by web")
        del self.models[request.name]
        return data_service_pb2.Deletion()

    async def GetDatasetVersion(
        self, request: data_service_pb2.GetDatasetVersionRequest, context: Any
    ) -> dataset_pb2.DatasetVersion:
        if request.name not in (VERSION, f"{PARENT}/datasets/digits/versions/latest"):
            raise NotFound("no such version")
        return dataset_pb2.DatasetVersion(name=VERSION)

    async def RecordLineage(self, request: data_service_pb2.RecordLineageRequest, context: Any) -> Empty:
        self.edges.extend(request.edges)
        return Empty()

    async def CreateModelVersion(
        self, request: data_service_pb2.CreateModelVersionRequest, context: Any
    ) -> model_pb2.ModelVersion:
        if self.down:
            raise Unavailable("down")
        self.registered.append(request)
        return model_pb2.ModelVersion(name=f"{request.parent}/versions/1")


@dataclass
class World:
    settings: Settings
    scheduler: Scheduler
    data: Data

    def stub(self, bearer: str) -> Stub:
        return Stub(channel(self.settings.trainer_address, bearer))

    @property
    def editor(self) -> Stub:
        return self.stub(token("editor"))

    def worker(self, epoch: int = 1, job: str = "r1") -> Stub:
        return self.stub(token("worker", job=f"projects/demo/jobs/{job}", epoch=epoch))

    async def announce(self, job: job_pb2.Job, kind: str, revision: int) -> None:
        """Put a job's change on the bus, as the scheduler's relay does."""
        bus = await Bus.connect(self.settings, "scheduler")
        payload = MessageToDict(job, preserving_proto_field_name=True)
        now = SystemClock().now()
        event = Event(str(uuid.uuid4()), revision, "scheduler", "job", "demo", "r1", kind, payload, "", now)
        await bus.publish(event)
        await bus.close()


@asynccontextmanager
async def world(tmp_path: Path, database_url: str = "") -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(nats_server(tmp_path / "nats"))
        settings = nats.settings(settings_in(tmp_path / "home", database_url))
        made = World(settings, Scheduler(), Data())
        add_jobs = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        add_data = data_service_pb2_grpc.add_DataServiceServicer_to_server
        await stack.enter_async_context(neighbour(settings, "scheduler", [Service(add_jobs, made.scheduler)]))
        await stack.enter_async_context(neighbour(settings, "data", [Service(add_data, made.data)]))
        await stack.enter_async_context(serving("trainer", settings, build))
        yield made


def create(run_id: str = "r1", request_id: str = "", **spec: Any) -> trainer_service_pb2.CreateRunRequest:
    values: dict[str, Any] = {
        "recipe": "image_classifier",
        "dataset": "datasets/digits",
        "model": "m",
        **spec,
    }
    return trainer_service_pb2.CreateRunRequest(
        parent=PARENT, run_id=run_id, run=run_pb2.Run(spec=run_pb2.RunSpec(**values)), request_id=request_id
    )


async def submitted(world: World, **spec: Any) -> None:
    await world.editor.CreateRun(create(**spec))
    await until(lambda: has_job(world))


async def has_job(world: World) -> bool:
    return bool((await get(world)).job)


async def get(world: World) -> run_pb2.Run:
    return await world.editor.GetRun(trainer_service_pb2.GetRunRequest(name=RUN))


async def reaches(world: World, state: run_pb2.Run.State.ValueType) -> run_pb2.Run:
    async def there() -> run_pb2.Run | None:
        run = await get(world)
        return run if run.state == state else None

    found: run_pb2.Run = await until(there)
    return found


def point(key: str, value: float, step: int) -> run_pb2.MetricPoint:
    made = run_pb2.MetricPoint(key=key, value=value, step=step)
    made.time.GetCurrentTime()
    return made


def report(epoch: int, *points: run_pb2.MetricPoint) -> trainer_service_pb2.ReportMetricsRequest:
    return trainer_service_pb2.ReportMetricsRequest(name=RUN, epoch=epoch, points=points)


async def test_a_run_becomes_a_job_with_its_data_in_the_lineage(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        run = await w.editor.CreateRun(create())
        assert (run.state, run.creator) == (run_pb2.Run.STATE_QUEUED, "alice")
        assert run.spec.dataset == "datasets/digits/versions/0123456789abcdef"
        await until(lambda: has_job(w))
        job = w.scheduler.jobs["projects/demo/jobs/r1"]
    assert (job.spec.owner, list(job.spec.command)) == (RUN, ["python", "-m", "services.trainer.job"])
    assert [(edge.source, edge.target) for edge in w.data.edges] == [(VERSION, RUN)]


async def test_an_accepted_run_gets_its_job_when_the_scheduler_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.scheduler.down = True
        await w.editor.CreateRun(create())
        w.scheduler.down = False
        await until(lambda: has_job(w), seconds=15)
    assert len(w.scheduler.jobs) == 1


async def test_a_retry_with_the_same_request_id_is_the_same_run(tmp_path: Path) -> None:
    request_id = str(uuid.uuid4())
    async with world(tmp_path) as w:
        first = await w.editor.CreateRun(create(run_id="", request_id=request_id))
        assert await w.editor.CreateRun(create(run_id="", request_id=request_id)) == first
        with pytest.raises(InvalidArgument):
            await w.editor.CreateRun(create(run_id="", request_id=request_id, seed=2))
        with pytest.raises(AlreadyExists):
            await w.editor.CreateRun(create(run_id=first.name.rpartition("/")[2]))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"recipe": "resnet"}, "spec.recipe"),
        ({"dataset": "datasets/none"}, "spec.dataset"),
        ({"dataset": "projects/other/datasets/digits"}, "spec.dataset"),
        ({"model": "My Model"}, "spec.model"),
        ({"checkpoint_steps": -1}, "spec.checkpoint_steps"),
        ({"max_restarts": 1000}, "spec.max_restarts"),
        ({"resources": resources_pb2.Resources(cpu_millis=2 * NODE_CPU_MILLIS)}, "spec.resources"),
    ],
)
async def test_a_wrong_spec_names_its_field_and_makes_nothing(
    tmp_path: Path, spec: dict[str, Any], field: str
) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(InvalidArgument) as refused:
            await w.editor.CreateRun(create(**spec))
        listed = await w.editor.ListRuns(trainer_service_pb2.ListRunsRequest(parent=PARENT))
    assert field in refused.value.fields
    assert not listed.runs


async def test_a_run_follows_its_jobs_events_to_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        await w.announce(w.scheduler.says(job_pb2.Job.STATE_RUNNING), "running", 5)
        await reaches(w, run_pb2.Run.STATE_RUNNING)
        await w.worker().BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1))
        request = trainer_service_pb2.CompleteRunRequest(name=RUN, epoch=1, model=run_pb2.ModelOutput())
        completed = await w.worker().CompleteRun(request)
        assert completed.model_version == "projects/demo/models/m/versions/1"
        assert (await w.worker().CompleteRun(request)).model_version == completed.model_version
        await w.announce(w.scheduler.says(job_pb2.Job.STATE_SUCCEEDED, exit_code=0), "succeeded", 6)
        run = await reaches(w, run_pb2.Run.STATE_SUCCEEDED)
    assert run.exit_code == 0
    assert [request.model_version.run for request in w.data.registered] == [RUN]


async def test_a_run_whose_events_are_lost_is_settled_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        w.scheduler.says(job_pb2.Job.STATE_FAILED, exit_code=3)
        run = await reaches(w, run_pb2.Run.STATE_FAILED)
    assert run.exit_code == 3


async def test_a_completion_is_registered_once_the_registry_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        await w.worker().BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1))
        w.data.down = True
        request = trainer_service_pb2.CompleteRunRequest(name=RUN, epoch=1, model=run_pb2.ModelOutput())
        with pytest.raises(Unavailable):
            await w.worker().CompleteRun(request)
        w.data.down = False
        w.scheduler.says(job_pb2.Job.STATE_SUCCEEDED, exit_code=0)
        run = await reaches(w, run_pb2.Run.STATE_SUCCEEDED)
    assert run.model_version


async def test_metrics_are_kept_once_rewound_by_a_restart_and_refused_from_an_older_attempt(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        first, second = w.worker(1), w.worker(2)
        await first.BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1))
        await first.ReportMetrics(
            report(1, point("loss", 0.9, 1), point("loss", 0.8, 2), point("loss", 0.7, 3))
        )
        await first.ReportMetrics(report(1, point("loss", 0.7, 3)))
        await second.BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=2, restored_step=2))
        with pytest.raises(StaleEpoch):
            await first.ReportMetrics(report(1, point("loss", 9.9, 4)))
        await second.ReportMetrics(report(2, point("loss", 0.6, 3)))
        request = trainer_service_pb2.ListMetricsRequest(parent=RUN, page_size=2)
        page = await w.editor.ListMetrics(request)
        request.page_token = page.next_page_token
        rest = await w.editor.ListMetrics(request)
    assert [(each.step, each.value) for each in (*page.points, *rest.points)] == [
        (1, 0.9),
        (2, 0.8),
        (3, 0.6),
    ]
    assert not rest.next_page_token


async def test_a_watcher_of_metrics_sees_them_live_and_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w, model="")
        worker = w.worker()
        await worker.BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1))
        seen: list[tuple[int, float]] = []
        async for update in w.editor.WatchMetrics(trainer_service_pb2.WatchMetricsRequest(parent=RUN)):
            seen += [(each.step, each.value) for each in update.points]
            if len(seen) < 3:
                await worker.ReportMetrics(report(1, point("loss", 1.0, len(seen) + 1)))
            elif not w.scheduler.says(job_pb2.Job.STATE_SUCCEEDED, exit_code=0).attempt.node:
                await worker.CompleteRun(trainer_service_pb2.CompleteRunRequest(name=RUN, epoch=1))
    assert seen == [(1, 1.0), (2, 1.0), (3, 1.0)]


async def test_a_cancelled_run_asks_its_process_and_its_job_to_stop(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        await w.worker().BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1))
        assert not (await w.worker().ReportMetrics(report(1))).should_stop
        await w.editor.CancelRun(trainer_service_pb2.CancelRunRequest(name=RUN))
        assert (await w.worker().ReportMetrics(report(1))).should_stop
        w.scheduler.says(job_pb2.Job.STATE_CANCELLED)
        await reaches(w, run_pb2.Run.STATE_CANCELLED)
    assert w.scheduler.cancelled


async def test_a_worker_may_touch_its_own_run_only_and_people_may_not_report(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await submitted(w)
        begin = trainer_service_pb2.BeginAttemptRequest(name=RUN, epoch=1)
        with pytest.raises(NotFound):
            await w.worker(job="r2").BeginAttempt(begin)
        with pytest.raises(StaleEpoch):
            await w.worker(epoch=2).BeginAttempt(begin)
        with pytest.raises(PermissionDenied):
            await w.editor.BeginAttempt(begin)


async def test_runs_are_listed_watched_and_kept_from_other_projects(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        listed = await w.editor.ListRuns(trainer_service_pb2.ListRunsRequest(parent=PARENT))
        request = trainer_service_pb2.WatchRunsRequest(parent=PARENT, start_revision=listed.revision)
        watch = w.editor.WatchRuns(request)
        await w.editor.CreateRun(create())
        events = []
        async for response in watch:
            events += [(event.type, event.run.name) for event in response.events]
            if events:
                break
        other = w.stub(token("admin", project="other"))
        with pytest.raises(NotFound):
            await other.GetRun(trainer_service_pb2.GetRunRequest(name=RUN))
        with pytest.raises(NotFound):
            await other.ListRuns(trainer_service_pb2.ListRunsRequest(parent=PARENT))
    assert events[0] == ("created", RUN)

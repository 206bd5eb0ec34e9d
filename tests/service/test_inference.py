"""The inference service over real gRPC, SQLite and NATS; scheduler, data service, replicas and gateway are played here."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from aios.bus import Bus
from aios.common.v1 import tensor_pb2
from aios.config import Settings
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2
from aios.errors import (
    Aborted,
    AiosError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    StaleEpoch,
    Unavailable,
)
from aios.inference.v1 import deployment_pb2, inference_service_pb2, inference_service_pb2_grpc
from aios.records import Event
from aios.runtime.server import Service
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from services.inference.app import build
from tests.servers import nats_server
from tests.service.neighbours import channel, neighbour, serving, settings_in, token, until

PARENT = "projects/demo"
WEB = f"{PARENT}/deployments/web"
MODEL = f"{PARENT}/models/digits/versions"
Stub = inference_service_pb2_grpc.InferenceServiceStub
Deployment, Revision, Replica = (
    deployment_pb2.Deployment,
    deployment_pb2.Revision,
    deployment_pb2.Replica,
)


@dataclass
class Scheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Keeps jobs and lets the test say what becomes of them."""

    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    down: bool = False
    refuses: bool = False

    async def CreateJob(self, request: scheduler_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        if self.down:
            raise Unavailable("down")
        if self.refuses:
            raise InvalidArgument("no node has that much")
        name = f"{request.parent}/jobs/{request.job_id}"
        job = job_pb2.Job(name=name, spec=request.job.spec, state=job_pb2.Job.STATE_QUEUED)
        if name in self.jobs and self.jobs[name].spec != job.spec:
            raise AlreadyExists("taken")
        return self.jobs.setdefault(name, job)

    async def GetJob(self, request: scheduler_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        if request.name not in self.jobs:
            raise NotFound("no such job")
        return self.jobs[request.name]

    async def CancelJob(self, request: scheduler_service_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        if request.name not in self.jobs:
            raise NotFound("no such job")
        if request.name not in self.cancelled:
            self.cancelled.append(request.name)
        self.jobs[request.name].state = job_pb2.Job.STATE_CANCELLED
        return self.jobs[request.name]


@dataclass
class Data(data_service_pb2_grpc.DataServiceServicer):
    """Versions 1 to 3 of one model, of which 3 has no signature."""

    edges: list[tuple[str, str]] = field(default_factory=list)
    latest: int = 1

    async def GetModelVersion(
        self, request: data_service_pb2.GetModelVersionRequest, context: Any
    ) -> model_pb2.ModelVersion:
        line, _, version = request.name.rpartition("/")
        number = {"latest": str(self.latest), "@champion": "2"}.get(version, version)
        if line != MODEL or number not in ("1", "2", "3"):
            raise NotFound("no such version")
        found = model_pb2.ModelVersion(name=f"{MODEL}/{number}", manifest_sha256=number * 64)
        if number != "3":
            found.signature.inputs.append(tensor_pb2.TensorSpec(name="image", datatype="FP32", shape=[784]))
            found.signature.outputs.append(tensor_pb2.TensorSpec(name="scores", datatype="FP32", shape=[10]))
        return found

    async def RecordLineage(self, request: data_service_pb2.RecordLineageRequest, context: Any) -> Empty:
        self.edges.extend((edge.source, edge.target) for edge in request.edges)
        return Empty()


class FastClock:
    """The machine's clock, put forward at will."""

    ahead = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class World:
    settings: Settings
    scheduler: Scheduler
    data: Data
    clock: FastClock

    def stub(self, bearer: str) -> Stub:
        return Stub(channel(self.settings.inference_address, bearer))

    @property
    def editor(self) -> Stub:
        return self.stub(token("editor"))

    @property
    def gateway(self) -> Stub:
        return self.stub(token("service", project="-", subject="gateway"))

    async def get(self) -> deployment_pb2.Deployment:
        return await self.editor.GetDeployment(inference_service_pb2.GetDeploymentRequest(name=WEB))

    async def history(self) -> list[deployment_pb2.Revision]:
        request = inference_service_pb2.ListRevisionsRequest(parent=WEB)
        return list((await self.editor.ListRevisions(request)).revisions)

    async def report(
        self,
        job: str,
        state: deployment_pb2.Replica.State.ValueType = Replica.STATE_READY,
        epoch: int = 1,
        port: int = 8000,
    ) -> None:
        """As the replica that is attempt `epoch` of `job`."""
        name = f"{PARENT}/jobs/{job}"
        stub = self.stub(token("worker", job=name, epoch=epoch))
        request = inference_service_pb2.ReportReplicaRequest(
            job=name, epoch=epoch, state=state, host="127.0.0.1", http_port=port, grpc_port=port + 1
        )
        if state == Replica.STATE_FAILED:
            request.message = "no such operator"
        await stub.ReportReplica(request)

    async def routes(self) -> inference_service_pb2.WatchRoutesResponse:
        """The routing table as it is now."""
        async for table in self.gateway.WatchRoutes(inference_service_pb2.WatchRoutesRequest()):
            return table
        raise AssertionError("the watch ended")

    async def confirm(self) -> None:
        """As a gateway whose Envoy has taken the newest routing table."""
        table = await self.routes()
        await self.gateway.ConfirmRoutes(inference_service_pb2.ConfirmRoutesRequest(revision=table.revision))

    async def job(self, name: str) -> job_pb2.Job:
        """A replica's job, once the reconciler has made it."""
        found: job_pb2.Job = await until(lambda: _ready(self.scheduler.jobs.get(f"{PARENT}/jobs/{name}")))
        return found

    async def ready(self, job: str, port: int = 8000) -> None:
        """Bring a replica up and its revision into force."""
        await self.job(job)
        await self.report(job, port=port)
        await self.confirm()

    async def until_state(
        self, state: deployment_pb2.Deployment.State.ValueType
    ) -> deployment_pb2.Deployment:
        async def reached() -> deployment_pb2.Deployment | None:
            found = await self.get()
            return found if found.state == state else None

        found: deployment_pb2.Deployment = await until(reached)
        return found


async def _ready(value: Any) -> Any:
    return value


@asynccontextmanager
async def world(tmp_path: Path, database_url: str = "") -> AsyncIterator[World]:
    async with neighbours(tmp_path, database_url) as made, inference(made):
        yield made


@asynccontextmanager
async def neighbours(
    tmp_path: Path, database_url: str = "", data: Data | None = None, beside: Sequence[Service] = ()
) -> AsyncIterator[World]:
    """All neighbours; of the data service also what is given in `beside`."""
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(nats_server(tmp_path / "nats"))
        settings = nats.settings(settings_in(tmp_path / "home", database_url))
        made = World(settings, Scheduler(), data or Data(), FastClock())
        add_jobs = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        add_data = data_service_pb2_grpc.add_DataServiceServicer_to_server
        await stack.enter_async_context(neighbour(settings, "scheduler", [Service(add_jobs, made.scheduler)]))
        await stack.enter_async_context(neighbour(settings, "data", [Service(add_data, made.data), *beside]))
        yield made


def inference(world: World) -> Any:
    return serving("inference", world.settings, partial(build, clock=world.clock))


def create(deployment_id: str = "web", request_id: str = "", **spec: Any) -> Any:
    values: dict[str, Any] = {"model_version": f"{MODEL}/1", **spec}
    return inference_service_pb2.CreateDeploymentRequest(
        parent=PARENT,
        deployment_id=deployment_id,
        deployment=Deployment(spec=deployment_pb2.DeploymentSpec(**values)),
        request_id=request_id,
    )


def update(*mask: str, etag: str = "", **spec: Any) -> Any:
    return inference_service_pb2.UpdateDeploymentRequest(
        deployment=Deployment(name=WEB, spec=deployment_pb2.DeploymentSpec(**spec), etag=etag),
        update_mask=FieldMask(paths=mask),
    )


def delete() -> Any:
    return inference_service_pb2.DeleteDeploymentRequest(name=WEB)


async def live(world: World, **spec: Any) -> None:
    await world.editor.CreateDeployment(create(**spec))
    await world.ready("web-r1-0")
    await world.until_state(Deployment.STATE_READY)


async def test_a_deployment_becomes_ready_once_its_replica_answers_and_the_gateway_routes_to_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        made = await w.editor.CreateDeployment(
            create(model_version=f"{MODEL}/latest", batch_delay_micros=500)
        )
        assert (made.state, made.spec.model_version) == (Deployment.STATE_STARTING, f"{MODEL}/1")
        assert (made.spec.replicas, made.spec.resources.cpu_millis) == (1, 500)

        job = await w.job("web-r1-0")
        assert job.spec.kind == job_pb2.JobSpec.KIND_SERVICE
        assert list(job.spec.command) == ["python", "-m", "services.inference.replica"]
        assert list(job.spec.ports) == ["http", "grpc", "metrics"]
        assert job.spec.owner == f"{WEB}/revisions/1"
        worker = w.stub(token("worker", job=job.name, epoch=1))
        spec = await worker.GetReplicaSpec(inference_service_pb2.GetReplicaSpecRequest(job=job.name))
        assert (spec.deployment_id, spec.model_version, spec.batch_delay_micros) == ("web", f"{MODEL}/1", 500)
        assert (spec.manifest_sha256, spec.signature.inputs[0].name) == ("1" * 64, "image")

        await w.report("web-r1-0", Replica.STATE_STARTING)
        assert not (await w.routes()).deployments[0].revisions
        await w.report("web-r1-0", port=9000)
        (route,) = (await w.routes()).deployments
        assert (route.deployment, route.revisions[0].weight) == (WEB, 100)
        assert route.revisions[0].replicas[0].http_port == 9000
        assert (await w.get()).state == Deployment.STATE_STARTING, "nobody has these routes yet"

        await w.confirm()
        ready = await w.get()
        assert (ready.state, ready.live_revision) == (Deployment.STATE_READY, f"{WEB}/revisions/1")
        assert (await w.history())[0].HasField("live_time")
        edges = [(f"{MODEL}/1", f"{WEB}/revisions/1"), (f"{WEB}/revisions/1", WEB)]
        await until(lambda: _ready(w.data.edges == edges))


async def test_an_update_takes_over_without_a_gap_and_the_old_replica_stops_last(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await live(w)
        updating = await w.editor.UpdateDeployment(
            update("spec.model_version", model_version=f"{MODEL}/@champion")
        )
        assert (updating.state, updating.live_revision[-1]) == (Deployment.STATE_UPDATING, "1")
        await w.job("web-r2-0")
        await w.report("web-r2-0", port=9000)
        shares = {each.revision[-1]: each.weight for each in (await w.routes()).deployments[0].revisions}
        assert shares == {"1": 0, "2": 100}
        assert (await w.history())[1].state == Revision.STATE_LIVE
        assert not w.scheduler.cancelled

        await w.confirm()
        assert (await w.get()).live_revision == f"{WEB}/revisions/2"
        await until(lambda: _one_revision_routed(w))
        assert not w.scheduler.cancelled, "the gateway may still have the old one"
        await w.confirm()
        await until(lambda: _ready(w.scheduler.cancelled == [f"{PARENT}/jobs/web-r1-0"]))
        await until(lambda: _retired(w, 1))


async def test_a_broken_revision_is_given_up_with_the_reason_and_the_old_one_answers(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await live(w)
        await w.editor.UpdateDeployment(update("spec.model_version", model_version=f"{MODEL}/2"))
        await w.job("web-r2-0")
        for epoch in (1, 2, 3):
            await w.report("web-r2-0", Replica.STATE_FAILED, epoch)
        degraded = await w.get()
        assert (degraded.state, degraded.live_revision[-1]) == (Deployment.STATE_DEGRADED, "1")
        assert "no such operator" in degraded.state_message
        (route,) = (await w.routes()).deployments
        assert [(each.revision[-1], each.weight) for each in route.revisions] == [("1", 100)]
        await until(lambda: _ready(f"{PARENT}/jobs/web-r2-0" in w.scheduler.cancelled))

        await w.editor.UpdateDeployment(update("spec.model_version", model_version=f"{MODEL}/1"))
        await w.ready("web-r3-0")
        assert (await w.get()).live_revision == f"{WEB}/revisions/3"


async def test_a_replica_that_no_node_can_hold_fails_the_revision(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.scheduler.refuses = True
        await w.editor.CreateDeployment(create())
        assert "no node has that much" in (await w.until_state(Deployment.STATE_DEGRADED)).state_message


async def test_only_the_newest_attempt_of_a_job_speaks_for_its_replica(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await live(w)
        await w.report("web-r1-0", epoch=2, port=9000)
        with pytest.raises(StaleEpoch):
            await w.report("web-r1-0", epoch=1)
        name = f"{PARENT}/jobs/web-r1-0"
        request = inference_service_pb2.ReportReplicaRequest(
            job=name, epoch=3, state=Replica.STATE_READY, host="127.0.0.1", http_port=1, grpc_port=2
        )
        with pytest.raises(StaleEpoch):
            await w.stub(token("worker", job=name, epoch=2)).ReportReplica(request)
        other = w.stub(token("worker", job=f"{PARENT}/jobs/other", epoch=3))
        with pytest.raises(NotFound):
            await other.ReportReplica(request)
        with pytest.raises(NotFound):
            await other.GetReplicaSpec(inference_service_pb2.GetReplicaSpecRequest(job=name))
        with pytest.raises(NotFound, match="no replica"):
            await w.report("other")
        with pytest.raises(PermissionDenied):
            await w.editor.ReportReplica(request)
        assert (await w.routes()).deployments[0].revisions[0].replicas[0].http_port == 9000


WRONG: list[tuple[Any, type[AiosError], str]] = [
    (create("Web"), InvalidArgument, "deployment_id"),
    (create("w" * 41), InvalidArgument, "1-40"),
    (create(replicas=17), InvalidArgument, "deployment.spec.replicas"),
    (create(batch_delay_micros=-1), InvalidArgument, "deployment.spec.batch_delay_micros"),
    (create(model_version=""), InvalidArgument, "deployment.spec.model_version"),
    (create(model_version="projects/other/models/digits/versions/1"), NotFound, "projects/other"),
    (create(model_version=f"{MODEL}/9"), NotFound, "aios model list"),
    (create(model_version=f"{MODEL}/3"), FailedPrecondition, "signature"),
]


async def test_a_deployment_that_cannot_be_is_refused_with_what_to_change(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for request, error, says in WRONG:
            with pytest.raises(error, match=says):
                await w.editor.CreateDeployment(request)
        found = await w.editor.ListDeployments(inference_service_pb2.ListDeploymentsRequest(parent=PARENT))
        assert not found.deployments


async def test_an_update_names_what_it_changes_and_what_it_read(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        made = await w.editor.CreateDeployment(create(batch_delay_micros=100))
        with pytest.raises(InvalidArgument, match=r"did you mean spec\.replicas"):
            await w.editor.UpdateDeployment(update("spec.replica", replicas=2))
        with pytest.raises(Aborted, match="etag"):
            await w.editor.UpdateDeployment(update("spec.replicas", replicas=2, etag="0"))
        same = await w.editor.UpdateDeployment(update("spec.replicas", "state", replicas=1, etag=made.etag))
        assert same.latest_revision == made.latest_revision
        two = await w.editor.UpdateDeployment(update("spec.replicas", replicas=2, etag=made.etag))
        assert (two.spec.replicas, two.spec.batch_delay_micros, two.latest_revision[-1]) == (2, 100, "2")
        with pytest.raises(Aborted):
            await w.editor.UpdateDeployment(update("spec.replicas", replicas=3, etag=made.etag))
        whole = await w.editor.UpdateDeployment(update(model_version=f"{MODEL}/2"))
        assert (whole.spec.replicas, whole.spec.batch_delay_micros) == (1, 0)


async def test_another_projects_deployment_does_not_exist(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.editor.CreateDeployment(create())
        stranger = w.stub(token("admin", project="other"))
        calls: list[tuple[Any, Any]] = [
            (stranger.GetDeployment, inference_service_pb2.GetDeploymentRequest(name=WEB)),
            (stranger.UpdateDeployment, update("spec.replicas", replicas=2)),
            (stranger.DeleteDeployment, delete()),
            (stranger.ListRevisions, inference_service_pb2.ListRevisionsRequest(parent=WEB)),
        ]
        for call, request in calls:
            with pytest.raises(NotFound):
                await call(request)
        with pytest.raises(PermissionDenied):
            await anext(aiter(stranger.WatchRoutes(inference_service_pb2.WatchRoutesRequest())))
        assert (await w.get()).etag == "1"


async def test_a_create_sent_twice_makes_one_deployment(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        request = create(request_id=str(uuid.uuid4()))
        first = await w.editor.CreateDeployment(request)
        assert await w.editor.CreateDeployment(request) == first
        with pytest.raises(AlreadyExists):
            await w.editor.CreateDeployment(create())


async def test_a_restart_forgets_no_route_and_gives_every_replica_its_time(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as w:
        async with inference(w):
            await live(w)
            before = await w.routes()
        w.clock.ahead += 3600
        async with inference(w):
            assert await w.routes() == before
            w.clock.ahead += 4
            await w.report("web-r1-0")
            w.clock.ahead += 4
            await _rounds()
            assert (await w.get()).state == Deployment.STATE_READY
            w.clock.ahead += 4
            await w.until_state(Deployment.STATE_DEGRADED)
            assert (await w.routes()).deployments == before.deployments, (
                "its word is missing, not its answers"
            )
            await w.report("web-r1-0")
            await w.until_state(Deployment.STATE_READY)


async def test_what_was_accepted_while_the_scheduler_was_away_is_started_after_a_restart(
    tmp_path: Path,
) -> None:
    async with neighbours(tmp_path) as w:
        w.scheduler.down = True
        async with inference(w):
            await w.editor.CreateDeployment(create(replicas=2))
            await _rounds()
        w.scheduler.down = False
        async with inference(w):
            await w.job("web-r1-0")
            await w.job("web-r1-1")
        assert len(w.scheduler.jobs) == 2


async def test_a_job_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        name = f"{PARENT}/jobs/web-r1-0"
        w.scheduler.jobs[name] = job_pb2.Job(name=name, spec=job_pb2.JobSpec(command=["sleep"]))
        await w.editor.CreateDeployment(create())
        await w.job("web-r1-1")
        assert not w.scheduler.cancelled


async def test_a_replica_whose_job_ended_is_told_by_the_bus_and_replaced(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await live(w)
        job = w.scheduler.jobs[f"{PARENT}/jobs/web-r1-0"]
        job.state = job_pb2.Job.STATE_CANCELLED
        bus = await Bus.connect(w.settings, "scheduler")
        payload = MessageToDict(job, preserving_proto_field_name=True)
        now = w.clock.now()
        await bus.publish(
            Event(str(uuid.uuid4()), 7, "scheduler", "job", "demo", "web-r1-0", "cancelled", payload, "", now)
        )
        await bus.close()
        await w.until_state(Deployment.STATE_DEGRADED)
        await w.job("web-r1-1")
        await w.report("web-r1-1")
        assert (await w.get()).state == Deployment.STATE_READY


async def test_a_deleted_deployment_leaves_the_routes_then_stops_and_its_history_stays(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await live(w)
        await w.editor.DeleteDeployment(delete())
        await w.editor.DeleteDeployment(delete())
        assert (await w.get()).state == Deployment.STATE_DELETING
        with pytest.raises(AlreadyExists):
            await w.editor.CreateDeployment(create())
        with pytest.raises(FailedPrecondition):
            await w.editor.UpdateDeployment(update("spec.replicas", replicas=2))
        assert not (await w.routes()).deployments
        await _rounds()
        assert not w.scheduler.cancelled, "the gateway may still have it"
        await w.confirm()
        await until(lambda: _gone(w))
        assert w.scheduler.cancelled == [f"{PARENT}/jobs/web-r1-0"]

        again = await w.editor.CreateDeployment(create())
        assert again.latest_revision == f"{WEB}/revisions/2"
        await w.job("web-r2-0")
        assert [each.state for each in await w.history()] == [Revision.STATE_STARTING, Revision.STATE_RETIRED]


async def test_a_watch_tells_each_change_of_a_deployment(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        listed = await w.editor.ListDeployments(inference_service_pb2.ListDeploymentsRequest(parent=PARENT))
        await live(w)
        await w.editor.DeleteDeployment(delete())
        told: list[str] = []
        request = inference_service_pb2.WatchDeploymentsRequest(parent=PARENT, start_revision=listed.revision)
        async for response in w.editor.WatchDeployments(request):
            told += [event.type for event in response.events]
            assert all(event.deployment.name == WEB for event in response.events)
            if "ready" in told:
                break
        assert told[0] == "created"
        assert told.index("ready") < len(told)


async def test_routes_are_sent_at_each_change_and_only_what_was_sent_can_be_confirmed(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        watch = aiter(w.gateway.WatchRoutes(inference_service_pb2.WatchRoutesRequest()))
        first = await anext(watch)
        assert not first.deployments
        await w.editor.CreateDeployment(create())
        second = await anext(watch)
        assert second.revision > first.revision
        await w.job("web-r1-0")
        await w.report("web-r1-0")
        third = await anext(watch)
        assert third.deployments[0].revisions[0].weight == 100
        w.clock.ahead += 10
        assert await anext(watch) == third, "the heartbeat"
        with pytest.raises(OutOfRange):
            await w.gateway.ConfirmRoutes(
                inference_service_pb2.ConfirmRoutesRequest(revision=third.revision + 1)
            )


async def _rounds() -> None:
    """Long enough for the reconciler to have looked at least once more."""
    await asyncio.sleep(1.3)


async def _one_revision_routed(w: World) -> bool:
    return len((await w.routes()).deployments[0].revisions) == 1


async def _retired(w: World, number: int) -> bool:
    return any(
        each.name.endswith(f"/{number}") and each.state == Revision.STATE_RETIRED and not each.replicas
        for each in await w.history()
    )


async def _gone(w: World) -> bool:
    try:
        await w.get()
    except NotFound:
        return True
    return False

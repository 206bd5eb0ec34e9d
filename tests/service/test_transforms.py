"""Transforms: what the service accepts, what it tells the scheduler, and what becomes of a job's result."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.data.v1 import data_service_pb2, dataset_pb2, transform_pb2, transform_service_pb2_grpc
from aios.data.v1 import transform_service_pb2 as pb
from aios.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    StaleEpoch,
)
from aios.runtime.channel import connect
from aios.runtime.server import Server, Service
from aios.runtime.tokens import Verifier
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from services.data.cluster import Cluster
from services.data.keys import ProjectKeys
from services.data.transform_servicer import TransformServicer
from tests.servers import S3Server, s3_server
from tests.service.data_service import Platform, running, settings_at, token_of

STATE = transform_pb2.Transform
RAY_BYTES = 1000


class Scheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Takes jobs, and has them be in whatever state a test says."""

    def __init__(self) -> None:
        self.jobs: dict[str, job_pb2.Job] = {}

    async def CreateJob(self, request: scheduler_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        name = f"{request.parent}/jobs/{request.job_id}"
        job = job_pb2.Job(name=name, spec=request.job.spec, state=job_pb2.Job.STATE_QUEUED)
        self.jobs[name] = job
        return job

    async def GetJob(self, request: scheduler_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        if request.name not in self.jobs:
            raise NotFound(f"{request.name} does not exist.")
        return self.jobs[request.name]

    async def ListJobs(
        self, request: scheduler_service_pb2.ListJobsRequest, context: Any
    ) -> scheduler_service_pb2.ListJobsResponse:
        return scheduler_service_pb2.ListJobsResponse(jobs=reversed(self.jobs.values()))


class Preparing:
    """The service, its neighbour and its callers."""

    def __init__(self, platform: Platform, scheduler: Scheduler, address: str) -> None:
        self.alice, self.scheduler = platform.caller(), scheduler
        self._address = address
        self._channels: list[Any] = []
        self.api = self.as_(token_of("editor"))

    def as_(self, bearer: str) -> transform_service_pb2_grpc.TransformServiceStub:
        self._channels.append(connect(self._address, lambda: bearer))
        return transform_service_pb2_grpc.TransformServiceStub(self._channels[-1])

    def worker(self, name: str, epoch: int = 1) -> transform_service_pb2_grpc.TransformServiceStub:
        job = name.replace("/transforms/", "/jobs/")
        self.scheduler.jobs[job].epoch = max(self.scheduler.jobs[job].epoch, epoch)
        self.scheduler.jobs[job].state = job_pb2.Job.STATE_RUNNING
        return self.as_(token_of("worker", job=job, epoch=epoch))

    async def table(self) -> str:
        """A version to work on."""
        dataset = await self.alice.dataset("people")
        version = await self.alice.commit(dataset, [await self.alice.store("people.csv", b"a,b\n1,2\n")])
        return str(version.name)

    async def submit(self, kind: str = "clean", **more: Any) -> transform_pb2.Transform:
        spec = transform_pb2.TransformSpec(type=kind, input="datasets/people", output="tidy")
        spec.parameters.update(more.pop("parameters", {}))
        for key, version in more.pop("inputs", {}).items():
            spec.inputs[key] = version
        request = pb.CreateTransformRequest(
            parent="projects/demo", transform=transform_pb2.Transform(spec=spec), **more
        )
        return await self.api.CreateTransform(request)

    async def complete(
        self, name: str, content: bytes = b"tidy", epoch: int = 1, path: str = "data.parquet"
    ) -> dataset_pb2.DatasetVersion:
        files = [await self.alice.store(path, content)]
        version = dataset_pb2.DatasetVersion(files=files, origin=dataset_pb2.Origin(privacy=["pii:email"]))
        request = pb.CompleteTransformRequest(name=name, epoch=epoch, dataset_version=version)
        return await self.worker(name, epoch).CompleteTransform(request)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def service(s3: S3Server, tmp_path: Path) -> AsyncIterator[Preparing]:
    settings = s3.settings(settings_at(tmp_path), bucket=f"t{os.urandom(6).hex()}")
    scheduler = Scheduler()
    (tmp_path / "pseudonyms.key").write_text("s" * 40)
    async with running(settings) as platform:
        verifier = Verifier(settings.home / "jwks.json")
        add = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        beside = Server("127.0.0.1:0", [Service(add, scheduler)], verifier)
        await beside.start()
        to_scheduler = connect(f"127.0.0.1:{beside.port}", lambda: token_of("service"))
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(to_scheduler)
        keys = ProjectKeys(tmp_path / "pseudonyms.key")
        (tmp_path / "ray.token").write_text("of-the-cluster\n")
        cluster = Cluster("ray://cluster:10001", RAY_BYTES, tmp_path / "ray.token")
        servicer = TransformServicer(platform.parts, stub, keys, cluster)
        add_mine = transform_service_pb2_grpc.add_TransformServiceServicer_to_server
        server = Server("127.0.0.1:0", [Service(add_mine, servicer)], verifier)
        await server.start()
        made = Preparing(platform, scheduler, f"127.0.0.1:{server.port}")
        try:
            yield made
        finally:
            await made.close()
            await to_scheduler.close()
            await server.stop(0)
            await beside.stop(0)


async def test_a_transform_becomes_a_job_that_reads_the_version_of_that_moment(service: Preparing) -> None:
    version = await service.table()

    made = await service.submit(parameters={"missing": "median"})

    assert made.spec.input == version
    assert made.spec.parameters["outliers"] == "keep"  # every default is filled in
    [job] = service.scheduler.jobs.values()
    assert job.spec.command == ["python", "-m", "services.data.job"]
    assert job.spec.owner == made.name
    assert made.state == STATE.STATE_QUEUED


async def test_what_no_transform_takes_is_refused_with_what_to_change(service: Preparing) -> None:
    await service.table()
    with pytest.raises(InvalidArgument, match="did you mean 'clean'"):
        await service.submit("claen")
    with pytest.raises(InvalidArgument, match="did you mean 'outliers'"):
        await service.submit(parameters={"outlers": "clip"})
    with pytest.raises(InvalidArgument, match="must be one of keep, quarantine, clip"):
        await service.submit(parameters={"outliers": "drop"})
    assert not service.scheduler.jobs


async def test_a_repeated_request_makes_one_transform_and_a_taken_name_is_told(service: Preparing) -> None:
    await service.table()
    request_id = "2f0bb5e2-4a0f-4a07-9a52-3a2a4f1f6a00"

    first = await service.submit(request_id=request_id)
    again = await service.submit(request_id=request_id)

    assert first.name == again.name
    assert len(service.scheduler.jobs) == 1
    with pytest.raises(AlreadyExists):
        await service.submit(transform_id=first.name.rpartition("/")[2])


async def test_a_report_can_be_asked_for_once_the_transform_has_ended(service: Preparing) -> None:
    await service.table()
    made = await service.submit("drift", inputs={"baseline": "datasets/people"})
    asked = pb.GetTransformReportRequest(name=made.name)
    with pytest.raises(FailedPrecondition, match="not yet"):
        await service.api.GetTransformReport(asked)
    await service.complete(made.name, b'{"drifted": ["age"]}', path="report.json")
    assert dict((await service.api.GetTransformReport(asked)).report) == {"drifted": ["age"]}
    with pytest.raises(InvalidArgument, match="model"):
        await service.submit(
            "drift", inputs={"baseline": "datasets/people"}, parameters={"model": "buyers/3"}
        )


async def test_a_result_says_what_made_it_and_the_same_result_is_the_same_version(service: Preparing) -> None:
    source = await service.table()
    first, second = await service.submit(), await service.submit()

    made = await service.complete(first.name)
    again = await service.complete(second.name)

    assert made.name == again.name
    stored = await service.alice.api.GetDatasetVersion(
        data_service_pb2.GetDatasetVersionRequest(name=made.name)
    )
    assert stored.origin.transform == "clean/1"
    assert list(stored.origin.inputs) == [source]
    assert list(stored.origin.privacy) == ["pii:email"]
    shown = await service.api.GetTransform(pb.GetTransformRequest(name=second.name))
    assert shown.output_version == made.name
    lineage = await service.alice.api.GetLineage(
        data_service_pb2.GetLineageRequest(parent="projects/demo", resource=made.name)
    )
    edges = {(edge.source, edge.target) for edge in lineage.edges}
    assert (source, made.name) in edges
    assert (first.name.replace("transforms", "jobs"), made.name) in edges


async def test_only_the_newest_attempt_of_its_own_job_hands_over(service: Preparing) -> None:
    await service.table()
    mine, other = await service.submit(), await service.submit()
    await service.complete(mine.name, epoch=2)

    with pytest.raises(StaleEpoch):
        await service.complete(mine.name, b"late", epoch=1)
    stolen = pb.CompleteTransformRequest(name=other.name, epoch=2)
    with pytest.raises(NotFound):
        await service.worker(mine.name, 2).CompleteTransform(stolen)
    with pytest.raises(PermissionDenied):
        await service.api.CompleteTransform(pb.CompleteTransformRequest(name=mine.name, epoch=2))


async def test_a_job_that_ends_well_without_a_result_is_a_failed_transform(service: Preparing) -> None:
    await service.table()
    made = await service.submit()
    [job] = service.scheduler.jobs.values()
    job.state = job_pb2.Job.STATE_SUCCEEDED

    listed = await service.api.ListTransforms(pb.ListTransformsRequest(parent="projects/demo"))

    [shown] = listed.transforms
    assert shown.name == made.name
    assert shown.state == STATE.STATE_FAILED
    assert "nothing" in shown.state_message


async def test_a_large_version_is_prepared_on_the_cluster_that_is_attached_and_its_job_alone_has_the_token(
    service: Preparing,
) -> None:
    await service.table()
    small = await service.submit("pii")
    dataset = "projects/demo/datasets/people"
    await service.alice.commit(
        dataset, [await service.alice.store("people.csv", b"a,b\n" + b"1,2\n" * RAY_BYTES)]
    )
    large, whole = await service.submit("pii"), await service.submit("split")

    specs = {each.name: service.scheduler.jobs[each.job].spec for each in (small, large, whole)}
    told = await service.worker(large.name).GetTransformKey(
        pb.GetTransformKeyRequest(name=large.name, epoch=1)
    )

    assert [spec.environment.get("AIOS_RAY_ADDRESS") for spec in specs.values()] == [
        None,
        "ray://cluster:10001",
        None,
    ]
    assert [spec.node_network for spec in specs.values()] == [False, True, False]
    assert (told.ray_token, told.key) == ("of-the-cluster", b"")
    assert not any("of-the-cluster" in str(spec) for spec in specs.values())
    with pytest.raises(FailedPrecondition):
        await service.worker(small.name).GetTransformKey(pb.GetTransformKeyRequest(name=small.name, epoch=1))

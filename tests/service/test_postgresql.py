"""Every service on PostgreSQL: its main path, and what its callers see while the database is away."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aios.data.v1 import data_service_pb2
from aios.errors import NotFound, Unavailable
from aios.identity.v1 import identity_pb2, identity_service_pb2
from aios.scheduler.v1 import job_pb2
from aios.trainer.v1 import run_pb2, trainer_service_pb2
from tests.e2e import stack
from tests.postgres import PostgresServer
from tests.servers import s3_server
from tests.service import data_service, test_identity, test_inference, test_trainer
from tests.service.neighbours import until
from tests.service.pool import running_pool

Serving = health_pb2.HealthCheckResponse


@pytest.fixture
def url(database_url: Callable[[str], str]) -> str:
    """Of a new database."""
    return database_url("postgresql")


async def test_jobs_go_on_while_the_database_is_away_and_nothing_accepted_is_lost(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with running_pool(tmp_path, database_url=postgres_server.database()) as pool:
        assert (await pool.until_final(await pool.python("print(1)"))).state == job_pb2.Job.STATE_SUCCEEDED
        code = (
            "import os, time\nprint('ready', flush=True)\nwhile not os.path.exists('end'): time.sleep(0.05)"
        )
        under_way = await pool.python(code)
        await pool.until_logged(under_way, b"ready")

        async with grpc.aio.insecure_channel(pool.settings.scheduler_address) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            async def says(status: int) -> bool:
                answer = await health.Check(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
                return bool(answer.status == status)

            await until(lambda: says(Serving.SERVING))
            postgres_server.kill()
            try:
                with pytest.raises(Unavailable) as refused:
                    await pool.python("print(2)")
                assert refused.value.reason == "RECORDS_UNAVAILABLE"
                await until(lambda: says(Serving.NOT_SERVING))
                (
                    pool.attempt_directory(under_way) / "scratch" / "end"
                ).touch()  # it ends while nobody can write that down
                await asyncio.sleep(1)
            finally:
                postgres_server.start()
            await until(lambda: says(Serving.SERVING))

        job = await pool.until_final(under_way)
        assert (job.state, job.epoch) == (job_pb2.Job.STATE_SUCCEEDED, 1)
        after = await pool.until_final(await pool.python("print(3)"))
        assert after.state == job_pb2.Job.STATE_SUCCEEDED


async def test_a_run_follows_its_job_to_the_end(tmp_path: Path, url: str) -> None:
    async with test_trainer.world(tmp_path, url) as world:
        await test_trainer.submitted(world)
        worker, name = world.worker(), test_trainer.RUN
        await worker.BeginAttempt(trainer_service_pb2.BeginAttemptRequest(name=name, epoch=1))
        points = [test_trainer.point("loss", 1 / (step + 1), step) for step in range(20)]
        await worker.ReportMetrics(test_trainer.report(1, *points))
        await worker.CompleteRun(
            trainer_service_pb2.CompleteRunRequest(name=name, epoch=1, model=run_pb2.ModelOutput())
        )
        ended = world.scheduler.says(job_pb2.Job.STATE_SUCCEEDED, exit_code=0)
        await world.announce(ended, "succeeded", 6)
        run = await test_trainer.reaches(world, run_pb2.Run.STATE_SUCCEEDED)
        metrics = await world.editor.ListMetrics(trainer_service_pb2.ListMetricsRequest(parent=name))
    assert run.model_version == "projects/demo/models/m/versions/1"
    assert len(metrics.points) == 20


async def test_a_dataset_version_is_made_and_found(tmp_path: Path, url: str) -> None:
    with s3_server(tmp_path / "s3") as s3:
        settings = s3.settings(data_service.settings_at(tmp_path / "home"))
        async with data_service.running(replace(settings, database_url=url)) as data:
            alice = data.caller()
            name = await alice.dataset("digits")
            made = await alice.commit(name, await alice.store_all({"a": b"1", "b": b"2"}))
            asked = data_service_pb2.GetDatasetVersionRequest(name=f"{name}/versions/latest")
            found = await alice.api.GetDatasetVersion(asked)
            with pytest.raises(NotFound):
                await data.caller(project="other").api.GetDatasetVersion(asked)
    assert (found.name, found.manifest_sha256) == (made.name, made.manifest_sha256)


async def test_a_deployment_becomes_ready(tmp_path: Path, url: str) -> None:
    async with test_inference.world(tmp_path, url) as world:
        await test_inference.live(world)
        assert len((await world.routes()).deployments) == 1


async def test_a_token_is_issued_and_revoked(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        identity = await test_identity.start(tmp_path, stack, url)
        await test_identity.member(identity, "default", "alice", identity_pb2.ROLE_EDITOR)
        issued = await test_identity.issue(identity, "default", "alice")
        name = identity_service_pb2.RevokeTokenRequest(name=issued.token.name)
        assert (await identity.operator().RevokeToken(name)).revoke_time.seconds
        listed = await identity.operator().ListTokens(
            identity_service_pb2.ListTokensRequest(parent="projects/default")
        )
    assert [token.name for token in listed.tokens] == [issued.token.name]


@pytest.mark.timeout(180)
def test_a_stack_told_of_a_database_keeps_everything_there(tmp_path: Path, url: str) -> None:
    with stack.stack(tmp_path, {"AIOS_DATABASE_URL": url}) as aios, aios.http() as http:
        command = ["python", "-c", "print('done')"]
        body = {"spec": {"command": command, "resources": {"cpuMillis": 100}}}
        made = http.post("/v1/projects/default/jobs?jobId=one", json=body)
        assert made.status_code == 200, made.text

        def ended() -> bool:
            job: dict[str, str] = http.get("/v1/projects/default/jobs/one").json()
            return job["state"] == "STATE_SUCCEEDED"

        stack.eventually(ended, "the job succeeds")
        assert not list((tmp_path / "records").glob("*.db"))

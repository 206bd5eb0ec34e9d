"""The interceptor chain and the channel, over a real gRPC connection."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from aios.errors import (
    FailedPrecondition,
    Internal,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from aios.runtime import tokens
from aios.runtime.channel import connect
from aios.runtime.context import principal
from aios.runtime.server import Server, Service
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc

KEY = tokens.new_key()
JOB = "projects/demo/jobs/j"


class Jobs(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Answers by job id, so that each test asks for the behaviour it needs."""

    def __init__(self) -> None:
        self.calls = 0

    async def GetJob(self, request: scheduler_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        self.calls += 1
        match request.name.rpartition("/")[2]:
            case "broken":
                raise RuntimeError("the password is hunter2")
            case "slow":
                await asyncio.sleep(60)
            case "flaky" if self.calls < 3:
                raise Unavailable("come back")
        return job_pb2.Job(name=request.name, state_message=principal().subject)

    async def CreateJob(self, request: scheduler_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        self.calls += 1
        return job_pb2.Job()

    async def CancelJob(self, request: scheduler_service_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        raise FailedPrecondition("not now", reason="NOT_NOW", fields={"name": "wait"}, job=request.name)

    async def WatchJobs(
        self, request: scheduler_service_pb2.WatchJobsRequest, context: Any
    ) -> AsyncIterator[scheduler_service_pb2.WatchJobsResponse]:
        yield scheduler_service_pb2.WatchJobsResponse(revision=7)
        if request.start_revision or request.parent == "projects/endless":
            await asyncio.sleep(60)
        raise NotFound("gone", reason="GONE")


def token(role: str = "editor", project: str = "demo", **more: Any) -> str:
    claims = {"sub": "alice", "jti": "t1", "project": project, "role": role, **more}
    return tokens.mint(KEY, claims, ttl_seconds=60)


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Server, Jobs, tokens.Verifier]]:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(tokens.jwks(KEY.public_key())))
    jobs, verifier = Jobs(), tokens.Verifier(keys)
    add = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
    server = Server("127.0.0.1:0", [Service(add, jobs)], verifier)
    await server.start()
    try:
        yield server, jobs, verifier
    finally:
        await server.stop(0)


def stub(server: Server, bearer: str | None) -> scheduler_service_pb2_grpc.SchedulerServiceStub:
    channel = connect(f"127.0.0.1:{server.port}", (lambda: bearer) if bearer else None)
    return scheduler_service_pb2_grpc.SchedulerServiceStub(channel)


def get(name: str = JOB) -> scheduler_service_pb2.GetJobRequest:
    return scheduler_service_pb2.GetJobRequest(name=name)


async def test_a_call_with_a_good_token_knows_its_caller(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        job = await stub(server, token()).GetJob(get())
    assert job.state_message == "alice"


@pytest.mark.parametrize(
    ("bearer", "reason"),
    [
        (None, "TOKEN_MISSING"),
        ("not-a-token", "TOKEN_INVALID"),
        (
            tokens.mint(
                tokens.new_key(), {"sub": "x", "jti": "x", "project": "demo", "role": "admin"}, ttl_seconds=60
            ),
            "TOKEN_INVALID",
        ),
        (
            tokens.mint(KEY, {"sub": "x", "jti": "x", "project": "demo", "role": "admin"}, ttl_seconds=-60),
            "TOKEN_EXPIRED",
        ),
    ],
    ids=["none", "garbage", "another key", "expired"],
)
async def test_a_call_without_a_valid_token_is_refused(
    tmp_path: Path, bearer: str | None, reason: str
) -> None:
    async with serving(tmp_path) as (server, jobs, _):
        with pytest.raises(Unauthenticated) as refused:
            await stub(server, bearer).GetJob(get())
    assert refused.value.reason == reason
    assert jobs.calls == 0


async def test_a_revoked_token_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, verifier):
        calls = stub(server, token())
        await calls.GetJob(get())
        verifier.revoked = frozenset({"t1"})
        with pytest.raises(Unauthenticated, match="revoked"):
            await calls.GetJob(get())


async def test_a_role_without_the_permission_is_refused_and_told_which(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        with pytest.raises(PermissionDenied) as refused:
            await stub(server, token("viewer")).CancelJob(scheduler_service_pb2.CancelJobRequest(name=JOB))
    assert refused.value.metadata == {"role": "viewer", "permission": "jobs.cancel"}


async def test_another_projects_job_does_not_exist_except_for_an_operator(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, jobs, _):
        with pytest.raises(NotFound):
            await stub(server, token(project="other")).GetJob(get())
        assert jobs.calls == 0
        await stub(server, token(project="other", platform=True)).GetJob(get())


async def test_an_error_arrives_as_the_class_reason_fields_and_metadata_it_left_with(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        with pytest.raises(FailedPrecondition, match="not now") as failed:
            await stub(server, token()).CancelJob(scheduler_service_pb2.CancelJobRequest(name=JOB))
    assert (failed.value.reason, failed.value.fields, failed.value.metadata) == (
        "NOT_NOW",
        {"name": "wait"},
        {"job": JOB},
    )


async def test_an_unexpected_exception_leaves_without_its_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        with pytest.raises(Internal) as failed:
            await stub(server, token()).GetJob(get("projects/demo/jobs/broken"))
    assert "hunter2" not in str(failed.value)


async def test_an_error_after_the_first_message_of_a_stream_is_not_lost(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        watch: Any = stub(server, token()).WatchJobs(
            scheduler_service_pb2.WatchJobsRequest(parent="projects/demo")
        )
        seen = [await anext(watch)]
        with pytest.raises(NotFound, match="gone"):
            await anext(watch)
    assert [response.revision for response in seen] == [7]


async def test_a_stopping_server_ends_its_streams_at_once_and_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        watch: Any = stub(server, token()).WatchJobs(
            scheduler_service_pb2.WatchJobsRequest(parent="projects/endless")
        )
        operator: Any = stub(server, token(platform=True)).WatchJobs(
            scheduler_service_pb2.WatchJobsRequest(parent="projects/endless")
        )
        with pytest.raises(NotFound):
            await anext(watch)
        await anext(operator)
        async with asyncio.timeout(2):
            await server.stop(10)
        with pytest.raises(Unavailable, match="restarting"):
            await anext(operator)


async def test_a_stream_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        request = scheduler_service_pb2.WatchJobsRequest(parent="projects/demo", start_revision=1)
        watch: Any = stub(server, token()).WatchJobs(request)
        await anext(watch)
        server.revoke(frozenset({"t1"}))
        with pytest.raises(Unauthenticated, match="revoked"):
            await anext(watch)


async def test_a_stream_that_is_ended_while_it_sends_says_why(tmp_path: Path) -> None:
    """Again and again, each time at another moment of the first message's way."""
    async with serving(tmp_path) as (server, _, _):
        for turns in range(40):
            request = scheduler_service_pb2.WatchJobsRequest(parent="projects/demo", start_revision=1)
            watch: Any = stub(server, token(jti=f"s{turns}")).WatchJobs(request)
            read = asyncio.ensure_future(read_all(watch))
            while not server._chain.streams:  # noqa: ASYNC110  # each turn of the loop is a moment
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            server.revoke(frozenset({f"s{turns}"}))
            with pytest.raises(Unauthenticated, match="revoked"):
                await asyncio.wait_for(read, 5)


async def read_all(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_bytes_that_are_no_message_are_the_callers_mistake(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (server, _, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as raw,
    ):
        call: Any = raw.unary_unary("/aios.scheduler.v1.SchedulerService/GetJob")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"\xff\xff\xff", metadata=(("authorization", f"Bearer {token()}"),))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_read_is_retried_while_the_service_is_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, jobs, _):
        await stub(server, token()).GetJob(get("projects/demo/jobs/flaky"))
    assert jobs.calls == 3


async def test_a_restart_of_the_service_is_not_noticed_by_a_reader(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, jobs, verifier):
        port = server.port
        reader = stub(server, token())
        await server.stop(0)
        call = asyncio.ensure_future(reader.GetJob(get()))
        await asyncio.sleep(1)
        add = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        again = Server(f"127.0.0.1:{port}", [Service(add, jobs)], verifier)
        await again.start()
        assert (await call).name == JOB
        await again.stop(0)


async def test_a_second_server_on_the_same_port_does_not_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, verifier):
        with pytest.raises(RuntimeError):
            await Server(f"127.0.0.1:{server.port}", [], verifier).start()


async def test_a_method_without_a_permission_keeps_the_server_from_starting(tmp_path: Path) -> None:
    add = health_pb2_grpc.add_HealthServicer_to_server
    verifier = tokens.Verifier(tmp_path / "jwks.json")
    with pytest.raises(ValueError, match="permission"):
        Server(
            "127.0.0.1:0",
            [Service(add, health.HealthServicer())],
            verifier,
            foreign={"grpc.health.v1.Health": "no.such"},
        )


async def test_what_the_token_may_not_say_is_no_role(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, _):
        with pytest.raises(PermissionDenied):
            await stub(server, token("root")).GetJob(get())


async def test_a_call_that_comes_while_its_server_stops_is_done_once_by_the_next_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, jobs, verifier):
        port, stop = server.port, asyncio.Event()
        add = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        caller, calls = stub(server, token()), 0

        async def keep_calling() -> None:
            nonlocal calls
            while not stop.is_set():
                # No request_id: it may not be done twice.
                await caller.CreateJob(scheduler_service_pb2.CreateJobRequest(parent="projects/demo"))
                calls += 1

        calling = [asyncio.create_task(keep_calling()) for _ in range(8)]
        for _ in range(5):
            await asyncio.sleep(0.1)
            await server.stop(1)
            server = Server(f"127.0.0.1:{port}", [Service(add, jobs)], verifier)
            await server.start()
        stop.set()
        await asyncio.gather(*calling)
        await server.stop(0)
    assert jobs.calls == calls


async def test_a_call_that_a_stopping_server_cuts_off_says_that_its_effect_is_unknown(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (server, _, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as raw,
    ):
        send: Any = raw.unary_unary(
            "/aios.scheduler.v1.SchedulerService/GetJob",
            scheduler_service_pb2.GetJobRequest.SerializeToString,
        )
        call = send(get("projects/demo/jobs/slow"), metadata=(("authorization", f"Bearer {token()}"),))
        await asyncio.sleep(0.3)
        began = asyncio.get_running_loop().time()
        await server.stop(0.1)
        assert asyncio.get_running_loop().time() - began < 2
        with pytest.raises(grpc.aio.AioRpcError, match="unknown"):
            await call

"""The JSON API over real gRPC: every shape of rule, errors, streams, deadlines, and clients that leave."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.errors import FailedPrecondition, ResourceExhausted
from aios.identity.v1 import identity_pb2, identity_service_pb2, identity_service_pb2_grpc
from aios.runtime import tokens
from aios.runtime.channel import connect
from aios.runtime.context import principal
from aios.runtime.server import Server, Service
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from gateway.http import app as http_app
from tests.servers import free_port

KEY = tokens.new_key()
JOBS = "/v1/projects/demo/jobs"


class Jobs(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Answers by job id, so that each test asks for the behaviour it needs."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def GetJob(self, request: Any, context: Any) -> job_pb2.Job:
        match request.name.rpartition("/")[2]:
            case "slow":
                try:
                    await asyncio.sleep(30)
                finally:
                    self.cancelled.set()
            case "broken":
                raise RuntimeError("the password is hunter2")
        return job_pb2.Job(
            name=request.name, epoch=2**53 + 1, state=job_pb2.Job.STATE_RUNNING, etag=principal().subject
        )

    async def CreateJob(self, request: Any, context: Any) -> job_pb2.Job:
        return job_pb2.Job(name=f"{request.parent}/jobs/{request.job_id}", spec=request.job.spec)

    async def CancelJob(self, request: Any, context: Any) -> job_pb2.Job:
        if request.name.endswith("busy"):
            raise ResourceExhausted("come back", retry_after=timedelta(seconds=1.2))
        raise FailedPrecondition("not now", reason="NOT_NOW", fields={"name": "wait"}, job=request.name)

    async def WatchJobs(
        self, request: Any, context: Any
    ) -> AsyncIterator[scheduler_service_pb2.WatchJobsResponse]:
        yield scheduler_service_pb2.WatchJobsResponse(revision=request.start_revision)
        yield scheduler_service_pb2.WatchJobsResponse(revision=request.start_revision + 1)
        raise FailedPrecondition("the log is gone", reason="LOG_GONE")

    async def ReadJobLogs(
        self, request: Any, context: Any
    ) -> AsyncIterator[scheduler_service_pb2.ReadJobLogsResponse]:
        if request.name.endswith("never"):
            raise FailedPrecondition("it never ran", reason="NEVER_RAN")
        yield scheduler_service_pb2.ReadJobLogsResponse(data=b"hello \xff\n")
        try:
            if request.follow:
                await asyncio.sleep(30)
        finally:
            self.cancelled.set()


class Downloads(data_service_pb2_grpc.DataServiceServicer):
    async def ListDownloads(self, request: Any, context: Any) -> data_service_pb2.ListDownloadsResponse:
        return data_service_pb2.ListDownloadsResponse(next_page_token=request.parent)


class Members(identity_service_pb2_grpc.IdentityServiceServicer):
    async def GetCaller(self, request: Any, context: Any) -> identity_service_pb2.Caller:
        return identity_service_pb2.Caller(subject=principal().subject)

    async def SetMember(self, request: Any, context: Any) -> identity_pb2.Member:
        member: identity_pb2.Member = request.member
        return member


class Api:
    """A client of the HTTP door, and the servicer behind it."""

    def __init__(self, client: httpx.AsyncClient, jobs: Jobs) -> None:
        self.client = client
        self.jobs = jobs

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, **more)

    async def problem(self, status: int, method: str, path: str, **more: Any) -> dict[str, Any]:
        response = await self.call(method, path, **more)
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert (response.status_code, body["status"]) == (status, status)
        assert body["instance"] == f"urn:aios:trace:{response.headers['x-aios-trace-id']}"
        return body


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(tokens.jwks(KEY.public_key())))
    jobs = Jobs()
    server = Server(
        "127.0.0.1:0",
        [
            Service(scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, jobs),
            Service(data_service_pb2_grpc.add_DataServiceServicer_to_server, Downloads()),
            Service(identity_service_pb2_grpc.add_IdentityServiceServicer_to_server, Members()),
        ],
        tokens.Verifier(keys),
    )
    await server.start()
    domains = ("scheduler", "data", "trainer", "inference", "identity", "telemetry")
    channels = {domain: connect(f"127.0.0.1:{server.port}", None) for domain in domains}
    address = f"127.0.0.1:{free_port()}"
    serving = asyncio.create_task(http_app.serve(http_app.build(channels), address))
    bearer = tokens.mint(
        KEY, {"sub": "alice", "jti": "t", "project": "demo", "role": "admin"}, ttl_seconds=60
    )
    headers = {"authorization": f"Bearer {bearer}"}
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, trust_env=False) as client:
        for _ in range(100):
            try:
                await client.get("/healthz")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
        yield Api(client, jobs)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    for channel in channels.values():
        await channel.close()
    await server.stop(0)


async def test_a_get_reads_the_name_from_the_path(api: Api) -> None:
    response = await api.call("GET", f"{JOBS}/j")
    assert response.headers["content-type"] == "application/json"
    # A 64-bit integer is a string: a JSON number would lose its last digit in many languages.
    expected = {
        "name": "projects/demo/jobs/j",
        "state": "STATE_RUNNING",
        "epoch": "9007199254740993",
        "etag": "alice",
    }
    assert response.json() == expected


async def test_a_body_field_and_the_query_make_one_request(api: Api) -> None:
    body = {"spec": {"command": ["true"], "maxRestarts": 2, "stop_grace": "3s"}}
    response = await api.call("POST", JOBS, params={"jobId": "j"}, json=body)
    expected = {"command": ["true"], "maxRestarts": 2, "stopGrace": "3s"}
    assert response.json() == {"name": "projects/demo/jobs/j", "spec": expected}


async def test_a_nested_field_is_named_by_the_path(api: Api) -> None:
    response = await api.call("PUT", "/v1/projects/demo/members/bob", json={"role": "ROLE_VIEWER"})
    assert response.json() == {"name": "projects/demo/members/bob", "role": "ROLE_VIEWER"}


@pytest.mark.parametrize("parent", ["datasets/d/versions/1", "models/m/versions/1", "runs/r/checkpoints/1"])
async def test_additional_bindings_lead_to_the_same_method(api: Api, parent: str) -> None:
    response = await api.call("GET", f"/v1/projects/demo/{parent}/downloads")
    assert response.json() == {"nextPageToken": f"projects/demo/{parent}"}


async def test_a_service_error_keeps_its_reason_and_details(api: Api) -> None:
    assert await api.problem(400, "POST", f"{JOBS}/j:cancel") | {"instance": ""} == {
        "type": "urn:aios:error:not-now",
        "title": "Failed precondition",
        "status": 400,
        "detail": "not now",
        "instance": "",
        "code": "FAILED_PRECONDITION",
        "reason": "NOT_NOW",
        "domain": "aios",
        "metadata": {"job": "projects/demo/jobs/j"},
        "fields": {"name": "wait"},
    }


async def test_a_shed_call_says_when_to_come_back(api: Api) -> None:
    response = await api.call("POST", f"{JOBS}/busy:cancel")
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")


async def test_an_unexpected_error_leaves_without_its_text(api: Api) -> None:
    response = await api.call("GET", f"{JOBS}/broken")
    assert response.status_code == 500
    assert "hunter2" not in response.text


async def test_a_wrong_request_never_reaches_the_service(api: Api) -> None:
    problem = await api.problem(400, "POST", JOBS, json={"spec": {"comand": []}})
    assert problem["fields"] == {"job.spec.comand": "unknown field: did you mean command?"}
    problem = await api.problem(400, "GET", f"{JOBS}?pageSze=1")
    assert problem["fields"] == {"pageSze": "unknown parameter: did you mean pageSize?"}


async def test_unknown_paths_and_wrong_methods(api: Api) -> None:
    assert (await api.problem(404, "GET", "/v1/nothing"))["reason"] == "PATH_NOT_FOUND"
    assert (await api.problem(404, "GET", "/"))["reason"] == "PATH_NOT_FOUND"
    assert (await api.problem(405, "DELETE", f"{JOBS}/j"))["reason"] == "METHOD_NOT_ALLOWED"
    assert (await api.call("DELETE", f"{JOBS}/j")).headers["allow"] == "GET"


async def test_methods_that_take_a_stream_are_for_grpc(api: Api) -> None:
    assert (await api.problem(501, "POST", "/v1/agents:connect", json={}))["reason"] == "GRPC_ONLY"


async def test_who_calls_is_checked_by_the_service(api: Api) -> None:
    problem = await api.problem(401, "GET", f"{JOBS}/j", headers={"authorization": "Bearer x"})
    assert problem["reason"] == "TOKEN_INVALID"
    api.client.headers.pop("authorization")
    response = await api.call("GET", f"{JOBS}/j")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_bodies_are_bounded_and_json(api: Api) -> None:
    large = b'{"x": "' + b"a" * (4 * 1024 * 1024) + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 2**20):
            yield large[start : start + 2**20]

    json_type = {"content-type": "application/json"}
    assert (await api.problem(413, "POST", JOBS, content=large, headers=json_type))[
        "reason"
    ] == "BODY_TOO_LARGE"
    assert (await api.problem(413, "POST", JOBS, content=chunks(), headers=json_type))[
        "reason"
    ] == "BODY_TOO_LARGE"
    assert (await api.problem(415, "POST", JOBS, data={"a": "b"}))["reason"] == "NOT_JSON"
    assert (await api.problem(400, "POST", JOBS, content=b"{", headers=json_type))[
        "reason"
    ] == "MALFORMED_JSON"


async def test_the_deadline_is_the_clients(api: Api) -> None:
    problem = await api.problem(504, "GET", f"{JOBS}/slow", headers={"x-aios-timeout": "0.3"})
    assert problem["code"] == "DEADLINE_EXCEEDED"
    problem = await api.problem(400, "GET", f"{JOBS}/j", headers={"x-aios-timeout": "soon"})
    assert "x-aios-timeout" in problem["fields"]


async def test_the_trace_of_the_client_goes_on(api: Api) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    response = await api.call("GET", f"{JOBS}/j", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert response.headers["x-aios-trace-id"] == trace
    assert response.headers["traceparent"].split("-")[1] == trace


async def test_a_stream_is_lines_that_end_with_how_it_ended(api: Api) -> None:
    response = await api.call("GET", f"{JOBS}/j:logs")
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in response.text.splitlines()] == [
        {"data": "aGVsbG8g/wo="},
        {"end": True},
    ]


async def test_an_error_after_the_first_message_is_the_last_line(api: Api) -> None:
    response = await api.call("GET", f"{JOBS}:watch", params={"startRevision": 7})
    first, second, last = (json.loads(line) for line in response.text.splitlines())
    assert (response.status_code, first, second) == (200, {"revision": "7"}, {"revision": "8"})
    assert last["error"]["reason"] == "LOG_GONE"


async def test_an_error_before_the_first_message_has_its_http_status(api: Api) -> None:
    assert (await api.problem(400, "GET", f"{JOBS}/never:logs"))["reason"] == "NEVER_RAN"


async def test_a_browser_gets_server_sent_events(api: Api) -> None:
    response = await api.call("GET", f"{JOBS}/j:logs", headers={"accept": "text/event-stream"})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text == 'data: {"data":"aGVsbG8g/wo="}\n\nevent: end\ndata: {"end":true}\n\n'
    failed = await api.call("GET", f"{JOBS}:watch", headers={"accept": "text/event-stream"})
    assert failed.text.split("\n\n")[2].startswith("event: error\ndata: {")


async def test_a_client_that_leaves_a_stream_ends_the_call(api: Api) -> None:
    async with api.client.stream("GET", f"{JOBS}/j:logs", params={"follow": "true"}) as response:
        async for _ in response.aiter_lines():
            break
    await asyncio.wait_for(api.jobs.cancelled.wait(), 5)


async def test_a_client_that_leaves_a_unary_call_ends_it(api: Api) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await api.call("GET", f"{JOBS}/slow", timeout=0.5)
    await asyncio.wait_for(api.jobs.cancelled.wait(), 5)


async def test_the_gateway_says_which_services_are_well(api: Api) -> None:
    response = await api.call("GET", "/readyz")
    assert (response.status_code, set(response.json()["services"].values())) == (200, {"SERVING"})
    assert (await api.call("GET", "/v2/health/ready")).status_code == 200
    unknown = await api.call("GET", "/v2", headers={"authorization": ""})
    assert (unknown.status_code, unknown.json()["reason"]) == (401, "TOKEN_MISSING")
    assert (await api.call("POST", "/readyz")).headers["allow"] == "GET, HEAD"
    assert (await api.call("GET", "/v2")).json()["name"] == "aios"


def test_no_part_of_an_answer_waits_for_an_acknowledgement() -> None:
    with http_app.listen("127.0.0.1:0") as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

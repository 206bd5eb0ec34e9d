"""Jobs from submit to end, on a real scheduler and a real agent."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from statistics import median

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.trace.v1 import trace_pb2

from aios.common.v1 import resources_pb2
from aios.errors import AlreadyExists, InvalidArgument, NotFound
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from tests.service import neighbours
from tests.service.pool import PARENT, Pool, eventually, processes_of, running_pool

pytestmark = pytest.mark.asyncio(loop_scope="module")

Job = job_pb2.Job
WAIT = "import time; print('ready', flush=True); time.sleep(60)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with running_pool(tmp_path_factory.mktemp("pool")) as made:
        yield made


async def test_a_job_runs_and_its_output_can_be_read(pool: Pool) -> None:
    name = await pool.python("import sys; print('out'); print('err', file=sys.stderr); print('last')")
    job = await pool.until_final(name)
    assert (job.state, job.attempt.exit_code, job.epoch) == (Job.STATE_SUCCEEDED, 0, 1), job
    assert await pool.log(name) == b"out\nerr\nlast\n"
    assert await pool.log(name, offset=4) == b"err\nlast\n"
    assert await pool.log(name, offset=-5) == b"last\n"


@pytest.mark.parametrize(
    ("code", "exit_code"), [("raise SystemExit(7)", 7), ("import os; os.kill(0, 9)", 137)]
)
async def test_the_exit_code_is_exact(pool: Pool, code: str, exit_code: int) -> None:
    job = await pool.until_final(await pool.python(code))
    assert (job.state, job.attempt.exit_code, job.state_reason) == (Job.STATE_FAILED, exit_code, "EXIT_CODE")


async def test_a_command_line_makes_a_job_and_ends_with_its_exit_code(pool: Pool) -> None:
    def create(*words: str) -> "subprocess.CompletedProcess[str]":
        where = ["--address", f"http://{pool.settings.scheduler_address}", "-p", "demo"]
        command = [sys.executable, "-m", "aios.cli", "job", "create", *where, "--memory", "64MiB", *words]
        environment = {**os.environ, "AIOS_TOKEN": neighbours.token("editor")}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    script = ["--", "sh", "-c", "echo hello $WHO; exit 3"]
    options = ["--cpu", "0.1", "--env", "WHO=you", "--follow", "-o", "json"]
    done = await asyncio.to_thread(create, *options, *script)
    said, _, document = done.stdout.partition("\n")
    assert (done.returncode, said) == (3, "hello you"), done.stderr
    assert json.loads(document)["state"] == "STATE_FAILED"
    done = await asyncio.to_thread(create, "--cpu", "1000", "--dry-run", "--", "true")
    assert done.returncode == 1
    assert "cpu" in done.stderr.lower()


async def test_a_program_that_is_not_there_fails_with_the_reason(pool: Pool) -> None:
    name = await pool.submit("no-such-program")
    job = await pool.until_final(name)
    assert (job.state, job.state_reason, job.attempt.exit_code) == (Job.STATE_FAILED, "START_FAILED", 127)
    assert b"no-such-program" in await pool.log(name)


async def test_a_followed_log_arrives_as_it_is_written_and_ends_with_the_job(pool: Pool) -> None:
    name = await pool.python(
        "import time\nfor n in range(4): print(time.time(), flush=True); time.sleep(0.3)"
    )
    delays, request = [], scheduler_service_pb2.ReadJobLogsRequest(name=name, follow=True)
    async for piece in pool.stub.ReadJobLogs(request):
        delays += [time.time() - float(line) for line in piece.data.split()]
    assert len(delays) == 4
    assert median(delays) < 0.3, delays
    assert (await pool.get(name)).state == Job.STATE_SUCCEEDED


async def test_the_process_sees_its_attempt_and_no_secret_of_the_node(pool: Pool) -> None:
    code = "import json, os; print(json.dumps(dict(os.environ))); print(open(os.environ['AIOS_TOKEN_FILE']).read())"
    name = await pool.python(
        code, environment={"AIOS_JOB_MODEL": "cnn", "COLOUR": "blue"}, ports=["http", "grpc"]
    )
    job = await pool.until_final(name)
    seen, token = (await pool.log(name)).decode().splitlines()
    env = json.loads(seen)
    assert (env["AIOS_JOB"], env["AIOS_EPOCH"], env["AIOS_PROJECT"]) == (name, "1", "demo")
    assert (env["AIOS_JOB_MODEL"], env["COLOUR"], env["CUDA_VISIBLE_DEVICES"]) == ("cnn", "blue", "")
    assert {"AIOS_HOME", "AIOS_NATS_CREDENTIALS_FILE"}.isdisjoint(env)
    assert dict(job.attempt.ports) == {"http": int(env["AIOS_PORT_HTTP"]), "grpc": int(env["AIOS_PORT_GRPC"])}
    assert job.attempt.host == "127.0.0.1"
    assert (name, 1) in pool.identity.issued
    assert token.count(".") == 2
    await eventually(lambda: not pool.attempt_directory(name).exists())


async def test_cancel_sends_sigterm_and_lets_the_job_finish_its_work(pool: Pool) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.2); print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n" + WAIT
    )
    name = await pool.python(code)
    await pool.until_logged(name, b"ready")
    assert (await pool.cancel(name)).state == Job.STATE_STOPPING
    job = await pool.until_final(name)
    assert (job.state, job.attempt.exit_code) == (Job.STATE_CANCELLED, 0)
    assert await pool.log(name) == b"ready\nsaved\n"
    assert (await pool.cancel(name)).state == Job.STATE_CANCELLED


async def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(pool: Pool) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT
    name = await pool.python(code, stop_grace=Duration(nanos=500_000_000))
    await pool.until_logged(name, b"ready")
    began = time.monotonic()
    await pool.cancel(name)
    job = await pool.until_final(name)
    assert 0.4 < time.monotonic() - began < 2.5
    assert (job.state, job.attempt.exit_code) == (Job.STATE_CANCELLED, 137)


async def test_a_child_that_forked_twice_dies_with_its_job(pool: Pool) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "while not os.path.exists('end'): time.sleep(0.05)"
    )
    name = await pool.python(code)
    await pool.until_state(name, Job.STATE_RUNNING)
    directory = pool.attempt_directory(name)
    await eventually(
        lambda: sum("sleep(600)" in " ".join(each.cmdline()) for each in processes_of(directory)) == 2
    )
    (directory / "scratch" / "end").touch()
    assert (await pool.until_final(name)).state == Job.STATE_SUCCEEDED
    assert processes_of(directory) == []


async def test_a_failing_batch_job_is_started_again_as_often_as_it_may(pool: Pool) -> None:
    name = await pool.python("import os, sys; print(os.environ['AIOS_EPOCH']); sys.exit(1)", max_restarts=2)
    job = await pool.until_final(name)
    assert (job.state, job.epoch) == (Job.STATE_FAILED, 3)
    assert "all 2 restarts are used" in job.state_message
    assert [await pool.log(name, epoch=epoch) for epoch in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]


async def test_a_service_job_is_restarted_even_after_success(pool: Pool) -> None:
    name = await pool.python("pass", kind=job_pb2.JobSpec.KIND_SERVICE)
    await pool.until(name, lambda job: job.epoch >= 3)
    await pool.cancel(name)
    assert (await pool.until_final(name)).state == Job.STATE_CANCELLED


async def test_a_job_waits_for_resources_and_says_what_for(pool: Pool) -> None:
    holder = await pool.python(WAIT, cpu_millis=1500)
    await pool.until_state(holder, Job.STATE_RUNNING)
    waiting = await pool.python("print('at last')", cpu_millis=2000)
    job = await pool.until(waiting, lambda job: bool(job.state_reason))
    assert job.state == Job.STATE_QUEUED
    assert job.state_reason == "WAITS_FOR_CPU"
    assert job.state_message == "waits for 2000 cpu millicores: node a has 500 free of 2000"
    node = await pool.until_ready()
    assert (node.capacity.cpu_millis, node.allocated.cpu_millis) == (2000, 1500)
    await pool.cancel(holder)
    assert (await pool.until_final(waiting)).state == Job.STATE_SUCCEEDED


async def test_what_no_node_could_hold_is_refused_with_the_figures(pool: Pool) -> None:
    with pytest.raises(InvalidArgument, match=r"4000 cpu millicores, more than any node has: a .* 2000"):
        await pool.submit("true", cpu_millis=4000)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "job.spec.command"),
        ({"command": ["true"]}, "job.spec.resources.cpu_millis"),
        ({"command": ["true"], "environment": {"AIOS_EPOCH": "9"}}, "job.spec.environment['AIOS_EPOCH']"),
        ({"command": ["true"], "ports": ["Web"]}, "job.spec.ports[0]"),
        ({"command": ["true"], "max_restarts": -1}, "job.spec.max_restarts"),
        ({"command": ["true"], "kind": 9}, "job.spec.kind"),
    ],
)
async def test_a_wrong_spec_is_refused_field_by_field(
    pool: Pool, spec: dict[str, object], field: str
) -> None:
    job = job_pb2.Job(spec=job_pb2.JobSpec(**spec))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as raised:
        await pool.stub.CreateJob(scheduler_service_pb2.CreateJobRequest(parent=PARENT, job=job))
    assert field in raised.value.fields


async def test_a_repeated_request_makes_one_job(pool: Pool) -> None:
    spec = job_pb2.JobSpec(command=["true"], resources=resources_pb2.Resources(cpu_millis=10))
    request = scheduler_service_pb2.CreateJobRequest(
        parent=PARENT, job=job_pb2.Job(spec=spec), request_id=str(uuid.uuid4())
    )
    first, second = await pool.stub.CreateJob(request), await pool.stub.CreateJob(request)
    assert first == second
    request.job_id, request.request_id = first.name.rpartition("/")[2], ""
    with pytest.raises(AlreadyExists):
        await pool.stub.CreateJob(request)


async def test_a_watch_tells_every_change_in_order_after_a_list(pool: Pool) -> None:
    listed = await pool.stub.ListJobs(scheduler_service_pb2.ListJobsRequest(parent=PARENT, page_size=1))
    name = await pool.python("pass")
    types, request = [], scheduler_service_pb2.WatchJobsRequest(parent=PARENT, start_revision=listed.revision)
    async for response in pool.stub.WatchJobs(request):
        types += [event.type for event in response.events if event.job.name == name]
        if "succeeded" in types:
            break
    assert types == ["created", "starting", "running", "succeeded"]


async def test_pages_give_each_job_once_newest_first(pool: Pool) -> None:
    names = [await pool.python("pass") for _ in range(3)]
    seen: list[str] = []
    token = ""
    while len(seen) < 3:
        page = await pool.stub.ListJobs(
            scheduler_service_pb2.ListJobsRequest(parent=PARENT, page_size=1, page_token=token)
        )
        seen, token = seen + [job.name for job in page.jobs], page.next_page_token
    assert seen == names[::-1]


async def test_another_project_sees_nothing(pool: Pool) -> None:
    name = await pool.python("pass")
    async with neighbours.channel(
        pool.settings.scheduler_address, neighbours.token("admin", project="other")
    ) as channel:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        with pytest.raises(NotFound):
            await stub.GetJob(scheduler_service_pb2.GetJobRequest(name=name))
        watch = stub.WatchJobs(scheduler_service_pb2.WatchJobsRequest(parent="projects/-"))
        with pytest.raises(NotFound):
            await anext(aiter(watch))


async def test_only_a_service_says_what_a_job_works_for(pool: Pool) -> None:
    spec = job_pb2.JobSpec(command=["true"], resources=resources_pb2.Resources(cpu_millis=10))
    spec.owner = "projects/demo/transforms/t"
    spec.environment["AIOS_RAY_ADDRESS"] = "ray://elsewhere:10001"
    request = scheduler_service_pb2.CreateJobRequest(
        parent=PARENT, job=job_pb2.Job(spec=spec), validate_only=True
    )
    for role in ("editor", "admin"):
        token = neighbours.token(role, project="demo")
        async with neighbours.channel(pool.settings.scheduler_address, token) as channel:
            stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
            with pytest.raises(InvalidArgument) as refused:
                await stub.CreateJob(request)
        assert set(refused.value.fields) == {"job.spec.owner", "job.spec.environment['AIOS_RAY_ADDRESS']"}
    async with neighbours.channel(pool.settings.scheduler_address, neighbours.token("service")) as channel:
        await scheduler_service_pb2_grpc.SchedulerServiceStub(channel).CreateJob(request)


async def test_one_trace_shows_the_submit_the_wait_and_the_start(pool: Pool) -> None:
    trace, parent = uuid.uuid4().hex, "00f067aa0ba902b7"
    spec = job_pb2.JobSpec(
        command=["python", "-c", "import os; print(os.environ['TRACEPARENT'])"],
        resources=resources_pb2.Resources(cpu_millis=10),
        owner="projects/demo/runs/r",
    )
    request = scheduler_service_pb2.CreateJobRequest(parent=PARENT, job=job_pb2.Job(spec=spec))
    metadata = [("traceparent", f"00-{trace}-{parent}-01")]
    async with neighbours.channel(pool.settings.scheduler_address, neighbours.token("service")) as channel:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
        name = (await stub.CreateJob(request, metadata=metadata)).name
    await pool.until_final(name)
    create = "aios.scheduler.v1.SchedulerService/CreateJob"

    def spans() -> dict[str, trace_pb2.Span]:
        return {span.name: span for span in pool.collector.spans if span.trace_id.hex() == trace}

    await eventually(lambda: {create, "queue wait", "assign", "start process"} <= spans().keys())
    made = spans()
    assert made[create].parent_span_id.hex() == parent
    for step in ("queue wait", "assign", "start process"):
        assert made[step].parent_span_id == made[create].span_id
        attributes = {each.key: each.value.string_value for each in made[step].attributes}
        assert attributes["aios.project"] == "demo"
        assert attributes["aios.owner"] == "projects/demo/runs/r"
    assert made["queue wait"].end_time_unix_nano <= made["start process"].start_time_unix_nano
    assert (await pool.log(name)).decode().strip() == f"00-{trace}-{made[create].span_id.hex()}-01"


async def test_a_process_starts_within_a_second_of_its_submit(pool: Pool) -> None:
    waits = []
    for _ in range(10):
        submitted = time.time()
        name = await pool.submit("sh", "-c", "date +%s.%N", cpu_millis=100)
        await pool.until_final(name)
        waits.append(float(await pool.log(name)) - submitted)
    assert median(waits) < 1.0, waits

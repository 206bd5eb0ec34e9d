"""The real compose files with our real images, end to end: the demo, faults, a backup wiped and restored."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compose import engine as engines
from tests.compose import load
from tests.compose.engine import REPOSITORY, Engine, NoEngine

pytestmark = pytest.mark.skipif(
    not os.environ.get("AIOS_TEST_COMPOSE"), reason="takes minutes and an engine: make test-compose"
)
PORT, TLS_PORT, STORE_PORT, PROJECT = 18080, 18443, 19000, "aios-test"
TLS = "deploy/compose/compose.tls.yaml"
OBSERVABILITY = "deploy/compose/compose.observability.yaml", "tests/compose/standins/observability.yaml"
TRUST = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_FILE"
READY_SECONDS_MAX = 90.0
SIZE_BYTES_MAX = 250e6
RECOVERY_SECONDS_MAX = 60.0
BROKEN = "aios-test/broken:test"
NEVER_HEALTHY = b"""FROM aios-test-new/data:test
HEALTHCHECK --interval=1s --retries=1 CMD ["false"]
ENTRYPOINT ["sleep", "600"]
"""


@dataclass
class Stack:
    """The stack that the compose files describe."""

    engine: Engine
    folder: Path
    overrides: tuple[str, ...] = ()
    """More compose files of the repository."""
    token: str = field(default="", repr=False)
    ready_seconds: float = 0.0
    """From built images to all answering."""

    def chore(self, *words: str, **more: str) -> str:
        """A chore of stack.sh, with more in its environment."""
        script = REPOSITORY / "deploy/compose/stack.sh"
        environment = {
            **self.engine.environment,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "AIOS_ENV_FILE": str(self.folder / "env"),
            "DOCKER": self.engine.docker,
            "DOCKER_COMPOSE": self.engine.compose,
            "NO_BUILD": "1",
            "COMPOSE_OVERRIDES": " ".join(str(REPOSITORY / override) for override in self.overrides),
            **more,
        }
        done = subprocess.run(
            ["sh", str(script), *words], env=environment, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr[-3000:]}"
        return done.stdout

    def aios(self, *words: str) -> str:
        """A command of the CLI, from outside."""
        trust = {name: str(self.authority) for name in TRUST} if TLS in self.overrides else {}
        environment = {
            **os.environ,
            **trust,
            "AIOS_ADDRESS": self.address,
            "AIOS_TOKEN_FILE": str(self.folder / "token"),
            "AIOS_HOME": str(self.folder / "home"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "aios.cli", *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def listing(self) -> Any:
        """Everything that must outlive a backup, with digests."""
        nouns = (("run",), ("dataset",), ("dataset", "versions", "digits"), ("model", "versions", "digits"))
        return [json.loads(self.aios(*noun, "-o", "json")) for noun in nouns]

    @property
    def address(self) -> str:
        return f"{'https' if TLS in self.overrides else 'http'}://127.0.0.1:{PORT}"

    @property
    def digits(self) -> Path:
        """The demo's data, as it was pushed."""
        return self.folder / "home" / "demo" / "digits"

    @property
    def authority(self) -> Path:
        """Who signed the stack's certificates."""
        return self.folder / "authority.crt"

    def up(self, *overrides: str) -> None:
        """Start it with these files on top, from whatever runs now."""
        self.overrides = overrides
        self.chore("up")
        self.authority.write_text(self.chore("authority"))
        self.token = self.chore("token").strip()
        (self.folder / "token").write_text(self.token)

    def python(self, service: str, code: str, *arguments: str) -> str:
        """Run code in a container of ours; the last line that it prints."""
        said = self.engine.run("exec", self.container(service), "python", "-c", code, *arguments)
        return said.strip().rpartition("\n")[2]

    def container(self, service: str) -> str:
        return f"{PROJECT}-{service}-1"

    def restarts(self, service: str) -> int:
        return int(self.engine.run("inspect", "--format", "{{.RestartCount}}", self.container(service)))

    def kill(self, service: str) -> None:
        """SIGKILL from outside, so that the engine sees a crash and no order."""
        pid = self.engine.run("inspect", "--format", "{{.State.Pid}}", self.container(service))
        os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    try:
        with engines.started() as engine:
            engines.prepare(engine)
            made = Stack(engine, folder)
            images = {
                name: f"aios-test/{name.lower().replace('_', '-')}"
                for name in ("NATS", "POSTGRES", "ENVOY", "OBJECT_STORE", "PROMETHEUS", "TRITON")
            }
            settings = {
                "AIOS_BIND": "127.0.0.1",
                "AIOS_PORT": PORT,
                "OBJECT_STORE_PORT": STORE_PORT,
                "AIOS_S3_PUBLIC_ENDPOINT": f"http://localhost:{STORE_PORT}",
                "AIOS_IMAGE_PREFIX": "aios-test",
                "AIOS_VERSION": "test",
                "AIOS_TLS_BIND": "127.0.0.1",
                "AIOS_TLS_PORT": TLS_PORT,
                # Not run here.
                **{f"{name}_IMAGE": "none" for name in ("COLLECTOR", "JAEGER", "GRAFANA")},
                "AIOS_TEST_REPOSITORY": REPOSITORY,
                "PYTHON_IMAGE": engines.BASE,
                **{f"{name}_IMAGE": image for name, image in images.items()},
            }
            (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            began = time.monotonic()
            made.up()
            made.ready_seconds = time.monotonic() - began
            try:
                yield made
            finally:
                made.chore("compose", "down", "--volumes")
    except NoEngine as missing:
        pytest.skip(str(missing))


@pytest.mark.timeout(1800)
def test_everything_answers_soon(stack: Stack) -> None:
    print(f"\nall healthy after {stack.ready_seconds:.0f} s (bar {READY_SECONDS_MAX:.0f})", end="")
    assert stack.ready_seconds <= READY_SECONDS_MAX


@pytest.mark.timeout(1800)
def test_the_demo_runs_against_it(stack: Stack) -> None:
    said = stack.aios("demo", "-o", "json")
    assert json.loads(said)


SERVERS = """
import pathlib
for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if each.read_bytes().startswith(b"/opt/tritonserver/bin/server"):
        print("serves")
"""


def test_replicas_are_on_the_triton_image_and_training_is_beside_it(stack: Stack) -> None:
    nodes = json.loads(stack.aios("node", "-o", "json"))
    [serving] = [
        node["name"]
        for node in nodes
        if node["labels"].get("role") == "serving" and node["state"] == "STATE_READY"
    ]

    def replicas() -> set[str]:
        jobs = json.loads(stack.aios("job", "--state", "running", "-o", "json"))
        return {job["attempt"]["node"] for job in jobs if job["spec"]["kind"] == "KIND_SERVICE"}

    _wait(lambda: replicas() == {serving}, "replicas do not run on the serving worker alone")
    jobs = json.loads(stack.aios("job", "-o", "json"))
    others = [job for job in jobs if job["spec"]["kind"] == "KIND_BATCH"]
    assert others
    assert serving not in {job["attempt"]["node"] for job in others if "attempt" in job}
    assert stack.python("serving-worker", SERVERS) == "serves"
    assert stack.python("worker", SERVERS) == ""


def test_images_are_small(stack: Stack) -> None:
    base = int(stack.engine.run("inspect", "--format", "{{.Size}}", engines.BASE))
    for service in (*engines.SERVICES, *engines.WORKERS):
        size = int(stack.engine.run("inspect", "--format", "{{.Size}}", f"aios-test/{service}:test")) - base
        print(f"\n{service}: {size / 1e6:.0f} MB above the base", end="")
        assert size <= SIZE_BYTES_MAX or service in ("data", *engines.WORKERS)


def test_each_container_sees_its_own_secrets_alone_and_is_nobody(stack: Stack) -> None:
    for service in engines.SERVICES:
        name = stack.container(service)
        held = stack.engine.run("exec", name, "ls", "/var/lib/aios/secrets").split()
        assert f"{service}.token" in held
        assert ("identity.pem" in held, "scheduler.pem" in held, "s3.json" in held) == (
            service == "gateway",
            service == "scheduler",
            service == "data",
        )
        assert stack.engine.run("exec", name, "id", "-u").strip() == "10001"
        with pytest.raises(subprocess.CalledProcessError):
            stack.engine.run("exec", name, "touch", "/opt/aios/mine")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "service",
    [
        "scheduler",
        "data",
        "trainer",
        "inference",
        "gateway",
        "envoy",
        "nats",
        "postgres",
        "object-store",
        "worker",
        "serving-worker",
    ],
)
def test_a_killed_container_comes_back_and_nothing_accepted_is_lost(stack: Stack, service: str) -> None:
    with load.running(stack.address, stack.token, f"during-{service}", stack.digits) as work:
        before, began = stack.restarts(service), time.monotonic()
        stack.kill(service)
        _wait(lambda: stack.restarts(service) > before and _answers(work), f"{service} does not come back")
        recovered = time.monotonic() - began
        work.stop.set()
        _wait(lambda: not work.look(), f"jobs accepted while {service} was down do not end")
    assert {name: state for name, state in work.states.items() if state != "STATE_SUCCEEDED"} == {}
    print(f"\n{service}: all answer after {recovered:.1f} s; {len(work.accepted)} jobs done", end="")


def _answers(work: load.Load) -> bool:
    """Every service is asked through the door, and the model too."""
    paths = [f"/v1/projects/default/{noun}" for noun in ("runs", "datasets", "jobs", "deployments")]
    return all(work.client.get(path).is_success for path in (*paths, "/v1/nodes")) and work.predicts()


@pytest.mark.timeout(1200)
def test_a_backup_that_is_restored_after_a_wipe_is_the_same(stack: Stack) -> None:
    before = stack.listing()
    stack.chore("backup", str(stack.folder / "backup"))
    assert stack.listing() == before
    stack.chore("compose", "down", "--volumes")
    stack.chore("restore", str(stack.folder / "backup"))
    assert stack.listing() == before
    pulled = stack.folder / "pulled"
    stack.aios("dataset", "pull", "digits", str(pulled))
    files = [path.relative_to(stack.digits) for path in stack.digits.rglob("*") if path.is_file()]
    assert files
    assert all((pulled / path).read_bytes() == (stack.digits / path).read_bytes() for path in files)


@pytest.mark.timeout(600)
def test_what_was_stopped_and_removed_starts_again_with_everything(stack: Stack) -> None:
    before = stack.listing()
    stack.chore("down")
    stack.up()
    assert stack.listing() == before


@pytest.mark.timeout(600)
def test_three_workers_are_three_nodes(stack: Stack) -> None:
    stack.chore("compose", "up", "--detach", "--no-build", "--wait", "--scale", "worker=3")
    nodes = [node for node in json.loads(stack.aios("node", "-o", "json")) if node["state"] == "STATE_READY"]
    assert sorted(node["labels"].get("role", "") for node in nodes) == ["", "", "", "serving"]
    spec = {"command": ["sleep", "2"], "resources": {"cpuMillis": 100}}
    headers = {"authorization": f"Bearer {stack.token}"}
    with httpx.Client(base_url=stack.address, headers=headers, timeout=10) as client:
        jobs = "/v1/projects/default/jobs"
        names = [f"spread-{number}" for number in range(6)]
        for name in names:
            client.post(jobs, params={"jobId": name}, json={"spec": spec}).raise_for_status()
        ended = {name: _wait_for_end(client, f"{jobs}/{name}") for name in names}
    assert set(ended.values()) == {"STATE_SUCCEEDED"}
    stack.chore("compose", "up", "--detach", "--no-build", "--wait", "--scale", "worker=1")


PLAIN_HEALTH = """
import asyncio, sys
from aios.stack import probes
host, _, port = sys.argv[1].rpartition(":")
try:
    asyncio.run(probes.grpc_health(host, int(port))())
except probes.NotReady:
    print("refused")
else:
    print("answered")
"""
PLAIN_DATABASE = """
import psycopg
try:
    psycopg.connect("postgresql://aios@postgres/aios?sslmode=disable").close()
except psycopg.OperationalError as error:
    print("refused" if "no encryption" in str(error) else error)
else:
    print("answered")
"""
PLAIN_BUS = """
import asyncio, json, nats
async def ask():
    known = json.load(open("/var/lib/aios/secrets/nats.json"))
    client = await nats.connect("nats://nats:4222", user=known["user"], password=known["password"], connect_timeout=3,
        allow_reconnect=False)
    print("tls" if client._transport.get_extra_info("ssl_object") else "answered")
try:
    asyncio.run(ask())
except Exception:
    print("refused")
"""


@pytest.mark.timeout(1800)
def test_with_tls_everything_that_was_there_is_there_and_nothing_answers_in_plain_text(stack: Stack) -> None:
    before = stack.listing()
    stack.up(TLS)
    assert stack.listing() == before
    for port, service in (
        (7001, "scheduler"),
        (7002, "data"),
        (7003, "trainer"),
        (7004, "inference"),
        (7005, "gateway"),
    ):
        assert stack.python("scheduler", PLAIN_HEALTH, f"{service}:{port}") == "refused"
    assert stack.python("scheduler", PLAIN_DATABASE) == "refused"
    assert stack.python("scheduler", PLAIN_BUS) == "refused"
    for port in (PORT, TLS_PORT):
        assert httpx.get(f"https://localhost:{port}/healthz", verify=str(stack.authority)).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/healthz")
    assert json.loads(stack.aios("demo", "-o", "json"))
    stack.chore("certificates")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://localhost:{PORT}/healthz", verify=str(stack.authority))
    stack.authority.write_text(stack.chore("authority"))
    assert stack.listing()
    stack.up()


@pytest.mark.timeout(900)
def test_spans_and_figures_reach_the_collector_and_prometheus_reads_them(stack: Stack) -> None:
    stack.up(*OBSERVABILITY)
    address = stack.engine.run(
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        stack.container("prometheus"),
    ).strip()
    headers = {"authorization": f"Bearer {stack.token}"}
    trace = httpx.get(f"{stack.address}/v1/caller", headers=headers).headers["x-aios-trace-id"]
    wanted = {"aios_serving", "aios_nodes", "aios_jobs", "rpc_server_call_duration_seconds_count"}
    deadline = time.monotonic() + 90
    found: set[str] = set()
    while not (wanted <= found and trace in stack.engine.run("logs", stack.container("collector"))):
        assert time.monotonic() < deadline, f"Prometheus lacks {wanted - found}"
        time.sleep(1)
        names = httpx.get(f"http://{address}:9090/api/v1/label/__name__/values").json()
        found = set(names.get("data", []))
    serving = httpx.get(f"http://{address}:9090/api/v1/query", params={"query": "aios_serving"}).json()
    services = {result["metric"]["job"] for result in serving["data"]["result"]}
    assert services == set(engines.SERVICES)
    print(f"\nPrometheus has {len(found)} figures of {len(services)} services", end="")
    stack.up()


@pytest.mark.timeout(1800)
def test_an_upgrade_from_the_previous_schema_keeps_what_was_there_and_a_failed_one_goes_back(
    stack: Stack,
) -> None:
    former = engines.previous_schema()
    if former is None:
        pytest.skip("the history that git has here holds no former schema")
    stack.chore("compose", "down", "--volumes")
    engines.build_services(stack.engine, engines.checkout(former), "aios-test-now", "test")
    ours = (*engines.SERVICES, *engines.WORKERS)
    for service in ours:
        stack.engine.run("tag", f"aios-test/{service}:test", f"aios-test-new/{service}:test")
        if service in engines.SERVICES:
            stack.engine.run("tag", f"aios-test-now/{service}:test", f"aios-test/{service}:test")
    stack.up()
    stack.aios("demo", "-o", "json")
    before = stack.listing()
    new = _bringing(stack, {service: f"aios-test-new/{service}:test" for service in ours})
    stack.engine.run("build", "--tag", BROKEN, "-", stdin=NEVER_HEALTHY)
    broken = _bringing(stack, {"trainer": "aios-test-new/trainer:test", "data": BROKEN})
    with pytest.raises(AssertionError, match="restored from"):
        stack.chore("upgrade", NEW_IMAGES=str(broken))
    assert stack.listing() == before, "what failed left its traces"
    stack.chore("upgrade", NEW_IMAGES=str(new))
    assert stack.listing() == before


def _bringing(stack: Stack, images: Mapping[str, str]) -> Path:
    """A script that brings these images under the names that the stack uses."""
    script = stack.folder / f"bring-{len(images)}"
    tags = [
        f"{stack.engine.docker} tag {image} aios-test/{service}:test" for service, image in images.items()
    ]
    script.write_text("\n".join(["#!/bin/sh -e", *tags]))
    script.chmod(0o755)
    return script


def _wait(met: Callable[[], bool], otherwise: str) -> None:
    """Look again until it is so; what cannot be asked yet is not."""
    deadline = time.monotonic() + RECOVERY_SECONDS_MAX
    while True:
        with suppress(httpx.HTTPError):
            if met():
                return
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)


def _wait_for_end(client: httpx.Client, job: str) -> str:
    deadline = time.monotonic() + RECOVERY_SECONDS_MAX
    while (state := client.get(job).json()["state"]) in ("STATE_QUEUED", "STATE_STARTING", "STATE_RUNNING"):
        assert time.monotonic() < deadline, f"{job} is {state}"
        time.sleep(0.5)
    return str(state)

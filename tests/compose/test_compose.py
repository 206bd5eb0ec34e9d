"""The real compose files with our real images, end to end: the demo, faults, a backup wiped and restored."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compose import engine as engines
from tests.compose.engine import REPOSITORY, Engine, NoEngine

pytestmark = pytest.mark.skipif(
    not os.environ.get("AIOS_TEST_COMPOSE"), reason="takes minutes and an engine: make test-compose"
)
PORT, STORE_PORT, PROJECT = 18080, 19000, "aios-test"
READY_SECONDS_MAX = 90.0
SIZE_BYTES_MAX = 250e6
RECOVERY_SECONDS_MAX = 60.0


@dataclass
class Stack:
    """The stack that the compose files describe."""

    engine: Engine
    folder: Path
    token: str = field(default="", repr=False)
    ready_seconds: float = 0.0
    """From built images to all answering."""

    def chore(self, *words: str) -> str:
        """A chore of stack.sh."""
        script = REPOSITORY / "deploy/compose/stack.sh"
        environment = {
            **self.engine.environment,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "AIOS_ENV_FILE": str(self.folder / "env"),
            "DOCKER": self.engine.docker,
            "DOCKER_COMPOSE": self.engine.compose,
            "NO_BUILD": "1",
        }
        done = subprocess.run(
            ["sh", str(script), *words], env=environment, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr[-3000:]}"
        return done.stdout

    def aios(self, *words: str) -> str:
        """A command of the CLI, from outside."""
        environment = {
            **os.environ,
            "AIOS_ADDRESS": f"http://127.0.0.1:{PORT}",
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
                for name in ("NATS", "POSTGRES", "ENVOY", "OBJECT_STORE")
            }
            settings = {
                "AIOS_BIND": "127.0.0.1",
                "AIOS_PORT": PORT,
                "OBJECT_STORE_PORT": STORE_PORT,
                "AIOS_S3_PUBLIC_ENDPOINT": f"http://localhost:{STORE_PORT}",
                "AIOS_IMAGE_PREFIX": "aios-test",
                "AIOS_VERSION": "test",
                "PYTHON_IMAGE": engines.BASE,
                **{f"{name}_IMAGE": image for name, image in images.items()},
            }
            (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            began = time.monotonic()
            made.chore("up")
            made.ready_seconds = time.monotonic() - began
            made.token = made.chore("token").strip()
            (folder / "token").write_text(made.token)
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


def test_images_are_small(stack: Stack) -> None:
    base = int(stack.engine.run("inspect", "--format", "{{.Size}}", engines.BASE))
    for service in (*engines.SERVICES, "worker"):
        size = int(stack.engine.run("inspect", "--format", "{{.Size}}", f"aios-test/{service}:test")) - base
        print(f"\n{service}: {size / 1e6:.0f} MB above the base", end="")
        assert size <= SIZE_BYTES_MAX or service in ("data", "worker")


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
    ],
)
def test_a_killed_container_comes_back_and_nothing_accepted_is_lost(stack: Stack, service: str) -> None:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{PORT}", headers={"authorization": f"Bearer {stack.token}"}, timeout=10
    ) as client:
        spec = {"command": ["sleep", "8"], "resources": {"cpuMillis": 100}}
        jobs = "/v1/projects/default/jobs"
        client.post(jobs, params={"jobId": f"during-{service}"}, json={"spec": spec}).raise_for_status()
        before, began = stack.restarts(service), time.monotonic()
        stack.kill(service)
        while True:
            assert time.monotonic() - began < RECOVERY_SECONDS_MAX, f"{service} does not come back"
            try:
                answers = [
                    client.get(path).status_code
                    for path in ("/v1/projects/default/runs", "/v1/projects/default/datasets", "/v1/nodes")
                ]
                state = client.get(f"{jobs}/during-{service}").json().get("state")
            except (httpx.HTTPError, ValueError):
                answers, state = [], None
            if answers == [200] * 3 and state == "STATE_SUCCEEDED" and stack.restarts(service) > before:
                break
            time.sleep(0.5)
    print(f"\n{service}: recovered, its job done, after {time.monotonic() - began:.1f} s", end="")


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
    pushed = stack.folder / "home" / "demo" / "digits"
    files = [path.relative_to(pushed) for path in pushed.rglob("*") if path.is_file()]
    assert files
    assert all((pulled / path).read_bytes() == (pushed / path).read_bytes() for path in files)

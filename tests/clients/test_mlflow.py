"""An unmodified client of MLflow tracks runs on a live stack, and the platform sees them as its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.languages import NOT_ASKED, REPOSITORY
from tests.e2e.stack import Stack

pytestmark = [
    pytest.mark.skipif(bool(NOT_ASKED), reason=NOT_ASKED),
    pytest.mark.timeout(900),
]

WHOLE = REPOSITORY / "build" / "mlflow" / "bin" / "python"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has MLflow's client."""
    venv = tmp_path_factory.mktemp("mlflow")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    lock = REPOSITORY / "requirements" / "mlflow.lock"
    install = [f"{venv}/bin/pip", "install", "--quiet", "--require-hashes", "-r", str(lock)]
    subprocess.run(install, check=True, timeout=600)
    return venv / "bin" / "python"


def seen_by(python: Path, script: str, name: str, aios: Stack, token: str) -> Any:
    """What a script printed."""
    variables = {"MLFLOW_TRACKING_URI": f"http://{aios.target}", "MLFLOW_TRACKING_TOKEN": token}
    done = subprocess.run(
        [python, REPOSITORY / "clients" / "mlflow" / script, name],
        env={**os.environ, **variables, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_script_that_knows_mlflow_alone(python: Path, aios: Stack, token: str, ran: list[str]) -> None:
    seen = seen_by(python, "main.py", "from-mlflow", aios, token)
    assert seen["status"] == "FINISHED"
    assert seen["metrics"] == pytest.approx({"loss": 0.0001234098, "accuracy": 0.9, "f1": 0.8}, rel=1e-6)
    assert seen["params"] == {"lr": "0.1", "layers": "3"}
    assert seen["curve"] == 10
    assert (seen["best"], seen["failed"], seen["left"]) == (["cnn"], ["broken"], ["broken"])
    assert (seen["missing"], seen["frame"]) == (None, ["from-mlflow"])
    assert seen["refused"] == "INVALID_PARAMETER_VALUE"
    with aios.client() as client:
        run = client.runs.get(f"projects/default/runs/{seen['run']}")
        points = [point for point in client.runs.metrics(run.name) if point.key == "loss"]
    assert dict(run.metrics) == seen["metrics"]
    assert [point.step for point in points] == list(range(10))
    ran.append("mlflow")


@pytest.mark.skipif(not WHOLE.exists(), reason="make bench BENCH=trainer_tracking installs all of MLflow")
def test_a_script_that_logs_registers_and_loads_a_model(aios: Stack, token: str) -> None:
    seen = seen_by(WHOLE, "models.py", "Irises", aios, token)
    run = seen.pop("run")
    assert seen == {
        "same": True,
        "files": ["files", "more"],
        "text": "hello",
        "dict": {"a": 1},
        "inputs": ["iris"],
        "outputs": True,
        "logged": ["model"],
        "registered": ["Irises"],
        "versions": ["1"],
        "tags": {"checked": "yes"},
        "refused": "INVALID_STATE",
        "renamed": "Irises-renamed",
        "deleted": True,
    }
    with aios.client() as client:
        version = client.models.version("irises/@champion")
        copied = client.models.version("irises-copy/1")
    assert version.run.rpartition("/")[2] == run
    assert version.manifest_sha256 == copied.manifest_sha256
    assert "MLmodel" in {file.path for file in version.files}

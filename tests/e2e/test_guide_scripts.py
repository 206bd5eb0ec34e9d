"""The guide that takes existing scripts onto the platform, each command as it is written, on a running stack."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aios.client import Client
from aios.trainer.v1 import run_pb2
from tests.clients.languages import NOT_ALL_ASKED, REPOSITORY
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(600)
BLOCK_SECONDS = 280.0  # of a job, on a machine that does other things too
GUIDE = REPOSITORY / "docs" / "guides" / "existing-scripts.md"
FETCHED = "uv pip compile"
"""In the block that needs packages from elsewhere."""


def blocks() -> list[str]:
    """What the guide has a reader type."""
    return re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the folder of scripts."""
    return Path(shutil.copytree(REPOSITORY / "examples" / "scripts", tmp_path / "scripts"))


def type_in(aios: Stack, tree: Path, typed: list[str], **variables: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for block in typed:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tree,
            env={**aios.environment, "PATH": path, "HOME": str(tree.parent), **variables},
            text=True,
            capture_output=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_scripts_of_the_guide_run_unchanged(aios: Stack, client: Client, tree: Path) -> None:
    type_in(aios, tree, [block for block in blocks() if FETCHED not in block])

    assert json.loads((tree / "fetched" / "report.json").read_text())["accuracy"] > 0.85
    curve = {point.step: point.value for point in client.runs.metrics("network", "accuracy")}
    assert sorted(curve) == [*range(1, 9)]
    assert curve[8] > 0.8
    assert [*(tree / "lightning-out").rglob("metrics.csv")]
    for name in ("logistic", "network", "lightning"):
        run = client.runs.get(name)
        assert run.state == run_pb2.Run.STATE_SUCCEEDED
        assert run.spec.dataset.startswith("datasets/handwritten/versions/")


@pytest.mark.skipif(bool(NOT_ALL_ASKED), reason=NOT_ALL_ASKED)
def test_its_mlflow_script_brings_its_own_client(
    aios: Stack, client: Client, tree: Path, packages: Path
) -> None:
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary",
        ":all:",
        "-d",
        str(packages),
    ]
    subprocess.run([*fetch, "-r", "requirements.in"], cwd=tree, check=True, timeout=BLOCK_SECONDS)
    needed = ("make_data", "dataset push", FETCHED)
    typed = [block for block in blocks() if any(each in block for each in needed)]
    type_in(aios, tree, typed, UV_NO_INDEX="1", UV_FIND_LINKS=str(packages))

    run = client.runs.get("tracked")
    assert run.state == run_pb2.Run.STATE_SUCCEEDED
    assert run.metrics["accuracy"] > 0.8
    assert run.spec.requirements

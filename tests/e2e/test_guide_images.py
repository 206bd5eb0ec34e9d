"""The guide from a folder of images to data that trains, each command as it is written, on a running stack."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aios.client import Client
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(600)
BLOCK_SECONDS = 280.0  # of three jobs, one after the other, on a machine that does other things too
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "images.md"


def blocks() -> list[str]:
    """What the guide has a reader type."""
    return re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_guide_does_what_it_says(aios: Stack, client: Client, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **aios.environment,
        "PATH": path,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }
    said = []
    for block in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)

    version = client.datasets.version("digits")
    labelled = client.datasets.version("digits-labelled")
    # 91 scans, of which one was a copy; all of them labelled.
    assert labelled.file_count == 91
    rows = client.transforms.report(version.name)["rows"]
    assert sum(rows.values()) == 90
    assert f"{rows['train']} records" in "".join(said)
    events = json.loads((tmp_path / "lineage.json").read_text())
    assert {"labelProjects/digits"} <= {each["job"]["name"] for each in events}

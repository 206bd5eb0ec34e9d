"""The unmodified client of KServe gets the same from the platform as from the bare model server behind it."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.envoy.model import Backend, DeploymentRoute, Replica
from tests.clients.languages import NOT_ALL_ASKED, REPOSITORY
from tests.faults.platform import triton_home
from tests.service.envoy_stack import LOCAL, Stack, envoy
from tests.service.replica_platform import replica

pytestmark = [
    pytest.mark.skipif(bool(NOT_ALL_ASKED), reason=NOT_ALL_ASKED),
    pytest.mark.timeout(900),
]
VENV = REPOSITORY / "build" / "kserve"
VERSION = "0.21.0"


@pytest.fixture(scope="module")
def python() -> Path:
    """One that has KServe's client. It asks for versions that the platform cannot have: an environment of its own."""
    whole = VENV / f"whole-{VERSION}"
    if not whole.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "uv", "venv", "--quiet", VENV], check=True)
        install: list[str | Path] = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--python",
            VENV / "bin" / "python",
        ]
        subprocess.run([*install, f"kserve=={VERSION}"], check=True, timeout=600)
        whole.touch()
    return VENV / "bin" / "python"


def seen_by(python: Path, rest: str, grpc: str, token: str = "") -> dict[str, Any]:
    """What each call came to."""
    done = subprocess.run(
        [python, Path(__file__).with_name("kserve_calls.py"), f"http://{rest}", grpc, "digits"],
        env={**os.environ, "AIOS_TOKEN": token, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Stack]:
    with envoy(tmp_path) as running:
        yield running


async def test_what_kserves_client_gets_of_triton_it_gets_behind_the_door(
    python: Path, door: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with replica(tmp_path_factory.mktemp("replica"), triton_home()) as running:
        await running.ready()
        http, grpc = running.ports["HTTP"], running.ports["GRPC"]
        served = Backend("r1", 1, (Replica(LOCAL, http, grpc),))
        await asyncio.to_thread(door.deploy, DeploymentRoute("vision", "digits", (served,)))
        bare = await asyncio.to_thread(seen_by, python, f"{LOCAL}:{http}", f"{LOCAL}:{grpc}")
        address = f"{LOCAL}:{door.port}"
        behind = await asyncio.to_thread(seen_by, python, address, address, door.token())
    # The gateway answers what is about the server alone, and it does not run here.
    about_model = [name for name in bare if not name.endswith((" live", " ready")) or "model" in name]
    bare = {name: bare[name] for name in about_model}
    answered = {name for name, said in bare.items() if not isinstance(said, str)}
    assert {"HTTP infer", "HTTP infer binary", "gRPC model ready", "gRPC infer"} <= answered
    # What is wrong is refused in the same way: the client's error, and its code.
    assert {name: behind[name] for name in bare} == bare

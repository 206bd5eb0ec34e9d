"""Programs in other languages do the whole path against a live stack, through a door that fails now and then.

The first call of every method is answered UNAVAILABLE, so a client that ends well has retried all of them; it has also
met fields and enum values of a later release in its answers. A language without its toolchain is skipped, and the last
line says how many ran. `AIOS_TEST_HOME` names the home of a stack that runs already.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.flaky import NEWS, flaky_door
from tests.clients.languages import LANGUAGES, Language
from tests.e2e import digits
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(1800)
TRAIN, TEST = 256, 64
BUILD_SECONDS = 1200.0
"""C++ takes two minutes of a processor for all that is generated."""
PATH_SECONDS = 300.0
"""For what takes 15 s on an idle machine."""
CALLED = {
    "/aios.identity.v1.IdentityService/GetCaller",
    "/aios.data.v1.DataService/BeginUpload",
    "/aios.data.v1.DataService/CompleteUpload",
    "/aios.data.v1.DataService/CreateDataset",
    "/aios.data.v1.DataService/CreateDatasetVersion",
    "/aios.trainer.v1.TrainerService/CreateRun",
    "/aios.trainer.v1.TrainerService/WatchMetrics",
    "/aios.inference.v1.InferenceService/CreateDeployment",
    "/inference.GRPCInferenceService/ModelInfer",
    "/aios.telemetry.v1.TraceService/GetTrace",
    "/aios.trainer.v1.TrainerService/WatchRuns",
    "/aios.inference.v1.InferenceService/DeleteDeployment",
}
"""What every client calls, so what every client has retried."""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits, to draw from."""
    folder = tmp_path_factory.mktemp("digits")
    digits.write(folder)
    return folder / "digits"


@pytest.mark.parametrize(
    "language",
    [
        # Decided before anything starts: without a toolchain no stack is needed.
        pytest.param(
            each, marks=pytest.mark.skipif(bool(each.skipped()), reason=each.skipped()), id=each.name
        )
        for each in LANGUAGES
    ],
)
def test_the_whole_path(
    language: Language,
    aios: Stack,
    token: str,
    images: Path,
    contract: Path,
    ran: list[str],
    tmp_path: Path,
) -> None:
    assert contract.is_dir()
    for command in language.build:
        run(command, language, {}, BUILD_SECONDS)
    folder = drawn(images, tmp_path / "digits")
    name = f"from-{language.name}"
    began = time.monotonic()
    with flaky_door(aios.target) as door:
        variables = {"AIOS_ADDRESS": door.address, "AIOS_TOKEN": token}
        out = run([*language.start, str(folder), name], language, variables, PATH_SECONDS)
    seconds = time.monotonic() - began
    seen = json.loads(out.splitlines()[-1])
    assert seen["language"] == language.name
    assert (seen["subject"], seen["project"]) == ("from-elsewhere", "projects/default")
    assert door.failed >= CALLED
    assert door.told == set(NEWS)
    judge(seen, aios, folder, name)
    print(f"\n{language.name}: the whole path in {seconds:.1f} s, {len(door.failed)} methods retried", end="")
    ran.append(language.name)


def judge(seen: dict[str, Any], aios: Stack, folder: Path, name: str) -> None:
    """What the program saw is what the platform says of it."""
    with aios.client() as client:
        version = client.datasets.version(name)
        run_ = client.runs.get(seen["run"])
        points = list(client.runs.metrics(seen["run"]))
        model = client.models.version(seen["modelVersion"])
        trace = client.traces.get(seen["traceId"])
    assert seen["dataset"] == version.name
    assert {file.path for file in version.files} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.npy")
    }
    assert seen["refused"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_ARGUMENT",
        "field": "spec.recipe",
    }
    assert seen["replayed"] is True
    assert seen["states"][-1] == "STATE_SUCCEEDED"
    assert seen["points"] == len(points) > 0
    assert seen["modelVersion"] == run_.model_version == model.name
    assert seen["deployment"] == f"projects/default/deployments/{name}"
    assert 0 <= seen["label"] <= 9
    assert 0 < seen["spans"] <= len(trace.spans)
    assert (seen["deadline"], seen["cancelled"]) == ("DEADLINE_EXCEEDED", "CANCELLED")


def drawn(images: Path, folder: Path) -> Path:
    """Some images of each split, others each time, so that every program has bytes to send."""
    random = np.random.default_rng()
    for split, count in (("train", TRAIN), ("test", TEST)):
        (folder / split).mkdir(parents=True)
        chosen = random.permutation(len(np.load(images / split / "labels.npy")))[:count]
        for part in ("images", "labels"):
            np.save(folder / split / f"{part}.npy", np.load(images / split / f"{part}.npy")[chosen])
    return folder


def run(command: Any, language: Language, variables: dict[str, str], seconds: float) -> str:
    """A command in the language's folder; what it wrote to stdout."""
    done = subprocess.run(
        command,
        cwd=language.folder,
        env={**os.environ, **language.environment, **variables, "no_proxy": "127.0.0.1,localhost"},
        text=True,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout

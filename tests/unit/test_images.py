"""What an image is built with is enough for what it runs: each lock against what its processes import."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

LOCKS = Path(__file__).parents[2] / "requirements" / "images"
RUNS = {
    "gateway": ["gateway.app", "aios.stack.distribute", "aios.stack.health"],
    "scheduler": ["services.scheduler.app"],
    "data": ["services.data.app"],
    "trainer": ["services.trainer.app"],
    "inference": ["services.inference.app"],
    "worker": [
        "services.scheduler.agent.app",
        "services.inference.replica.app",
        "services.data.job.__main__",
    ],
}
IMPORT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)

absent = set(sys.argv[1].split())
sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize("image", RUNS)
def test_an_image_has_what_its_processes_import(image: str) -> None:
    lock = (LOCKS / f"{image}.lock").read_text()
    held = {_normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    held |= {"aios-platform", "torch"} if image == "worker" else {"aios-platform"}
    absent = [
        module
        for module, packages in packages_distributions().items()
        if held.isdisjoint(_normal(package) for package in packages)
    ]
    command = [sys.executable, "-c", IMPORT, " ".join(absent), *RUNS[image]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

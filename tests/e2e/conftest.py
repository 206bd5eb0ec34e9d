"""One stack for all end-to-end tests, and what the main path leaves in it: a dataset, a trained run, a deployment.

Each is made once, by the commands that a person types; `test_main_path` judges them, the others build on them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios.client import Client
from aios.stack.authority import Authority
from tests.collector import Receiver, receiving
from tests.e2e import digits, stack
from tests.e2e.stack import Stack
from tests.servers import free_port


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images and the run.yaml lie."""
    folder = tmp_path_factory.mktemp("digits")
    digits.write(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(digits.spec()))
    return folder


@pytest.fixture(scope="session")
def collector() -> Iterator[Receiver]:
    """What an operator's collector gets."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of doors."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that packages of jobs are found in, and nowhere else."""
    return tmp_path_factory.getbasetemp() / "packages"


@pytest.fixture(scope="session")
def aios(
    tmp_path_factory: pytest.TempPathFactory, collector: Receiver, authority: Authority, packages: Path
) -> Iterator[Stack]:
    """The running stack."""
    certificate, key = authority.issue("door")
    packages.mkdir()
    variables = {
        "AIOS_COLLECTOR_ADDRESS": collector.address,
        "AIOS_MQTT_ADDRESS": f"127.0.0.1:{free_port()}",
        "AIOS_EDGE_ADDRESS": f"127.0.0.1:{free_port()}",
        "AIOS_TLS_CERTIFICATE_FILE": str(certificate),
        "AIOS_TLS_KEY_FILE": str(key),
        "AIOS_PACKAGE_INDEX": str(packages),
    }
    with stack.stack(tmp_path_factory.mktemp("aios"), variables) as running:
        yield running


@pytest.fixture(scope="session")
def client(aios: Stack) -> Iterator[Client]:
    """The Python client, as operator in the first project."""
    with aios.client() as client:
        yield client


@pytest.fixture(scope="session")
def dataset(aios: Stack, folder: Path) -> dict[str, Any]:
    """What `aios dataset push` printed."""
    pushed: dict[str, Any] = aios.json("dataset", "push", "digits", folder / "digits")
    return pushed


@pytest.fixture(scope="session")
def run(aios: Stack, folder: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    """What `aios run submit --wait` printed: a run that nobody disturbed."""
    ended: dict[str, Any] = aios.json("run", "submit", "-f", folder / "run.yaml", "--wait")
    return ended


@pytest.fixture(scope="session")
def deployment(aios: Stack, run: dict[str, Any]) -> dict[str, Any]:
    """What `aios deploy --wait` printed."""
    version = run["modelVersion"].partition("/models/")[2].replace("/versions/", "/")
    made: dict[str, Any] = aios.json("deploy", version, "--name", "digits", "--wait")
    return made

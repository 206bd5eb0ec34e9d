"""One stack for the programs of all languages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.languages import LANGUAGES, REPOSITORY
from tests.clients.site import Site, serving
from tests.e2e import stack
from tests.e2e.stack import Stack
from tests.faults.platform import triton_home


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Where the browser's page comes from."""
    with serving(REPOSITORY / "clients" / "browser" / "page") as running:
        yield running


@pytest.fixture(scope="session")
def aios(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running stack, which the page may call."""
    if given := os.environ.get("AIOS_TEST_HOME"):
        yield Stack(Path(given))
        return
    home = tmp_path_factory.mktemp("clients")
    settings = {"AIOS_TRITON_HOME": str(triton_home()), "AIOS_CORS_ORIGINS": site.origin}
    with stack.stack(home, settings) as running:
        yield running


@pytest.fixture(scope="session")
def token(aios: Stack) -> str:
    """An editor's."""
    member = "projects/default/members/from-elsewhere"
    with aios.http() as http:
        http.put(f"/v1/{member}", json={"role": "ROLE_EDITOR"}).raise_for_status()
        issued = http.post("/v1/projects/default/tokens", json={"member": member})
    issued.raise_for_status()
    return str(issued.json()["secret"])


@pytest.fixture(scope="session")
def contract() -> Path:
    """What every language generates from."""
    folder = REPOSITORY / "build" / "contract"
    subprocess.run([sys.executable, REPOSITORY / "tools" / "contract.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def ran() -> Iterator[list[str]]:
    """The clients that did what they are there for."""
    names: list[str] = []
    yield names
    clients = [*(each.name for each in LANGUAGES), "browser", "mlflow"]
    print(f"\n{len(names)} of {len(clients)} clients ran: {', '.join(sorted(names)) or 'none'}")
    if left := sorted({*clients} - {*names}):
        print(f"not run: {', '.join(left)}")

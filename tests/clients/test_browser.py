"""A page of another origin calls the platform from a real browser: gRPC-web, its streams, its errors, and JSON."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.languages import NOT_ASKED, REPOSITORY
from tests.clients.site import Site
from tests.e2e.stack import Stack

FOLDER = REPOSITORY / "clients" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), "")
LACKING = [tool for tool in ("node", "npm") if shutil.which(tool) is None] + ([] if FOUND else [BROWSERS[0]])
pytestmark = [
    pytest.mark.skipif(bool(NOT_ASKED), reason=NOT_ASKED),
    pytest.mark.skipif(bool(LACKING), reason=f"browser: no {', '.join(LACKING)}"),
    pytest.mark.timeout(900),
]
PATIENCE_MILLIS = 120_000
"""Of the page's own clock, which stands still while it waits for an answer."""
TRIES = 3
"""On a busy machine the page's clock may run out before the answers are there."""


@pytest.fixture(scope="module")
def built(contract: Path) -> None:
    assert contract.is_dir()
    for command in (["npm", "ci", "--ignore-scripts"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def opened(url: str, profile: Path) -> str:
    """The page as it stands once it has nothing left to do, as HTML."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        f"--virtual-time-budget={PATIENCE_MILLIS}",
        "--dump-dom",
    ]
    done = subprocess.run([FOUND, *flags, url], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def text_of(page: str, element: str) -> str:
    found = re.search(rf'<\w+ id="{element}"[^>]*>(.*?)</', page, re.DOTALL)
    assert found is not None, page[-2000:]
    return html.unescape(found[1])


def test_a_page_reads_the_platform_by_grpc_web_and_by_json(
    built: None, aios: Stack, token: str, site: Site, ran: list[str], tmp_path: Path
) -> None:
    with aios.client() as client:
        runs = [run.name for run in client.runs.list()]
    site.settings = {"address": f"http://{aios.target}", "token": token, "walk": True}
    pages = (opened(site.url, tmp_path / f"profile-{number}") for number in range(TRIES))
    page = next(each for each in pages if text_of(each, "problem") or text_of(each, "seen"))
    assert text_of(page, "problem") == ""
    seen = json.loads(text_of(page, "seen"))
    assert (seen["subject"], seen["project"]) == ("from-elsewhere", "projects/default")
    assert seen["runs"] == runs
    assert page.count("<tr id=") == len(runs)
    assert seen["refused"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_ARGUMENT",
        "field": "spec.recipe",
    }
    assert (seen["deadline"], seen["cancelled"]) == ("DEADLINE_EXCEEDED", "CANCELLED")
    ran.append("browser")


def test_a_page_that_nobody_allowed_is_not_answered(
    built: None, aios: Stack, token: str, site: Site, tmp_path: Path
) -> None:
    site.settings = {"address": f"http://{aios.target}", "token": token, "walk": True}
    page = opened(site.url.replace("127.0.0.1", "localhost"), tmp_path / "profile")
    assert text_of(page, "seen") == ""
    assert "fetch" in text_of(page, "problem")

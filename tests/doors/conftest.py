"""One stack for all tests of doors, two projects in it, and a caller of every kind.

`AIOS_TEST_HOME` names the home of a stack that runs already, to try things against it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.runtime.tokens import read_key
from tests.doors.callers import OTHER_PROJECT, PROJECT, Caller, callers
from tests.doors.live import ORIGIN, Live, revoked_token
from tests.e2e.stack import Stack
from tests.faults.platform import triton_home


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running stack with both projects."""
    given = os.environ.get("AIOS_TEST_HOME")
    home = Path(given) if given else tmp_path_factory.mktemp("doors")
    stack = Stack(home, {"AIOS_CORS_ORIGINS": ORIGIN, "AIOS_TRITON_HOME": str(triton_home())})
    if not given:
        stack.up()
    try:
        yield Live.prepare(stack, PROJECT, OTHER_PROJECT)
    finally:
        if not given:
            stack.aios("down")


@pytest.fixture(scope="session")
def everyone(live: Live) -> dict[str, Caller]:
    """Every kind of caller, by name."""
    key = read_key(live.stack.home / "secrets" / "identity.pem")
    return callers(key, revoked_token(live, PROJECT))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In a long run say at once what failed: it may be stopped before its end."""
    if report.failed and os.environ.get("AIOS_TEST_FUZZ"):
        print(f"\n{report.nodeid}\n{report.longreprtext}", file=sys.__stderr__, flush=True)

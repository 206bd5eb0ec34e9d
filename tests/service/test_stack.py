"""The real stack: ready in time, closed to the outside, and back after every kind of death."""

import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from aios.client import Client
from aios.client.credentials import Credentials
from aios.errors import AiosError
from aios.stack import control, state
from aios.stack.child import State, start_ticks
from aios.stack.layout import Layout

READY_SECONDS = 30.0
BUSY = 3.0
"""Tests share the machine with others: three times the promise is waited for."""
MEMORY_BYTES_MAX = 2 << 30
BACK_SECONDS = 45.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A running stack in a home of its own."""
    home = Layout(tmp_path_factory.mktemp("home"))
    up(home)
    yield home
    control.stop(home, lambda _: None)


def up(home: Layout) -> float:
    began = time.monotonic()
    control.start(home)
    control.wait_ready(home, READY_SECONDS * BUSY, lambda _: None)
    return time.monotonic() - began


def client(home: Layout) -> Client:
    token = (home.secrets / "operator.token").read_text()
    return Client(credentials=Credentials(state.read(home.state).address, "default", token))


def services(home: Layout) -> dict[str, state.ServiceState]:
    return {name: one for name, one in state.read(home.state).services.items() if name not in state.TASKS}


def alive(before: Mapping[str, state.ServiceState]) -> list[str]:
    """Those of the processes that still run."""
    return [name for name, one in before.items() if one.pid and start_ticks(one.pid) == one.start_ticks]


def until_answers(home: Layout) -> None:
    """Every service answers through the public door."""
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            with client(home) as aios:
                list(aios.jobs.list()), list(aios.datasets.list()), list(aios.runs.list())
                list(aios.deployments.list()), list(aios.projects.list())
                return
        except AiosError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_everything_is_ready_and_small(layout: Layout) -> None:
    now = control.status(layout)
    assert now.ready
    assert {"nats", "s3", "envoy", "scheduler", "agent", "data", "trainer", "inference", "gateway"} <= set(
        now.services
    )
    assert sum(control.memory_bytes(now).values()) < MEMORY_BYTES_MAX
    until_answers(layout)


def test_nothing_listens_beyond_this_machine(layout: Layout) -> None:
    open_to_others = {
        f"{name} {listening.laddr.ip}:{listening.laddr.port}"
        for name, one in services(layout).items()
        for process in (psutil.Process(one.pid), *psutil.Process(one.pid).children(recursive=True))
        for listening in process.net_connections("inet")
        if listening.status == psutil.CONN_LISTEN and not is_loopback(listening.laddr.ip)
    }
    assert open_to_others == set()


def is_loopback(text: str) -> bool:
    """Of either family, and of the one within the other."""
    address = ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_the_home_is_closed_to_other_users(layout: Layout) -> None:
    for path in (*layout.secrets.iterdir(), *layout.logs.iterdir(), layout.state):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_no_secret_is_in_a_log(layout: Layout) -> None:
    held = [file.read_text().strip() for file in layout.secrets.glob("*.token")]
    logs = "".join(file.read_text(errors="replace") for file in layout.logs.iterdir())
    assert not [secret for secret in held if secret in logs]


def test_a_second_supervisor_leaves_the_first_alone(layout: Layout) -> None:
    before = state.read(layout.state)
    assert control.start(layout).wait(READY_SECONDS) == 3
    after = state.read(layout.state)
    assert (after.pid, after.ports) == (before.pid, before.ports)


@pytest.mark.parametrize(
    "service", ["nats", "s3", "scheduler", "data", "trainer", "inference", "gateway", "envoy", "agent"]
)
def test_a_killed_process_comes_back_by_itself(layout: Layout, service: str) -> None:
    before = services(layout)[service]
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + BACK_SECONDS
    while (now := services(layout)[service]).state is not State.READY or now.pid == before.pid:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    until_answers(layout)


def test_after_kill_of_the_supervisor_up_brings_all_back_with_its_data(layout: Layout) -> None:
    with client(layout) as aios:
        aios.projects.create("kept")
    before = state.read(layout.state)
    os.kill(before.pid, signal.SIGKILL)
    deadline, left = time.monotonic() + 5, list[str]()
    while control.is_running(layout) or (left := alive(before.services)):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)

    up(layout)

    assert state.read(layout.state).ports == before.ports
    with client(layout) as aios:
        assert "projects/kept" in {project.name for project in aios.projects.list()}


def test_down_ends_everything_and_leaves_the_data(layout: Layout, tmp_path: Path) -> None:
    before = services(layout)
    killed = control.stop(layout, lambda _: None)
    assert killed == []
    assert alive(before) == []
    assert control.stop(layout, lambda _: None) == []
    assert {one.state for one in services(layout).values()} == {State.STOPPED}
    assert (layout.home / "records").is_dir()

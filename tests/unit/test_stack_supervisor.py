"""The supervisor with small processes in place of the real ones."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios.stack import child, control, probes, state
from aios.stack.child import Pace, Service, State, start_ticks
from aios.stack.layout import Layout
from aios.stack.ports import claim_any
from aios.stack.state import ServiceState
from aios.stack.supervisor import AlreadyRunning, Supervisor, clear_leftovers, hold

SERVER = """
import http.server, sys
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.make()
    return made


def server(name: str, **more: Any) -> Service:
    port = claim_any()
    command = (sys.executable, "-S", "-c", SERVER, str(port))
    return Service(name=name, command=command, probe=probes.http("127.0.0.1", port, "/", 200), **more)


def script(name: str, text: str, **more: Any) -> Service:
    return Service(name=name, command=(sys.executable, "-S", "-c", textwrap.dedent(text)), probe=None, **more)


@asynccontextmanager
async def running(layout: Layout, *services: Service, pace: Pace | None = None) -> AsyncIterator[Supervisor]:
    stop = asyncio.Event()
    supervisor = Supervisor(layout, services, dict(os.environ), pace=pace)
    task = asyncio.create_task(supervisor.run(stop))
    try:
        yield supervisor
    finally:
        stop.set()
        await task


async def until(layout: Layout, name: str, *states: State, after: int = 0) -> ServiceState:
    async with asyncio.timeout(20):
        while True:
            one = state.read(layout.state).services.get(name)
            if one is not None and one.state in states and one.restarts >= after:
                return one
            await asyncio.sleep(0.02)


async def said(layout: Layout, name: str, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in layout.log(name).read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_service_starts_only_when_those_it_needs_are_ready(layout: Layout) -> None:
    async with running(layout, server("last", after=frozenset({"first"})), server("first")):
        await until(layout, "last", State.READY)
        seen = state.read(layout.state).services
        assert seen["first"].state is State.READY
        assert seen["first"].start_ticks <= seen["last"].start_ticks


async def test_a_killed_service_comes_back_by_itself(layout: Layout) -> None:
    async with running(layout, server("one")):
        before = await until(layout, "one", State.READY)
        os.kill(before.pid, signal.SIGKILL)
        after = await until(layout, "one", State.READY, after=1)
        assert after.pid != before.pid


async def test_a_service_that_cannot_start_says_why_and_is_tried_again_ever_more_slowly(
    layout: Layout,
) -> None:
    failing = script("one", "raise SystemExit('no such file: model.bin')")
    async with running(layout, failing):
        one = await until(layout, "one", State.FAILING, after=2)
        assert one.message == "ended with exit code 1: no such file: model.bin"


async def test_a_hung_service_is_killed_and_started_again(layout: Layout) -> None:
    async with running(layout, server("one"), pace=Pace(watch=0.05, hung_probes=1)):
        before = await until(layout, "one", State.READY)
        os.kill(before.pid, signal.SIGSTOP)
        after = await until(layout, "one", State.READY, after=1)
        assert after.pid != before.pid


async def test_a_service_that_waits_for_another_is_left_alone(layout: Layout) -> None:
    asked = 0

    async def waits() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise probes.Waiting("not serving now")

    service = replace(server("one"), probe=waits)
    async with running(layout, service, pace=Pace(watch=0.01, hung_probes=1)):
        await until(layout, "one", State.READY)
        while asked < 5:  # noqa: ASYNC110  # the supervisor asks
            await asyncio.sleep(0.01)
        one = await until(layout, "one", State.READY)
        assert one.restarts == 0


async def test_what_others_need_stops_last(layout: Layout) -> None:
    order = layout.home / "order"
    trapping = """
        import signal, sys, time
        def end(*_):
            open({order!r}, "a").write({name!r} + " ")
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        while True: time.sleep(0.01)
    """
    names = ("nats", "gateway", "scheduler", "envoy", "agent")
    services = [script(name, trapping.format(order=str(order), name=name)) for name in names]
    async with running(layout, *services):
        for name in names:
            await until(layout, name, State.READY)
            await said(layout, name, "ready")
    assert order.read_text().split() == ["agent", "envoy", "scheduler", "gateway", "nats"]


async def test_a_service_that_ignores_sigterm_is_killed_and_named(layout: Layout) -> None:
    stubborn = script(
        "one",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(60)
        """,
        stop_seconds=0.2,
    )
    async with running(layout, stubborn):
        await until(layout, "one", State.READY)
        await said(layout, "one", "ready")
    one = state.read(layout.state).services["one"]
    assert (one.state, one.message) == (State.STOPPED, "did not stop in 0.2 s and was killed")


async def test_a_task_runs_once_and_nothing_waits_for_it(layout: Layout) -> None:
    async with running(layout, script("triton", "print('unpacked')", once=True), server("one")):
        assert (await until(layout, "triton", State.DONE)).restarts == 0
        await until(layout, "one", State.READY)
        assert state.read(layout.state).ready


def test_nothing_outlives_a_killed_supervisor(layout: Layout) -> None:
    port = claim_any()
    program = f"""
import asyncio, os, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from aios.stack import probes
from aios.stack.child import Service
from aios.stack.layout import Layout
from aios.stack.supervisor import Supervisor, hold
layout = Layout(Path({str(layout.home)!r}))
lock = hold(layout)
one = Service(name="one", command=(sys.executable, "-S", "-c", {SERVER!r}, "{port}"),
              probe=probes.http("127.0.0.1", {port}, "/", 200))
asyncio.run(Supervisor(layout, [one], dict(os.environ)).run(asyncio.Event()))
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    try:
        control.wait_ready(layout, 20, lambda _: None)
        assert control.is_running(layout)
    finally:
        supervisor.kill()
        supervisor.wait()
    before = state.read(layout.state).services["one"]
    deadline = time.monotonic() + 5
    while start_ticks(before.pid) == before.start_ticks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_ticks(before.pid) != before.start_ticks
    assert not control.is_running(layout)
    assert control.status(layout).services == {}


def test_leftovers_are_known_by_pid_and_start_time(layout: Layout) -> None:
    left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        ours = state.ServiceState(State.READY, left.pid, start_ticks(left.pid))
        reused = state.ServiceState(State.READY, other.pid, start_ticks(other.pid) - 1)
        assert clear_leftovers(state.StackState(services={"one": ours, "two": reused})) == ["one"]
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        left.kill()
        other.kill()
        left.wait()
        other.wait()


def test_one_home_has_one_supervisor(layout: Layout) -> None:
    with hold(layout), pytest.raises(AlreadyRunning):
        hold(layout)
    hold(layout).close()


def test_the_lock_of_a_dead_supervisor_is_waited_for(layout: Layout) -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    layout.lock.write_text(str(ended.pid))
    program = "import fcntl, time; fcntl.flock(0, fcntl.LOCK_EX); print('held', flush=True); time.sleep(0.5)"
    with layout.lock.open("a") as file:
        lingering = subprocess.Popen(
            [sys.executable, "-S", "-c", program], stdin=file, stdout=subprocess.PIPE
        )
    assert lingering.stdout is not None
    lingering.stdout.readline()
    assert not control.is_running(layout)
    hold(layout).close()
    lingering.communicate()


def test_a_lock_that_is_held_and_not_signed_yet_is_a_running_stack(layout: Layout) -> None:
    with hold(layout) as lock:
        lock.truncate(0)
        assert control.is_running(layout)


def test_a_log_that_grew_too_long_is_kept_once_more(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a long line\n")
        child.rotate(log, limit=10)
        writer.write(b"next\n")
    assert log.read_bytes() == b"next\n"
    assert log.with_suffix(".log.1").read_bytes() == b"a long line\n"


def test_the_state_survives_its_file(layout: Layout) -> None:
    services = {"one": state.ServiceState(State.READY, 7, 8, 9, "fine")}
    now = state.StackState("http://127.0.0.1:8080", {"envoy": 8080}, 3, "", services)
    layout.state.write_text(state.to_json(now))
    assert state.read(layout.state) == now
    layout.state.write_text("half a fi")
    assert state.read(layout.state) == state.StackState()


async def test_a_restart_is_another_process_and_no_death(layout: Layout) -> None:
    async with running(layout, server("one")):
        before = await until(layout, "one", State.READY)
        await asyncio.to_thread(control.restart, layout, "one", 20)
        after = await until(layout, "one", State.READY)
        assert after.pid != before.pid
        assert after.restarts == 0
        with pytest.raises(control.StackFailed, match="no service 'two'"):
            await asyncio.to_thread(control.restart, layout, "two", 20)


async def test_a_process_goes_on_until_its_successor_can_take_over(layout: Layout) -> None:
    sign, broken = layout.home / "sign", layout.home / "broken"
    text = f"""
        import pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("told to end", flush=True), sys.exit()))
        if pathlib.Path({str(broken)!r}).exists():
            sys.exit("does not load")
        pathlib.Path({str(sign)!r}).touch()
        print("loaded", flush=True)
        while True: time.sleep(0.01)
    """
    async with running(layout, script("one", text, hand_over=sign), pace=Pace(pause=0.05)):
        before = await until(layout, "one", State.READY)
        await said(layout, "one", "loaded")
        broken.touch()
        restart = asyncio.create_task(asyncio.to_thread(control.restart, layout, "one", 20))
        await until(layout, "one", State.FAILING)
        assert start_ticks(before.pid) == before.start_ticks, "an upgrade that does not load ends nothing"
        broken.unlink()
        await said(layout, "one", "told to end")
        await restart
        async with asyncio.timeout(20):
            while start_ticks(before.pid) == before.start_ticks:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

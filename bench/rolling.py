"""Every service restarted, one after another, under a steady load whose clients never ask again themselves.

As `aios restart` does it, then one of two replicas: ended in good order, and killed. Calls per second are the same for
each kind (`bench/steady.py`): reads and writes over gRPC, HTTP/JSON, predictions at both doors. A failed call is any
that did not succeed within 20 s.
"""

import asyncio
import collections
import os
import signal
import time
from collections.abc import Awaitable, Callable

import psutil

from aios.stack import control
from aios.stack.services import RESTART_ORDER
from bench import model, stack
from bench.report import Report
from bench.stack import Stack
from bench.steady import Steady, steady

QUIET_SECONDS = 2.0  # before and after each restart
RESTART_SECONDS = 60.0
REPLICAS = 2


async def main() -> None:
    report = Report("rolling")
    report.say("starting a stack and two replicas")
    with stack.running() as running:
        await model.serve(running, REPLICAS)
        async with steady(running, predictions=True) as seen:
            await asyncio.sleep(QUIET_SECONDS)
            for service in RESTART_ORDER:
                await _during(report, seen, service, lambda name=service: _restart(running, name))  # type: ignore[misc]
            await _during(report, seen, "replica", lambda: _end_replica(running, signal.SIGTERM))
            await _during(report, seen, "replica_killed", lambda: _end_replica(running, signal.SIGKILL))
        failed = [answer for answer in seen.answers if answer.error]
        report.figure("calls", len(seen.answers))
        report.bar("failed_calls", len(failed), 0)
    report.finish()


async def _during(report: Report, seen: Steady, name: str, change: Callable[[], Awaitable[None]]) -> None:
    began = time.monotonic()
    await change()
    report.figure(f"{name}_seconds", time.monotonic() - began)
    await asyncio.sleep(QUIET_SECONDS)
    found = seen.between(began, time.monotonic())
    report.figure(f"{name}_slowest_call_ms", max(answer.seconds for answer in found) * 1000)
    errors = collections.Counter(f"{answer.kind}: {answer.error[:150]}" for answer in found if answer.error)
    report.figure(f"{name}_failed", errors.total())
    for error, times in errors.most_common(5):
        report.say(f"  {times} x {error}")


async def _restart(running: Stack, service: str) -> None:
    await asyncio.to_thread(control.restart, running.layout, service, RESTART_SECONDS)


async def _end_replica(running: Stack, number: signal.Signals) -> None:
    """Signal one replica's model server, and wait until all replicas answer again."""
    replicas = _servers(running)
    os.kill(replicas[0].pid, number)
    until = time.monotonic() + RESTART_SECONDS
    while replicas[0].is_running() and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    async with running.client() as client:
        while time.monotonic() < until:
            [revision] = [each async for each in client.deployments.history(model.NAME, 1)]
            ready = [each for each in revision.replicas if each.state == each.STATE_READY]
            if len(ready) == REPLICAS and len(_servers(running)) == REPLICAS:
                return
            await asyncio.sleep(0.25)
    raise RuntimeError("the replica did not come back")


def _servers(running: Stack) -> list[psutil.Process]:
    home = str(running.home)
    found = []
    for process in psutil.process_iter():
        try:
            if "tritonserver" in process.name() and home in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    asyncio.run(main())

"""Deployments change under a steady load of predictions at both doors, whose clients never ask again themselves.

Each change is made once within at least REQUESTS predictions (three of four over gRPC):

    rolling      a new version takes over
    broken       a new version that cannot load, given up
    canary       a good revision goes on trial with 10%, and its trial is ended by hand; its share is counted
    scale        one replica, three, one
    killed       kill -9 of the model server of one replica of two
    envoy        other deployments come and go, tokens are made and revoked: listeners, clusters and routes change
    gates        a revision that fails on real data goes on trial with 10%: its own answers fail, and nothing else

and then without load `wake`: a deployment at zero is asked, and its first answer is waited for.
"""

import asyncio
import collections
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aios.client import AsyncClient
from aios.errors import AiosError
from aios.inference.v1 import deployment_pb2 as pb
from bench import serving_load, serving_models, stack
from bench.report import Report, millis, quantile
from bench.serving_load import Seen
from bench.stack import Stack

NAME = serving_models.NAME
REQUESTS = 5000
PER_SECOND = 150.0
SLOWEST_MS = 250.0
TRIAL_REQUESTS = 5000
CHANGE_SECONDS = 60.0
WAKES = 3
REPORT_SECONDS = 2.0
CANARY = pb.RolloutPolicy(kind=pb.RolloutPolicy.KIND_CANARY, steps=[10, 50], step_seconds=600)
Change = Callable[[Seen], Awaitable[None]]


async def main() -> None:
    report = Report("serving_rollout")
    report.say("starting a stack")
    wanted = sys.argv[1:]
    with stack.running(AIOS_DRAIN_SECONDS="3") as running:
        async with running.client() as client:
            changes = Changes(report, running, client)
            await changes.prepare()
            for name, change in changes.all().items():
                if not wanted or name in wanted:
                    await _under_load(report, running, name, change)
            if not wanted or "wake" in wanted:
                await changes.wake()
    report.finish()


async def _under_load(report: Report, running: Stack, name: str, change: Change) -> None:
    async with serving_load.steady(running, NAME, PER_SECOND) as seen:
        await asyncio.sleep(1)
        began = time.monotonic()
        await change(seen)
        report.figure(f"{name}_seconds", time.monotonic() - began)
        while len(seen.answers) < REQUESTS:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    answers = seen.answers
    failed = [each for each in answers if each.error]
    report.figure(f"{name}_requests", len(answers))
    if name == "gates":  # what the bad revision answers is what the trial finds out
        own = [each for each in failed if "ONNXRuntimeError" in each.error]
        report.figure("gates_failed_answers_of_the_bad_revision", len(own))
        failed = [each for each in failed if each not in own]
    report.bar(f"{name}_failed", len(failed), 0)
    report.bar(f"{name}_slowest_ms", max(each.seconds for each in answers) * 1000, SLOWEST_MS)
    for share, value in millis([each.seconds for each in answers]).items():
        report.figure(f"{name}_{share}_ms", value)
    report.figure(f"{name}_p999_ms", quantile((each.seconds for each in answers), 0.999) * 1000)
    for error, times in collections.Counter(each.error[:150] for each in failed).most_common(5):
        report.say(f"  {times} x {error}")


class Changes:
    """What is done to the deployment."""

    def __init__(self, report: Report, running: Stack, client: AsyncClient) -> None:
        self._report = report
        self._running = running
        self._client = client
        self._versions: dict[str, str] = {}
        self._delay = 0

    def all(self) -> dict[str, Change]:
        """Every change by its name."""
        names = ("rolling", "broken", "canary", "scale", "killed", "envoy", "gates")
        return {name: getattr(self, name) for name in names}

    async def prepare(self) -> None:
        """Register the models and serve the right one."""
        contents = {
            "good": serving_models.good(),
            "failing": serving_models.failing(),
            "broken": serving_models.BROKEN,
        }
        for name, content in contents.items():
            self._versions[name] = await serving_models.register(self._running, content)
        await self._deploy("good")

    async def rolling(self, seen: Seen) -> None:
        await self._deploy("good")
        await self._rest()

    async def broken(self, seen: Seen) -> None:
        try:
            await self._deploy("broken")
        except AiosError as error:
            self._report.say(f"  {error.message[:150]}")
        await self._deploy("good")
        await self._rest()

    async def canary(self, seen: Seen) -> None:
        await self._deploy("good", rollout=CANARY, wait=False)
        on_trial = await self._trial()
        began = time.monotonic()
        while sum(seen.by_revision(began).values()) < TRIAL_REQUESTS:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        found = seen.by_revision(began)
        percent = 100 * found[on_trial] / sum(found.values())
        self._report.figure("canary_percent_of_10", percent)
        self._report.bar("canary_share_off_by_points", abs(percent - 10), 2)
        await self._client.deployments.rollback(NAME, reason="enough seen")
        await self._rest()

    async def scale(self, seen: Seen) -> None:
        for count in (3, 1):
            await self._client.deployments.scale(NAME, count)
            await self._rest(count)

    async def killed(self, seen: Seen) -> None:
        await self._client.deployments.scale(NAME, 2)
        await self._rest(2)
        before = await serving_models.servers(self._client)
        os.kill(before[0].pid, signal.SIGKILL)
        began = time.monotonic()
        while before[0].is_running() or len(await serving_models.servers(self._client)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await self._rest(2)
        self._report.figure("killed_back_seconds", time.monotonic() - began)
        await self._client.deployments.scale(NAME, 1)
        await self._rest(1)

    async def envoy(self, seen: Seen) -> None:
        for number in range(3):
            await self._client.deployments.deploy(self._versions["good"], f"other-{number}", wait=True)
            made = await self._client.tokens.create(role="viewer")
            await self._client.tokens.revoke(made.token.name)
        for number in range(3):
            await self._client.deployments.delete(f"other-{number}")
        await asyncio.sleep(5)

    async def gates(self, seen: Seen) -> None:
        await self._deploy("failing", rollout=CANARY, wait=False)
        on_trial = await self._trial()
        began = time.monotonic()
        while (await self._client.deployments.get(NAME)).state == pb.Deployment.STATE_UPDATING:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - began
        self._report.say(f"  {(await self._client.deployments.get(NAME)).state_message}")
        self._report.bar("gates_rolled_back_seconds", seconds, 30)
        await asyncio.sleep(2)
        if seen.by_revision(time.monotonic() - 1)[on_trial]:
            raise RuntimeError("the bad revision still answers")

    async def wake(self) -> None:
        """Ask a deployment at zero, and wait for the answer."""
        await self._deploy("good")
        seconds, failed = list[float](), 0
        for _ in range(WAKES):
            await self._rest()
            await asyncio.sleep(REPORT_SECONDS)  # what woke it last is told once more
            await self._client.deployments.scale(NAME, 0)
            await self._rest(0)
            async with serving_load.steady(self._running, NAME, 20) as seen:
                while not seen.answers:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            failed += sum(bool(each.error) for each in seen.answers)
            seconds.append(max(each.seconds for each in seen.answers))
            self._report.say(f"  woke after {seconds[-1]:.2f} s, {len(seen.answers)} requests held")
        self._report.bar("wake_failed", failed, 0)
        self._report.bar("wake_from_zero_seconds", sorted(seconds)[len(seconds) // 2], 1.5)

    async def _deploy(self, version: str, *, wait: bool = True, **options: Any) -> None:
        self._delay += 1  # so that it is another spec each time
        await self._client.deployments.deploy(
            self._versions[version], NAME, batch_delay_micros=self._delay, wait=wait, **options
        )

    async def _trial(self) -> str:
        """The number of the revision that is on trial, once it is."""
        while True:
            async for each in self._client.deployments.history(NAME, 1):
                if each.state == pb.Revision.STATE_TRIAL and each.traffic.percent:
                    found = await self._client.deployments.traffic(NAME, 1).__anext__()
                    if found.HasField("effect_time"):
                        return str(each.name.rpartition("/")[2])
            await asyncio.sleep(0.1)

    async def _rest(self, replicas: int = 1) -> None:
        """Wait until one revision holds so many replicas, all ready, and no other holds any."""
        until = time.monotonic() + CHANGE_SECONDS
        while time.monotonic() < until:
            held = [each async for each in self._client.deployments.history(NAME, 10) if each.replicas]
            ready = [one for each in held for one in each.replicas if one.state == pb.Replica.STATE_READY]
            if (
                len(held) == min(1, replicas)
                and len(ready) == len(held[0].replicas if held else ()) == replicas
            ):
                return
            await asyncio.sleep(0.25)
        raise RuntimeError(f"it did not come to rest with {replicas} replicas")


if __name__ == "__main__":
    asyncio.run(main())

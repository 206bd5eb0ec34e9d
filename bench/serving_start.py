"""How soon a model answers: from the object store to the first right answer, and out of its sleep.

`first`: a model of 10 MB is in the object store, registered, and was never served here. The clock runs from the call that
deploys it until a client that asks at the door has the right answer.
`wake`: the same deployment is put to sleep, its replica gone; the clock runs from one request to its answer. It is held,
not failed, and asked once.
"""

import asyncio
import math
import statistics
import time

import httpx

from aios.client import AsyncClient
from aios.inference.v1 import deployment_pb2 as pb
from bench import serving_models, stack
from bench.report import Report

TIMES = 5
FIRST_SECONDS, WAKE_SECONDS = 2.5, 1.5
ASK_EVERY_SECONDS = 0.02
PATIENCE_SECONDS = 120.0
REPORT_SECONDS = 2.0


async def main() -> None:
    report = Report("serving_start")
    report.say("starting a stack")
    first, wakes = list[float](), list[float]()
    with stack.running() as running:
        headers = {"authorization": f"Bearer {running.token}"}
        async with (
            running.client() as client,
            httpx.AsyncClient(
                base_url=running.state.address, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS
            ) as web,
        ):
            for number in range(TIMES):
                name = f"large-{number}"
                content, right = serving_models.large(number)
                version = await serving_models.register(running, content, name)
                first.append(await _first(client, web, version, name, right))
                report.say(f"  {len(content) / 1e6:.1f} MB: first answer after {first[-1]:.2f} s")
                wakes.append(await _wake(client, web, name, right))
                report.say(f"  woke after {wakes[-1]:.2f} s")
                await client.deployments.delete(name)
    report.bar("first_answer_seconds", statistics.median(first), FIRST_SECONDS)
    report.figure("first_answer_slowest_seconds", max(first))
    report.bar("wake_from_zero_seconds", statistics.median(wakes), WAKE_SECONDS)
    report.figure("wake_slowest_seconds", max(wakes))
    report.finish()


async def _first(
    client: AsyncClient, web: httpx.AsyncClient, version: str, name: str, right: list[float]
) -> float:
    began = time.monotonic()
    await client.deployments.deploy(version, name)
    while not _is_right(await _ask(web, name), right):
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise RuntimeError(f"{name} does not answer")
        await asyncio.sleep(ASK_EVERY_SECONDS)
    return time.monotonic() - began


async def _wake(client: AsyncClient, web: httpx.AsyncClient, name: str, right: list[float]) -> float:
    await asyncio.sleep(REPORT_SECONDS)  # what was asked just now is counted
    await client.deployments.scale(name, 0)
    until = time.monotonic() + PATIENCE_SECONDS
    while not await _sleeps(client, name):
        if time.monotonic() > until:
            raise RuntimeError(f"{name} does not go to sleep")
        await asyncio.sleep(0.2)
    await asyncio.sleep(REPORT_SECONDS)
    began = time.monotonic()
    answer = await _ask(web, name)
    took = time.monotonic() - began
    if not _is_right(answer, right):
        raise RuntimeError(f"not held: {answer.status_code} {answer.text[:200]}")
    return took


async def _sleeps(client: AsyncClient, name: str) -> bool:
    """Whether it is at zero and nothing is left of its replica."""
    if (await client.deployments.get(name)).state != pb.Deployment.STATE_ASLEEP:
        return False
    return not any([each.replicas async for each in client.deployments.history(name, 1)])


async def _ask(web: httpx.AsyncClient, name: str) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]}
    return await web.post(f"/v2/models/{name}/infer", json=body)


def _is_right(answer: httpx.Response, right: list[float]) -> bool:
    if answer.status_code != httpx.codes.OK:
        return False
    found = answer.json()["outputs"][0]["data"]
    return all(math.isclose(a, b, rel_tol=1e-2, abs_tol=1e-3) for a, b in zip(found, right, strict=True))


if __name__ == "__main__":
    asyncio.run(main())

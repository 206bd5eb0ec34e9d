"""More deployments than the pool has room for: 20 in 5 slots, each asked in turn, all of them answered.

Each deployment may sleep (`min_replicas` 0) and none does so by itself: whoever is asked and finds no room has the one
sleep that was asked the longest ago. One deployment is pinned (`min_replicas` 1) and must answer at once throughout.
A failed request is any that is not answered right within ANSWER_SECONDS; clients never ask again themselves.
"""

import asyncio
import random
import time

import httpx

from aios.client import AsyncClient
from aios.inference.v1 import deployment_pb2 as pb
from bench import serving_models, stack
from bench.report import Report, quantile
from bench.stack import Stack

DEPLOYMENTS, SLOTS = 20, 5
CPU_MILLIS = 500
ROUNDS = 1
ANSWER_SECONDS = 60.0
PINNED = "pinned"
MAY_SLEEP = pb.ScalingPolicy(min_replicas=0, max_replicas=1, idle_seconds=3600)
STAYS = pb.ScalingPolicy(min_replicas=1, max_replicas=1)


async def main() -> None:
    report = Report("serving_slots")
    report.say(f"starting a stack with {SLOTS} slots")
    with stack.running(AIOS_NODE_CPU_MILLIS=str(SLOTS * CPU_MILLIS)) as running:
        async with running.client() as client:
            version = await serving_models.register(running, serving_models.good())
            names = [PINNED, *(f"model-{number}" for number in range(DEPLOYMENTS - 1))]
            began = time.monotonic()
            for name in names:
                rule = STAYS if name == PINNED else MAY_SLEEP
                await client.deployments.deploy(version, name, scaling=rule, wait=True)
            report.figure("deployed_seconds_each", (time.monotonic() - began) / DEPLOYMENTS)
            await _ask_all(report, running, names)
            await _look(report, client)
    report.finish()


async def _ask_all(report: Report, running: Stack, names: list[str]) -> None:
    headers = {"authorization": f"Bearer {running.token}"}
    took: dict[str, list[float]] = {}
    failed: list[str] = []
    async with httpx.AsyncClient(
        base_url=running.state.address, headers=headers, trust_env=False, timeout=ANSWER_SECONDS
    ) as web:
        for _ in range(ROUNDS):
            for name in random.sample(names, len(names)):
                began = time.monotonic()
                problem = await _ask(web, name)
                took.setdefault(name, []).append(time.monotonic() - began)
                report.say(f"  {name}: {problem or 'right'} after {took[name][-1]:.2f} s")
                if problem:
                    failed.append(name)
    others = [seconds for name, found in took.items() if name != PINNED for seconds in found]
    cold = [seconds for seconds in others if seconds > 0.25]
    report.figure("requests", sum(map(len, took.values())))
    report.figure("found_asleep", len(cold))
    report.bar("failed", len(failed), 0)
    report.figure("asleep_p50_seconds", quantile(cold, 0.5))
    report.figure("asleep_slowest_seconds", max(cold, default=0.0))
    report.figure("pinned_slowest_seconds", max(took[PINNED]))


async def _ask(web: httpx.AsyncClient, name: str) -> str:
    """What is wrong with the answer; empty where nothing is."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]}
    try:
        answer = await web.post(f"/v2/models/{name}/infer", json=body)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != httpx.codes.OK:
        return f"{answer.status_code} {answer.text[:150]}"
    return "" if answer.json()["model_name"] == name else "another model answered"


async def _look(report: Report, client: AsyncClient) -> None:
    found = [each async for each in client.deployments.list()]
    awake = [each for each in found if each.state == pb.Deployment.STATE_READY]
    report.bar("awake_at_the_end", len(awake), SLOTS)
    report.bar("pinned_awake", any(each.name.endswith(f"/{PINNED}") for each in awake), at_least=1)
    for each in found[:3]:
        report.say(f"  {each.name.rpartition('/')[2]}: {each.state_message}")


if __name__ == "__main__":
    asyncio.run(main())

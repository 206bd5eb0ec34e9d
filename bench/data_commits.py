"""32 committers, 100 commits each, to one dataset of a running data service: one line of versions, none lost.

Then the same through two services with an index each and one bucket, where the conditional PUT alone decides.
"""

import asyncio
import hashlib
import os
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from aios.errors import DeadlineExceeded, ResourceExhausted
from bench.report import Report, millis
from services.data import layout
from services.data.logs import Change, Entry
from tests.servers import s3_server
from tests.service.data_service import Platform, running, settings_at

T = TypeVar("T")
COMMITTERS = 32
COMMITS = int(os.environ.get("COMMITS", "100"))
NAME = "projects/demo/datasets/d"


async def commit(platforms: list[Platform], number: int, commits: int, took: list[float]) -> None:
    """One committer: the same small files, another one of them each time."""
    caller = platforms[number % len(platforms)].caller()
    for each in range(commits):
        content = f"{number}-{each}".encode()
        files = [await patiently(caller.store, "mine", content)]
        began = time.perf_counter()
        await patiently(caller.commit, NAME, files, message=content.decode(), request_id=str(uuid.uuid4()))
        took.append(time.perf_counter() - began)


async def patiently(call: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
    """Ask again where the service says that too many ask at once, or is too slow to answer: it is the same request."""
    while True:
        try:
            return await call(*args, **more)
        except (ResourceExhausted, DeadlineExceeded):
            await asyncio.sleep(random.uniform(0.05, 0.5))


async def whole(platform: Platform, expected: int) -> bool:
    """Whether the log in the bucket has every commit once, each on top of the one before."""
    listed = await platform.blobs.entries(f"{layout.logs('demo')}datasets/d/")
    log = [Entry.decode(await platform.blobs.get(each.key)) for each in listed]
    commits = [entry for entry in log if entry.change is Change.COMMITTED]
    numbers = [entry.sequence for entry in log] == list(range(1, len(log) + 1))
    messages = {entry.body["message"] for entry in commits}
    before = ""
    for entry in commits:
        stored = await platform.blobs.get(layout.manifest("demo", entry.manifest))
        manifest = await platform.parts.contents.manifest("demo", entry.manifest)
        parents = (before,) if before else ()
        if hashlib.sha256(stored).hexdigest() != entry.manifest or manifest.parents != parents:
            return False
        before = entry.manifest
    return numbers and len(commits) == len(messages) == expected


async def measure(report: Report, name: str, services: int, commits: int, folder: Path) -> None:
    took: list[float] = []
    with s3_server(folder / name / "s3") as s3:
        async with AsyncExitStack() as stack:
            platforms: list[Platform] = []
            for number in range(services):
                settings = s3.settings(settings_at(folder / name / str(number)))
                platforms.append(await stack.enter_async_context(running(replace(settings))))
                if not number:
                    await platforms[0].caller().dataset("d")
            began = time.perf_counter()
            await asyncio.gather(*(commit(platforms, each, commits, took) for each in range(COMMITTERS)))
            seconds = time.perf_counter() - began
            right = await whole(platforms[0], COMMITTERS * commits)
    report.figure(f"{name}_commits_per_second", len(took) / seconds)
    report.figure(f"{name}_commit_p50_ms", millis(took)["p50"])
    report.bar(f"{name}_linear_and_none_lost", float(right), at_least=1.0)


async def main() -> None:
    report = Report("data_commits")
    report.figures["commits_each"] = COMMITS
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        await measure(report, "one_service", 1, COMMITS, Path(home))
        await measure(report, "two_services", 2, max(1, COMMITS // 10), Path(home))
    report.finish()


if __name__ == "__main__":
    asyncio.run(main())

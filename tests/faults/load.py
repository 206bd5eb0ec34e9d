"""What goes on while things break: jobs are submitted, a run trains, data is pushed, a client predicts."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import numpy as np

from aios.client import AsyncClient
from aios.common.v1 import resources_pb2
from aios.errors import Aborted, AiosError, DeadlineExceeded, ResourceExhausted, Unavailable
from aios.runtime.channel import connect
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.scheduler.v1 import scheduler_service_pb2 as pb
from aios.trainer.v1 import run_pb2
from tests.faults.platform import Platform

T = TypeVar("T")
TEMPORARY = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted)
"""What a caller may meet while something is broken, and may try again."""
MODEL = "digits"
SIDE = 8  # pixels: a step of training takes milliseconds
DEPLOY_SECONDS = 120.0
WORK = """
import fcntl, os, sys, time
path, seconds, code, fork = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
epoch = os.environ["AIOS_EPOCH"]
file = open(path, "a")
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    os.write(file.fileno(), f"overlap {epoch}\\n".encode())
    sys.exit(99)
os.write(file.fileno(), f"begin {epoch}\\n".encode())
if fork and os.fork() == 0:
    os.setsid()
    file.close()
    time.sleep(600)
time.sleep(seconds)
os.write(file.fileno(), f"end {epoch}\\n".encode())
os._exit(code)
"""
"""A job: holds a lock while it runs, so that two attempts at once are seen, and writes down what it did."""


class Kind(StrEnum):
    """How a job is meant to end."""

    SUCCEEDS = "succeeds"
    FORKS = "forks"  # succeeds, and leaves a process in a session of its own behind
    FAILS = "fails"
    CANCELLED = "cancelled"


@dataclass
class Accepted:
    """A job that was answered for."""

    name: str
    kind: Kind


@dataclass
class Load:
    """Everything that was asked for, and what was promised in return."""

    platform: Platform
    rng: random.Random
    jobs: dict[str, Accepted] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    datasets: dict[str, str] = field(default_factory=dict)
    """Version name to the SHA-256 of its one file."""
    predicted: list[tuple[float, str]] = field(default_factory=list)
    """When, and the reason of the error; empty for a right answer."""
    surprises: list[str] = field(default_factory=list)
    """Answers that no fault excuses."""
    submitting: asyncio.Event = field(default_factory=asyncio.Event)
    excused: set[type[AiosError]] = field(default_factory=set)
    """Errors that what is broken now explains."""
    serves: bool = False
    """Whether runs are trained and predictions asked for."""
    busy: int = 0
    """Calls whose answer is still awaited."""

    async def serve(self, client: AsyncClient) -> None:
        """Train a first model and serve it; from now on, runs and predictions belong to the load."""
        folder = self.platform.home / "digits"
        write_images(folder)
        version = await client.datasets.push(MODEL, folder)
        self._data = version.name
        run = await client.runs.wait((await self._submit_run(client, epochs=2)).name)
        if run.state != run_pb2.Run.STATE_SUCCEEDED:
            raise AssertionError(f"the first run failed: {run}")
        await client.deployments.deploy(run.model_version, MODEL)
        await client.deployments.wait(MODEL, seconds=DEPLOY_SECONDS)
        self._question = np.load(folder / "test" / "images.npy")[:3, None].astype(np.float32) / 255
        self._answer = (await client.predict(MODEL, {"image": self._question})).outputs["logits"]
        self.serves = True

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._submit_jobs())
            tasks.create_task(self._push())
            if self.serves:
                tasks.create_task(self._train())
                tasks.create_task(self._predict())

    async def insist(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Call until it is answered. None, and a surprise, for an answer that no fault excuses."""
        self.busy += 1
        try:
            while True:
                try:
                    return await call()
                except TEMPORARY:
                    await asyncio.sleep(0.2)
                except AiosError as error:
                    if type(error) not in self.excused:
                        self.surprises.append(
                            f"{what}: {type(error).__name__} {error.reason}: {error.message}"
                        )
                        return None
                    await asyncio.sleep(0.2)
        finally:
            self.busy -= 1

    async def _submit_jobs(self) -> None:
        credentials = self.platform.client().credentials
        async with connect(credentials.target, credentials.current_token) as channel:
            stub = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self.submitting.wait()
                    tasks.create_task(self._submit_job(stub))
                    await asyncio.sleep(self.rng.expovariate(2.0))

    async def _submit_job(self, stub: scheduler_service_pb2_grpc.SchedulerServiceStub) -> None:
        kind = self.rng.choices(list(Kind), weights=[6, 1, 1, 2])[0]
        job_id = f"w{self.rng.getrandbits(48):012x}"
        seconds = 30.0 if kind is Kind.CANCELLED else self.rng.choice((0.0, self.rng.uniform(0.2, 4.0)))
        file = self.platform.effects / job_id
        request = pb.CreateJobRequest(
            parent="projects/default",
            job_id=job_id,
            job=job_pb2.Job(
                spec=job_pb2.JobSpec(
                    command=(
                        *("python", "-I", "-S", "-c", WORK, str(file), str(seconds)),
                        *("3" if kind is Kind.FAILS else "0", "1" if kind is Kind.FORKS else "0"),
                    ),
                    max_restarts=1 if kind is Kind.FAILS else 3,
                    resources=resources_pb2.Resources(cpu_millis=100),
                )
            ),
            request_id=str(UUID(int=self.rng.getrandbits(128), version=4)),
        )
        job = await self.insist(f"create {job_id}", lambda: stub.CreateJob(request, timeout=5.0))
        if job is None:
            return
        self.jobs[job.name] = Accepted(job.name, kind)
        if kind is Kind.CANCELLED:
            await asyncio.sleep(self.rng.uniform(0.0, 3.0))
            cancel = pb.CancelJobRequest(name=job.name)
            await self.insist(f"cancel {job_id}", lambda: stub.CancelJob(cancel, timeout=5.0))

    async def _train(self) -> None:
        """One run after the other."""
        async with self.platform.client() as client:
            while True:
                await self.submitting.wait()
                run = await self.insist("submit run", lambda: self._submit_run(client))
                if run is None:
                    return
                self.runs.append(run.name)
                while run is not None and run.state not in ENDED:
                    await asyncio.sleep(0.5)
                    run = await self.insist("get run", lambda name=run.name: client.runs.get(name))  # type: ignore[misc]

    async def _submit_run(self, client: AsyncClient, epochs: int = 20) -> run_pb2.Run:
        spec = {
            "recipe": "image_classifier",
            "dataset": self._data,
            "model": MODEL,
            "seed": 1,
            "hyperparameters": {"epochs": epochs, "batch_size": 20, "shift_pixels": 0},
            "checkpoint_steps": 40,
            "max_restarts": 100,
        }
        return await client.runs.submit(spec)

    async def _push(self) -> None:
        """A new version of a dataset every few seconds."""
        file = self.platform.home / "pushed"
        async with self.platform.client() as client:
            while True:
                await self.submitting.wait()
                content = self.rng.randbytes(self.rng.choice((100, 10_000, 300_000)))
                file.write_bytes(content)
                version = await self.insist("push", lambda: _whole(client, file))
                if version is not None:
                    self.datasets[version] = hashlib.sha256(content).hexdigest()
                await asyncio.sleep(self.rng.uniform(1.0, 4.0))

    async def _predict(self) -> None:
        async with self.platform.client() as client:
            while True:
                failed = ""
                try:
                    answer = await client.predict(MODEL, {"image": self._question}, timeout=3.0)
                    if not np.allclose(answer.outputs["logits"], self._answer, atol=1e-4):
                        self.surprises.append(f"a wrong answer: {answer.outputs['logits']}")
                except TEMPORARY as error:
                    failed = error.reason
                except AiosError as error:
                    failed = error.reason
                    if type(error) not in self.excused:
                        self.surprises.append(
                            f"predict: {type(error).__name__} {error.reason}: {error.message}"
                        )
                self.predicted.append((time.monotonic(), failed))
                await asyncio.sleep(0.25)


ENDED = frozenset({run_pb2.Run.STATE_SUCCEEDED, run_pb2.Run.STATE_FAILED, run_pb2.Run.STATE_CANCELLED})


async def _whole(client: AsyncClient, file: Path) -> str:
    return str((await client.datasets.push("pushed", file)).name)


def write_images(folder: Path) -> None:
    """A dataset that a network learns in no time: the bright quarter of the image is its label."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 50)):
        labels = rng.integers(0, 4, count)
        images = rng.integers(0, 60, (count, SIDE, SIDE), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            y, x = divmod(int(label), 2)
            image[y * 4 : y * 4 + 4, x * 4 : x * 4 + 4] += 150
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / "images.npy", images)
        np.save(folder / split / "labels.npy", labels.astype(np.int64))


async def cancelled(task: "asyncio.Task[None]") -> None:
    """End a task and wait until it is gone."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

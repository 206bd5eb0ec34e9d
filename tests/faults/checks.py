"""What must hold once the dust has settled, asked of the public door and read from the records themselves."""

import asyncio
import hashlib
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from aios.client import AsyncClient
from aios.data.v1 import data_service_pb2 as data_pb
from aios.data.v1 import data_service_pb2_grpc
from aios.errors import AiosError
from aios.records.dialect import sqlite
from aios.scheduler.v1 import job_pb2, node_pb2
from aios.stack.child import State
from aios.trainer.v1 import run_pb2
from tests.faults.breaks import Breaker
from tests.faults.load import ENDED, Kind, Load
from tests.faults.platform import Platform

FINAL = (job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED)
FINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled"})
EXPECTED = {
    Kind.SUCCEEDS: job_pb2.Job.STATE_SUCCEEDED,
    Kind.FORKS: job_pb2.Job.STATE_SUCCEEDED,
    Kind.FAILS: job_pb2.Job.STATE_FAILED,
    Kind.CANCELLED: job_pb2.Job.STATE_CANCELLED,
}
SETTLE_SECONDS = 120.0
"""A job whose attempts were ended three times waits up to eight seconds; a busy machine makes all of it slower."""
RUN_SECONDS = 300.0
"""A run's seconds of work, on two cores that everything else has just been restarted on."""
RECORDS = ("scheduler", "data", "trainer", "inference", "identity")
RIGHT_ANSWERS = 3


@dataclass
class Checker:
    """Knows what has been checked before, so that a long run does not check it for ever."""

    platform: Platform
    load: Load
    breaker: Breaker
    done: set[str] = field(default_factory=set)
    """Jobs that were seen to end well."""
    seen_revision: int = 0
    ends: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    pulled: set[str] = field(default_factory=set)

    async def settle(self, seconds: float = SETTLE_SECONDS) -> tuple[float, str]:
        """Wait until nothing is under way any more. Returns how long that took, and for what it waited last.

        Raises:
            AssertionError: it did not come to rest; says what is still open.
        """
        began = time.monotonic()
        waits, last = "nothing was asked yet", ""
        async with self.platform.client() as client:
            while time.monotonic() - began < seconds:
                try:
                    async with asyncio.timeout(10.0):
                        waits = await self._unsettled(client, began)
                except (AiosError, TimeoutError, sqlite.Error, OSError) as error:
                    waits = f"{type(error).__name__}: {error}"
                if not waits:
                    return time.monotonic() - began, last
                last = waits
                await asyncio.sleep(0.25)
        raise AssertionError(f"not settled after {seconds:g} s: {waits}")

    async def _unsettled(self, client: AsyncClient, since: float) -> str:
        """What is still open; empty when nothing is."""
        state = self.platform.state
        if not state.ready:
            return "services: " + ", ".join(
                f"{name} {one.state} {one.message}"
                for name, one in state.services.items()
                if one.state not in (State.READY, State.DONE)
            )
        if self.load.busy > 1:  # the run that trains is always asked about
            return f"{self.load.busy} calls are unanswered"
        waiting = [node.name async for node in client.jobs.nodes() if node.state != node_pb2.Node.STATE_READY]
        if waiting:
            return f"nodes are not ready: {waiting}"
        last = [failed for at, failed in self.load.predicted if at > since][-RIGHT_ANSWERS:]
        if self.load.serves and (len(last) < RIGHT_ANSWERS or any(last)):
            return f"predictions: {last}"
        open_jobs = await self._open_jobs(client)
        if open_jobs:
            return f"jobs have not ended: {open_jobs[:5]}"
        for service in RECORDS:
            behind = await asyncio.to_thread(_unpublished, self.platform.home, service)
            if behind:
                return f"{service} has {behind} events that are not published"
        return ""

    async def _open_jobs(self, client: AsyncClient) -> list[str]:
        waiting = set(self.load.jobs) - self.done
        if not waiting:
            return []
        found = set()
        still = []
        async for job in client.jobs.list():
            if job.name in waiting:
                found.add(job.name)
                if job.state not in FINAL:
                    still.append(f"{job.name} {job_pb2.Job.State.Name(job.state)} {job.state_message}")
            if found == waiting:
                break
        return still + [f"{name} is not listed" for name in waiting - found]

    async def check(self) -> list[str]:
        """Every promise that is broken."""
        self.load.surprises, surprises = [], self.load.surprises
        async with self.platform.client() as client:
            return [
                *surprises,
                *await self._jobs(client),
                *await asyncio.to_thread(self._events),
                *self._orphans(await self._live(client)),
                *await self.data(client),
            ]

    async def _jobs(self, client: AsyncClient) -> list[str]:
        wrong = []
        waiting = set(self.load.jobs) - self.done
        async for job in client.jobs.list():
            if job.name not in waiting:
                continue
            waiting.discard(job.name)
            self.done.add(job.name)
            kind = self.load.jobs[job.name].kind
            hurt = any(name == job.name for name, _ in self.breaker.hurt)
            if job.state != EXPECTED[kind] and not (hurt and job.state == job_pb2.Job.STATE_FAILED):
                wrong.append(
                    f"{job.name} {kind} ended as {job_pb2.Job.State.Name(job.state)}: {job.state_message}"
                )
            wrong += self._effects(job)
            if not waiting:
                break
        return wrong + [f"{name} was accepted and is gone" for name in waiting]

    def _effects(self, job: job_pb2.Job) -> list[str]:
        """What the job's processes wrote, against what is said of it."""
        file = self.platform.effects / job.name.rpartition("/")[2]
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        wrong = (
            [f"{job.name}: two attempts ran at once: {lines}"] if any("overlap" in x for x in lines) else []
        )
        begun = [int(line.split()[1]) for line in lines if line.startswith("begin")]
        if begun != sorted(set(begun)):
            wrong.append(f"{job.name}: attempts began as {begun}")
        if job.state == job_pb2.Job.STATE_SUCCEEDED and f"end {job.epoch}" not in lines:
            wrong.append(f"{job.name} succeeded in attempt {job.epoch}, which wrote {lines}")
        return wrong

    def _events(self) -> list[str]:
        """One final event per job, as its last; epochs never go back."""
        wrong = []
        file = self.platform.home / "records" / "scheduler.db"
        query = "SELECT revision, project, resource_id, type, payload FROM events WHERE noun = 'job' AND revision > ?"
        with sqlite.connect(f"file:{file}?mode=ro", uri=True, timeout=5.0) as records:
            rows = records.execute(query + " ORDER BY revision", (self.seen_revision,)).fetchall()
        records.close()
        for revision, project, job, kind, payload in rows:
            name = f"projects/{project}/jobs/{job}"
            if name in self.ends:
                wrong.append(f"{name} {kind} at {revision}, after it had {self.ends[name]}")
            if kind in FINAL_EVENTS:
                self.ends[name] = kind
            epoch = int(json.loads(payload).get("epoch", 0))
            if epoch < self.epochs.get(name, 0):
                wrong.append(f"{name} went from epoch {self.epochs[name]} to {epoch} at {revision}")
            self.epochs[name] = epoch
            self.seen_revision = revision
        return wrong

    async def _live(self, client: AsyncClient) -> dict[str, int]:
        """Jobs that may have processes now, with their epoch."""
        return {job.name: job.epoch async for job in client.jobs.list(200) if job.state not in FINAL}

    def _orphans(self, live: dict[str, int]) -> list[str]:
        return [
            f"process {process.pid} of {job} attempt {epoch} is an orphan"
            for process, job, epoch in self.platform.attempts()
            # An attempt may have begun since the jobs were listed.
            if live.get(job, 0) != epoch and (job in self.done or epoch < live.get(job, 0))
        ]

    async def data(self, client: AsyncClient) -> list[str]:
        """Accepted versions are there, and hold what was sent."""
        waiting = set(self.load.datasets) - self.pulled
        if not waiting:
            return []
        listed = {version.name async for version in client.datasets.versions("pushed")}
        wrong = [f"{version} was accepted and is not listed" for version in waiting - listed]
        for version in sorted(waiting & listed):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    [file] = await client.datasets.pull(version, folder)
                except AiosError as error:
                    wrong.append(f"{version} cannot be pulled: {error.reason} {error.message}")
                    continue
                if _sha256(file) != self.load.datasets[version]:
                    wrong.append(f"{version} holds something else than was sent")
        self.pulled |= waiting
        return wrong

    async def check_runs(self, seconds: float = RUN_SECONDS) -> list[str]:
        """Each run has ended well, its model is registered once, and its checkpoints are in order."""
        wrong = []
        began = time.monotonic()
        async with self.platform.client() as client:
            models: dict[str, list[str]] = defaultdict(list)
            runs: list[run_pb2.Run] = []
            for name in self.load.runs:
                run = await client.runs.get(name)
                while run.state not in ENDED and time.monotonic() - began < seconds:
                    await asyncio.sleep(0.5)
                    run = await client.runs.get(name)
                runs.append(run)
            async for version in client.models.versions("digits"):
                models[version.run].append(version.name)
            stub = data_service_pb2_grpc.DataServiceStub(client._connection.channel)
            for run in runs:
                if run.state != run_pb2.Run.STATE_SUCCEEDED:
                    wrong.append(f"{run.name} is {run_pb2.Run.State.Name(run.state)}: {run.state_message}")
                    continue
                if models[run.name] != [run.model_version]:
                    wrong.append(f"{run.name} names {run.model_version}; registered are {models[run.name]}")
                listed = await stub.ListCheckpoints(data_pb.ListCheckpointsRequest(parent=run.name))
                marks = sorted((each.epoch, each.step) for each in listed.checkpoints)
                steps = [step for _, step in marks]
                if steps != sorted(steps):
                    # A later attempt may save again only what an earlier one had not finished saving.
                    wrong.append(f"{run.name}: a later attempt began before a visible checkpoint: {marks}")
        return wrong


def _unpublished(home: Path, service: str) -> int:
    file = home / "records" / f"{service}.db"
    with sqlite.connect(f"file:{file}?mode=ro", uri=True, timeout=5.0) as records:
        row = records.execute("SELECT revision - published FROM feed").fetchone()
    records.close()
    return int(row[0]) if row else 0


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""Sweeps over real gRPC, SQLite and NATS, by a trainer process that is killed; scheduler, data and jobs are played."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from aios.common.v1 import file_pb2
from aios.config import Settings
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, model_pb2
from aios.errors import AiosError, AlreadyExists, InvalidArgument, NotFound, Unavailable
from aios.runtime.server import Service
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from aios.trainer.v1 import (
    run_pb2,
    sweep_pb2,
    sweep_service_pb2_grpc,
    trainer_service_pb2,
    trainer_service_pb2_grpc,
)
from aios.trainer.v1 import sweep_service_pb2 as pb
from tests.servers import nats_server, wait_for_port
from tests.service import test_trainer
from tests.service.neighbours import channel, neighbour, settings_in, token, until
from tests.service.test_trainer import PARENT

SWEEP = f"{PARENT}/sweeps/s"
EPOCHS = 9
STEPS_PER_EPOCH = 10
RATES = (0.05, 0.04, 0.03, 0.02, 0.07, 0.08, 0.09, 0.001)


@dataclass
class Data(data_service_pb2_grpc.DataServiceServicer):
    """One dataset version, and checkpoints of one file."""

    checkpoints: dict[str, model_pb2.Checkpoint] = field(default_factory=dict)
    """The newest of each run."""

    async def GetDatasetVersion(
        self, request: data_service_pb2.GetDatasetVersionRequest, context: Any
    ) -> dataset_pb2.DatasetVersion:
        return dataset_pb2.DatasetVersion(name=test_trainer.VERSION)

    async def RecordLineage(self, request: data_service_pb2.RecordLineageRequest, context: Any) -> Any:
        return Empty()

    async def ListCheckpoints(
        self, request: data_service_pb2.ListCheckpointsRequest, context: Any
    ) -> data_service_pb2.ListCheckpointsResponse:
        found = self.checkpoints.get(request.parent)
        return data_service_pb2.ListCheckpointsResponse(checkpoints=[found] if found else [])

    async def ListDownloads(
        self, request: data_service_pb2.ListDownloadsRequest, context: Any
    ) -> data_service_pb2.ListDownloadsResponse:
        file = file_pb2.File(path="state", sha256="0" * 64, size_bytes=1)
        return data_service_pb2.ListDownloadsResponse(downloads=[data_service_pb2.Download(file=file)])

    async def CreateCheckpoint(
        self, request: data_service_pb2.CreateCheckpointRequest, context: Any
    ) -> model_pb2.Checkpoint:
        assert [file.path for file in request.checkpoint.files] == ["state"]
        self.save(request.parent, request.checkpoint.step)
        return self.checkpoints[request.parent]

    def save(self, run: str, step: int) -> None:
        name = f"{run}/checkpoints/000001-{step:012}"
        self.checkpoints[run] = model_pb2.Checkpoint(name=name, step=step, epoch=1)


@dataclass
class Jobs:
    """The training processes: each reports one epoch at a time, saves it, and leaves when it is asked to."""

    world: "World"
    measured: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often each epoch of each trial was trained."""

    async def work(self) -> None:
        """Start whatever job there is, until cancelled."""
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for name, job in self.world.scheduler.jobs.items():
                    if name not in running:
                        running[name] = asyncio.create_task(self._train(name, job))
                for task in running.values():
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _train(self, name: str, job: job_pb2.Job) -> None:
        run = name.replace("/jobs/", "/runs/")
        bearer = token("worker", job=name, epoch=1)
        async with channel(self.world.settings.trainer_address, bearer) as door:
            stub = trainer_service_pb2_grpc.TrainerServiceStub(door)
            job.state, job.epoch = job_pb2.Job.STATE_RUNNING, 1
            saved = self.world.data.checkpoints.get(run)
            first = saved.step if saved else 0
            request = trainer_service_pb2.BeginAttemptRequest(name=run, epoch=1, restored_step=first)
            known = await again(lambda: stub.BeginAttempt(request))
            rate = known.spec.hyperparameters["learning_rate"]
            for epoch in range(first // STEPS_PER_EPOCH + 1, EPOCHS + 1):
                if name in self.world.scheduler.cancelled:
                    job.state = job_pb2.Job.STATE_CANCELLED
                    return
                self.measured[known.trial, epoch] += 1
                step = epoch * STEPS_PER_EPOCH
                point = test_trainer.point("test_accuracy", value(rate, epoch), step)
                report = trainer_service_pb2.ReportMetricsRequest(
                    name=run, epoch=1, points=[point], progress=run_pb2.Progress(step=step)
                )
                await again(lambda report=report: stub.ReportMetrics(report))
                self.world.data.save(run, step)
                await self._seen(known.trial, epoch)
            done = trainer_service_pb2.CompleteRunRequest(name=run, epoch=1)
            await again(lambda: stub.CompleteRun(done))
            job.state = job_pb2.Job.STATE_SUCCEEDED

    async def _seen(self, trial: str, epoch: int) -> None:
        """Until the sweep has decided about an epoch: a real one takes longer than that."""
        number = int(trial.rpartition("/")[2])
        async with self.world.editor() as editor:
            while True:
                trials = (await again(lambda: editor.ListTrials(pb.ListTrialsRequest(parent=SWEEP)))).trials
                if trials[number].reports >= epoch:
                    return
                await asyncio.sleep(0.02)


@dataclass
class World:
    settings: Settings
    environment: Mapping[str, str]
    scheduler: test_trainer.Scheduler
    data: Data
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "services.trainer"], env=self.environment)
        wait_for_port(int(self.settings.trainer_address.rpartition(":")[2]), self.process)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @asynccontextmanager
    async def editor(self) -> AsyncIterator[sweep_service_pb2_grpc.SweepServiceStub]:
        async with channel(self.settings.trainer_address, token("editor")) as door:
            yield sweep_service_pb2_grpc.SweepServiceStub(door)


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        nats = stack.enter_context(nats_server(tmp_path / "nats"))
        settings = nats.settings(settings_in(tmp_path / "home"))
        settings.secret("trainer.token").write_text(token("service"))
        environment = {
            **os.environ,
            "AIOS_HOME": str(settings.home),
            "AIOS_TELEMETRY": "false",
            "AIOS_NATS_URL": settings.nats_url,
            "AIOS_NATS_CREDENTIALS_FILE": str(settings.nats_credentials_file),
            **{
                f"AIOS_{name.upper()}_ADDRESS": settings.address_of(name)
                for name in ("trainer", "data", "scheduler", "gateway")
            },
        }
        made = World(settings, environment, test_trainer.Scheduler(), Data())
        add_jobs = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
        add_data = data_service_pb2_grpc.add_DataServiceServicer_to_server
        await stack.enter_async_context(neighbour(settings, "scheduler", [Service(add_jobs, made.scheduler)]))
        await stack.enter_async_context(neighbour(settings, "data", [Service(add_data, made.data)]))
        made.start()
        try:
            yield made
        finally:
            made.kill()


def value(rate: float, epoch: int) -> float:
    return 1 - abs(rate - 0.05) - 0.1 / epoch


async def again(call: Any) -> Any:
    """A call that waits for a service which was killed."""
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                return await call()
            await asyncio.sleep(0.05)


def asked(trials: int = 6, pruner: str = "none", **run: Any) -> pb.CreateSweepRequest:
    spec = run_pb2.RunSpec(recipe="mlp", dataset="datasets/digits", **run)
    parameter = sweep_pb2.Parameter(name="learning_rate")
    parameter.values.extend(RATES)  # the first is the best: halving pauses it, and takes it up again
    sweep = sweep_pb2.SweepSpec(
        run=spec,
        parameters=[parameter],
        objectives=[sweep_pb2.Objective(metric="test_accuracy")],
        sampler=sweep_pb2.Sampler(kind="grid"),
        pruner=sweep_pb2.Pruner(kind=pruner, last=EPOCHS),
        parallelism=2,
        budget=sweep_pb2.Budget(trials=trials),
    )
    return pb.CreateSweepRequest(parent=PARENT, sweep_id="s", sweep=sweep_pb2.Sweep(spec=sweep))


async def test_a_sweep_survives_kills_of_its_service_without_training_anything_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.editor() as editor:
        await editor.CreateSweep(asked(6, "asha"))
        jobs, rng = Jobs(w), Random(5)
        working = asyncio.create_task(jobs.work())

        async def over() -> sweep_pb2.Sweep | None:
            if working.done():
                working.result()
            found: sweep_pb2.Sweep = await again(lambda: editor.GetSweep(pb.GetSweepRequest(name=SWEEP)))
            return found if found.state == sweep_pb2.Sweep.STATE_SUCCEEDED else None

        kills = 0
        while kills < 4 and await over() is None:
            await asyncio.sleep(0.2 + rng.random())
            w.kill()
            kills += 1
            w.start()
        sweep = await until(over, 60)
        trials = (await editor.ListTrials(pb.ListTrialsRequest(parent=SWEEP))).trials
        report = await editor.GetSweepReport(pb.GetSweepReportRequest(name=SWEEP))
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    assert kills >= 2
    assert len(trials) == 6
    assert sum(sweep.trials.values()) == 6
    assert sweep.trials["SUCCEEDED"] >= 1
    assert sweep.best[0].values[0] == max(trial.values[0] for trial in trials)
    # Nothing was lost: each trial has every epoch up to where it is; and nothing was made again.
    assert set(jobs.measured.values()) == {1}
    for trial in trials:
        name = trial.name.removeprefix(f"{PARENT}/")
        done = [epoch for each, epoch in jobs.measured if each == name]
        assert sorted(done) == list(range(1, max(done) + 1))
    assert sum(jobs.measured.values()) < 6 * EPOCHS
    made = [f"{PARENT}/{run.replace('runs/', 'jobs/')}" for trial in trials for run in trial.runs]
    assert sorted(made) == sorted(w.scheduler.jobs)
    assert any(len(trial.runs) > 1 for trial in trials)
    assert "<svg" in report.html


async def test_cancelling_a_sweep_stops_its_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.editor() as editor:
        await editor.CreateSweep(asked())
        working = asyncio.create_task(Jobs(w).work())
        await until(lambda: _has(w, 2))
        await editor.CancelSweep(pb.CancelSweepRequest(name=SWEEP))

        async def cancelled() -> bool:
            found: sweep_pb2.Sweep = await editor.GetSweep(pb.GetSweepRequest(name=SWEEP))
            return found.state == sweep_pb2.Sweep.STATE_CANCELLED

        await until(cancelled, 20)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert len(w.scheduler.jobs) == 2


async def test_a_sweep_that_cannot_be_run_is_refused_by_its_field(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.editor() as editor:
        await editor.CreateSweep(asked())
        wrong = {
            "sweep.spec.run.model": asked(model="m"),
            "sweep.spec.parameters[0].name": asked(),
            "sweep.spec.budget.trials": asked(99_999),
        }
        parameters = wrong["sweep.spec.parameters[0].name"].sweep.spec.parameters
        parameters[0].name = "learning_rat"
        refusals: dict[str, AiosError] = {}
        for path, request in wrong.items():
            request.sweep_id = "other"
            with pytest.raises(InvalidArgument) as refused:
                await editor.CreateSweep(request)
            refusals[path] = refused.value
            assert path in refused.value.fields
        assert "did you mean learning_rate?" in refusals["sweep.spec.parameters[0].name"].message
        with pytest.raises(AlreadyExists):
            await editor.CreateSweep(asked())
        with pytest.raises(NotFound):
            await editor.GetSweep(pb.GetSweepRequest(name=f"{PARENT}/sweeps/none"))
        listed = await editor.ListSweeps(pb.ListSweepsRequest(parent=PARENT))
    assert [each.name for each in listed.sweeps] == [SWEEP]


async def _has(w: World, jobs: int) -> bool:
    return len(w.scheduler.jobs) >= jobs

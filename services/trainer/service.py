"""What the trainer does, between its doors and its records."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType

from aios.code import ARCHIVE
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2
from aios.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from aios.names import RunName, check_id, new_id, project_of
from aios.records import Database, Feed, Tx
from aios.requirements import REQUIREMENTS_FILE
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from aios.scheduler.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc
from aios.trainer.v1 import run_pb2, trainer_service_pb2
from services.trainer import mapping, metrics, run_outputs, runs, store
from services.trainer.metrics import Point
from services.trainer.runs import FINAL, Progress, Run, RunSpec, State
from services.trainer.tracking import artifact_store
from services.trainer.tracking.artifact_store import File

RUN_ID_LENGTH_MAX = 40  # leaves room for the prefixes of what is named after a run
ONE_FILE: Mapping[str, str] = MappingProxyType({"code": ARCHIVE, "requirements": REQUIREMENTS_FILE})
"""Datasets of a run that hold one file, which has this name."""
CHECK_SECONDS = 2.0  # that somebody who submits a run waits for a busy scheduler
WATCH_SECONDS = 1.0  # how often a watcher looks by itself, where another process took the report

_log = logging.getLogger(__name__)


class Trainer:
    """Runs and their metrics. What needs the scheduler is done by the reconciler, from what is stored here."""

    def __init__(
        self,
        db: Database,
        data: data_service_pb2_grpc.DataServiceStub,
        scheduler: scheduler_service_pb2_grpc.SchedulerServiceStub,
        clock: Clock,
    ) -> None:
        self.feed = Feed(db)
        self._db = db
        self._data = data
        self._scheduler = scheduler
        self._clock = clock
        self._reported = asyncio.Event()

    async def create(self, request: trainer_service_pb2.CreateRunRequest) -> run_pb2.Run:
        """Accept a run.

        Raises:
            InvalidArgument: naming the wrong field of the spec; also where no node could ever hold its job.
        """
        project = project_of(request.parent) or ""
        check_id(project, "parent")
        run_id = request.run_id or new_id("run")
        check_id(run_id, "run_id", RUN_ID_LENGTH_MAX)
        spec = mapping.spec_from_proto(request.run.spec, await self.versions(project, request.run.spec))
        now = self._clock.now()
        run = Run(
            name=RunName(project, run_id),
            spec=spec,
            state=State.QUEUED,
            create_time=now,
            update_time=now,
            creator=principal().subject,
            traceparent=telemetry.current_traceparent(),
        )

        await self.check_placeable(run.name, spec)

        def write(tx: Tx) -> run_pb2.Run:
            store.add(tx, run)
            return mapping.run_to_proto(run)

        return await self._db.once(request, write, run_pb2.Run)

    async def check_placeable(self, name: RunName, spec: RunSpec) -> None:
        """Refuse what the scheduler would refuse. While it does not answer, the run is accepted and waits for it."""
        request = scheduler_service_pb2.CreateJobRequest(
            parent=f"projects/{name.project}",
            job_id=name.run,
            job=mapping.job_of(name, spec),
            validate_only=True,
        )
        try:
            await self._scheduler.CreateJob(request, timeout=CHECK_SECONDS)
        except InvalidArgument as error:
            fields = {path.replace("job.spec", "spec", 1): text for path, text in error.fields.items()}
            message = error.message.replace("The job ", "The run ", 1)
            raise InvalidArgument(message, fields=fields, reason=error.reason) from None
        except (Unavailable, DeadlineExceeded, ResourceExhausted):
            _log.warning("%s is accepted unchecked: the scheduler does not answer", name)

    async def get(self, name: RunName) -> Run:
        """One run."""
        return await self._db.read(lambda tx: store.get(tx, name))

    async def list_runs(
        self, project: str, request: trainer_service_pb2.ListRunsRequest
    ) -> tuple[list[Run], str, int]:
        """A page of runs, the next page's token, and the revision that both are of."""
        return await self._db.read(lambda tx: (*store.page(tx, project, request), tx.revision()))

    async def cancel(self, name: RunName) -> Run:
        """Ask a run to stop."""
        return await self._change(name, lambda run: runs.cancel(run, self._clock.now()))

    async def begin(self, name: RunName, epoch: int, restored_step: int) -> Run:
        """Let attempt `epoch` take the run over."""

        def write(tx: Tx) -> Run:
            before = store.get(tx, name)
            runs.check_epoch(before, epoch)
            metrics = store.rewind(tx, name, restored_step)
            after = runs.begin(before, epoch, restored_step, metrics, self._clock.now())
            return store.save(tx, before, after)

        return await self._write(write)

    async def report(self, name: RunName, epoch: int, points: list[Point], progress: Progress | None) -> bool:
        """Store metrics and progress. True when the run was asked to stop."""
        metrics.check(points)

        def write(tx: Tx) -> Run:
            before = store.get(tx, name)
            after = runs.report(before, epoch, metrics.newest(points), progress, self._clock.now())
            store.add_points(tx, name, points)
            return store.save(tx, before, after)

        return (await self._write(write)).state is State.STOPPING

    async def complete(
        self,
        name: RunName,
        epoch: int,
        output: run_pb2.ModelOutput | None,
        outputs: Sequence[file_pb2.File] = (),
    ) -> Run:
        """Store what the run made, and register it. The first completion counts."""
        before = await self.get(name)
        if before.completed:
            return await self.register(before)
        if before.spec.model and output is None:
            raise InvalidArgument.of("model", f"the run registers {before.spec.model}: send what it made")
        runs.check_epoch(before, epoch)
        body = output.SerializeToString() if output is not None else b""
        version = await self._left(before, outputs)
        completed = await self._change(
            name, lambda run: runs.complete(run, epoch, body, version, self._clock.now())
        )
        return await self.register(completed)

    async def _left(self, run: Run, outputs: Sequence[file_pb2.File]) -> str:
        """Keep what a run leaves: its files, and what it logged by MLflow's API. Returns their version. May repeat."""
        known = await self._db.read(lambda tx: artifact_store.root_of(tx, run.name))
        if known is None:
            return await self._keep(run, outputs) if outputs else ""
        more = [File(each.path, each.sha256, each.size_bytes) for each in outputs]
        try:
            held = await self._db.write(lambda tx: artifact_store.join(tx, known, more, self._clock.now()))
        except InvalidArgument as error:
            _log.warning("%s leaves its files without what it logged: %s", run.name, error.message)
            return await self._keep(run, outputs)
        if not held:
            return ""  # all that it logged is deleted
        version = await self._keep(run, run_outputs.listed(held))
        await self._db.write(lambda tx: artifact_store.seal(tx, known, held, version))
        return version

    async def _keep(self, run: Run, outputs: Sequence[file_pb2.File]) -> str:
        return await run_outputs.commit(self._data, run.name.project, outputs, str(run.name), run.name)

    async def register(self, run: Run) -> Run:
        """Register a completed run's model, once, whoever asks how often."""
        if run.registered:
            return run
        output = run_pb2.ModelOutput.FromString(run.output)
        request = data_service_pb2.CreateModelVersionRequest(
            parent=f"projects/{run.name.project}/models/{run.spec.model}",
            model_version=model_pb2.ModelVersion(
                files=output.files,
                signature=output.signature,
                metrics=output.metrics,
                run=str(run.name),
                card=output.card,
                rejected=output.rejected,
            ),
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.name}/model/{run.create_time.isoformat()}")),
        )
        version = await self._data.CreateModelVersion(request)
        return await self._change(run.name, lambda run: runs.register(run, version.name, self._clock.now()))

    async def list_metrics(
        self, name: RunName, request: trainer_service_pb2.ListMetricsRequest
    ) -> tuple[list[Point], str]:
        """A page of metric points."""

        def read(tx: Tx) -> tuple[list[Point], str]:
            store.get(tx, name)
            return store.points_page(tx, name, request.key, request)

        return await self._db.read(read)

    async def watch_metrics(self, name: RunName) -> AsyncIterator[tuple[Run, list[Point]]]:
        """The run and its new points, until it has ended and all was told."""
        cursor, told = 0, None
        while True:
            # Taken before reading: a report that comes in between wakes the wait below.
            reported, revision = self._reported, self.feed.current_revision()
            after = cursor
            run, (points, cursor) = await self._db.read(
                lambda tx, after=after: (store.get(tx, name), store.points_after(tx, name, after))  # type: ignore[misc]
            )
            if points or run != told:
                told = run
                yield run, points
                continue
            if run.state in FINAL:
                return
            await _first(reported.wait(), self.feed.wait(revision), seconds=WATCH_SECONDS)

    async def stirred(self, revision: int, seconds: float) -> None:
        """Wait for a report, or for a change after `revision`; no longer than some seconds."""
        await _first(self._reported.wait(), self.feed.wait(revision), seconds=seconds)

    async def versions(self, project: str, spec: run_pb2.RunSpec) -> dict[str, str]:
        """What every dataset that the spec names means now, so that it means the same for ever."""
        versions = {}
        for field, asked in mapping.versions_asked(project, spec).items():
            try:
                found = await self._data.GetDatasetVersion(
                    data_service_pb2.GetDatasetVersionRequest(name=str(asked))
                )
            except NotFound:
                raise InvalidArgument.of(
                    f"spec.{field}",
                    f"{asked} does not exist: push it first, or see what `aios dataset list` shows",
                ) from None
            if field in ONE_FILE and [file.path for file in found.files] != [ONE_FILE[field]]:
                raise InvalidArgument.of(f"spec.{field}", f"{asked} must hold one file, {ONE_FILE[field]}")
            versions[field] = found.name
        if spec.base_model:
            versions["base_model"] = await self._base_model(project, spec.base_model)
        return versions

    async def _base_model(self, project: str, asked: str) -> str:
        name = mapping.model_version_asked(project, asked)
        try:
            found = await self._data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=str(name)))
        except NotFound:
            raise InvalidArgument.of(
                "spec.base_model", f"{name} does not exist: see what `aios model list` shows"
            ) from None
        return found.name

    async def _change(self, name: RunName, change: runs.Change) -> Run:
        def write(tx: Tx) -> Run:
            before = store.get(tx, name)
            return store.save(tx, before, change(before))

        return await self._write(write)

    async def _write(self, write: Callable[[Tx], Run]) -> Run:
        run = await self._db.write(write)
        self._reported.set()
        self._reported = asyncio.Event()
        return run


async def _first(*waits: Coroutine[None, None, object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

"""Makes the scheduler, the lineage and the registry agree with what the runs say. Safe to repeat at any step."""

import asyncio
import logging
import uuid

from google.protobuf.json_format import ParseDict

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2
from aios.errors import AiosError, AlreadyExists, NotFound
from aios.names import JobName, RunName
from aios.records import Database, Event, Feed, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from services.trainer import mapping, runs, store
from services.trainer.runs import FINAL, Run, State
from services.trainer.service import Trainer

EVERY_SECONDS = 5.0  # a lost event is noticed this late
DOWNLOADS = 1_000  # files of a checkpoint asked for at once

_log = logging.getLogger(__name__)


class Reconciler:
    """One pass per change of a run, and one every few seconds for what no event told of."""

    def __init__(
        self,
        db: Database,
        trainer: Trainer,
        scheduler: scheduler_service_pb2_grpc.SchedulerServiceStub,
        data: data_service_pb2_grpc.DataServiceStub,
        clock: Clock,
    ) -> None:
        self._db = db
        self._feed = Feed(db)
        self._trainer = trainer
        self._scheduler = scheduler
        self._data = data
        self._clock = clock

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            revision = self._feed.current_revision()
            for run in await self._db.read(store.under_way):
                try:
                    await self._reconcile(run)
                except AiosError as error:
                    _log.warning("%s is not settled yet: %s", run.name, error.message)
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._feed.wait(revision)
            except TimeoutError:
                pass

    def on_job_event(self, tx: Tx, event: Event) -> None:
        """Apply one `job` event of the scheduler, inside the transaction that remembers it."""
        job = ParseDict(dict(event.payload), job_pb2.Job(), ignore_unknown_fields=True)
        before = store.of_job(tx, JobName.parse(job.name))
        if before is None or job.spec.owner != str(before.name):
            return
        news = mapping.news_from_proto(job, version=event.revision)
        store.save(tx, before, runs.follow(before, news, self._clock.now()))

    async def _reconcile(self, run: Run) -> None:
        if not run.job_created:
            await self._create_job(run)
            return
        if run.completed and not run.registered:
            run = await self._trainer.register(run)
        if run.state is State.STOPPING:
            await self._scheduler.CancelJob(scheduler_service_pb2.CancelJobRequest(name=str(run.job)))
        await self._follow(run)

    async def _create_job(self, run: Run) -> None:
        """Record where the run gets its data, then hand it to the scheduler. Both may repeat."""
        edges = [
            data_service_pb2.LineageEdge(source=version, target=str(run.name), relation="input")
            for version in run.spec.inputs
        ]
        parent = f"projects/{run.name.project}"
        request = scheduler_service_pb2.CreateJobRequest(
            parent=parent,
            job_id=run.job.job,
            job=mapping.job_of(run.name, run.spec),
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.name}/job/{run.create_time.isoformat()}")),
        )
        with telemetry.span("hand to scheduler", traceparent=run.traceparent):
            if run.source:
                await self._copy_checkpoint(run)
            if edges:
                await self._data.RecordLineage(
                    data_service_pb2.RecordLineageRequest(parent=parent, edges=edges)
                )
            try:
                await self._scheduler.CreateJob(request)
            except AlreadyExists:
                pass  # made by a pass whose answer was lost more than a day ago
            except AiosError as error:
                if error.code.name not in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
                    raise
                await self._refused(run, error)
                return
        await self._change(run, lambda run: runs.with_job(run, self._clock.now()))

    async def _copy_checkpoint(self, run: Run) -> None:
        """Give a run that goes on from another one its newest checkpoint. May repeat; no byte of it is moved."""
        source = str(RunName(run.name.project, run.source))
        request = data_service_pb2.ListCheckpointsRequest(parent=source, page_size=1)
        found = (await self._data.ListCheckpoints(request)).checkpoints
        if not found:
            return  # it had not come so far: from the start, then
        files, token = [], ""
        while True:
            page = await self._data.ListDownloads(
                data_service_pb2.ListDownloadsRequest(
                    parent=found[0].name, page_size=DOWNLOADS, page_token=token
                )
            )
            files += [download.file for download in page.downloads]
            token = page.next_page_token
            if not token:
                break
        checkpoint = model_pb2.Checkpoint(step=found[0].step, epoch=1, files=files)
        await self._data.CreateCheckpoint(
            data_service_pb2.CreateCheckpointRequest(parent=str(run.name), checkpoint=checkpoint)
        )

    async def _refused(self, run: Run, error: AiosError) -> None:
        news = runs.JobNews(State.FAILED, run.job_epoch, error.reason, error.message)
        await self._change(run, lambda run: runs.follow(run, news, self._clock.now()))

    async def _follow(self, run: Run) -> None:
        try:
            job = await self._scheduler.GetJob(scheduler_service_pb2.GetJobRequest(name=str(run.job)))
        except NotFound:
            news = runs.JobNews(
                State.FAILED, run.job_epoch, "JOB_LOST", "The scheduler does not know its job any more."
            )
        else:
            news = mapping.news_from_proto(job)
        if news.state is not run.state or news.epoch != run.job_epoch or news.state in FINAL:
            await self._change(run, lambda run: runs.follow(run, news, self._clock.now()))

    async def _change(self, run: Run, change: runs.Change) -> None:
        def write(tx: Tx) -> None:
            before = store.get(tx, run.name)
            store.save(tx, before, change(before))

        await self._db.write(write)

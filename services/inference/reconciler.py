"""Makes the scheduler and the lineage agree with what the deployments need. Safe to repeat at any step.

Every decision is `rollout`'s; here is what it takes to know the facts and to carry the outcome out.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.errors import AiosError, AlreadyExists, Code, NotFound
from aios.names import JobName, RevisionName
from aios.records import Database, Event, Feed, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from services.inference import gates, mapping, replicas, rollout, room, store
from services.inference.deployments import Resources
from services.inference.replicas import Replica
from services.inference.revisions import Revision, State
from services.inference.rollout import Rollout
from services.inference.stopwatches import Stopwatches
from services.inference.watching import Watching

ROUND_SECONDS = 1.0
"""Without an event. A report, a confirmation or an event of the scheduler has its effect at once."""
SILENCE_SECONDS = 6.0
"""A replica reports every 2 s: three in a row were lost."""
LOAD_SECONDS_MAX = 600.0
"""From the start of its process to its first answer. A replica gives up on a slow load by itself, well before."""
CRAMPED_SECONDS = 0.5
"""A job that waits for longer found no room: otherwise the scheduler places it within a tenth of that."""
AT_ONCE_MAX = 16
"""Deployments whose jobs are looked after at the same time: a slow scheduler is not buried in calls."""

_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION})
_log = logging.getLogger(__name__)


class Reconciler:
    """One round per change, and one every second for what no event told of.

    Args:
        silence: Restarted by each report of a replica.
        drain_seconds: What a revision's last requests have before its replicas leave the routing table.
    """

    def __init__(
        self,
        db: Database,
        scheduler: scheduler_service_pb2_grpc.SchedulerServiceStub,
        data: data_service_pb2_grpc.DataServiceStub,
        watching: Watching,
        silence: Stopwatches[JobName],
        drain_seconds: float,
        clock: Clock,
    ) -> None:
        self._db = db
        self._feed = Feed(db)
        self._scheduler = scheduler
        self._data = data
        self._watching = watching
        self._silence = silence
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._loading: Stopwatches[JobName] = Stopwatches()
        self._draining: Stopwatches[RevisionName] = Stopwatches()
        self._leaving: Stopwatches[JobName] = Stopwatches()
        self._starting: frozenset[RevisionName] = frozenset()
        self._cramped: Stopwatches[JobName] = Stopwatches()
        self._made: dict[JobName, list[Resources]] = {}

    async def run(self) -> None:
        """Reconcile until cancelled."""
        # What the records say may call for a step that a newer release has and the last one had not.
        for each in await self._db.read(store.rollouts):
            await self._settle(each)
        while True:
            revision = self._feed.current_revision()
            await self.round()
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._feed.wait(revision)
            except TimeoutError:
                pass

    async def round(self) -> None:
        """Bring every deployment one step further."""
        found = await self._db.read(store.rollouts)
        self._trace_starts(found)
        await self._note_silence(found)
        await self._step(found)
        await self._judge(found)
        await self._scale(found)
        await self._make_room(found)
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def look_after(each: Rollout) -> None:
            async with slots:
                for revision in each.revisions:
                    await self._look_after(revision)

        await asyncio.gather(*map(look_after, await self._db.read(store.rollouts)))

    def on_job_event(self, tx: Tx, event: Event) -> None:
        """Apply one `job` event of the scheduler, inside the transaction that remembers it."""
        job = ParseDict(dict(event.payload), job_pb2.Job(), ignore_unknown_fields=True)
        if not RevisionName.matches(job.spec.owner):
            return  # most jobs are no replicas
        try:
            name = JobName.parse(job.name)
            _, revision, _ = store.rollout_of(tx, name)
            if str(revision.name) == job.spec.owner:
                news = mapping.news_from_proto(job)
                store.change_replica(tx, name, lambda replica: replicas.follow(replica, news))
        except NotFound:
            return  # already gone, or somebody else's job that claims to be one

    async def _note_silence(self, found: Iterable[Rollout]) -> None:
        ready = [each.job for revision in _revisions(found) for each in revision.ready]
        for job in self._silence.lasting(ready, self._clock.monotonic(), SILENCE_SECONDS):
            _log.warning("%s has not reported for %.0f s", job, SILENCE_SECONDS)
            await self._change(job, _fallen_silent)

    async def _step(self, found: Iterable[Rollout]) -> None:
        """Take the steps that wait for time to pass."""
        now = self._clock.monotonic()
        routing = await self._db.read(store.routing_state)
        idle = [each.name for each in _revisions(found) if rollout.drains(each, routing.confirmed)]
        loading = [
            replica.job
            for each in _revisions(found)
            if each.state is State.STARTING
            for replica in each.replicas
            if replica.state in (replicas.State.STARTING, replicas.State.SILENT)
        ]
        drained = self._draining.lasting(idle, now, self._drain_seconds)
        overdue = self._loading.lasting(loading, now, LOAD_SECONDS_MAX)
        leaving = [
            replica.job
            for each in _revisions(found)
            for replica in each.replicas
            if replica.state is replicas.State.LEAVING and routing.confirmed >= replica.left_in
        ]
        unused = self._leaving.lasting(leaving, now, self._drain_seconds) | self._idle(found, leaving)
        for each in found:
            numbers = frozenset(revision.number for revision in each.revisions if revision.name in drained)
            jobs = {replica.job for one in each.revisions for replica in one.replicas}
            if numbers or jobs & (overdue | unused):
                await self._settle(each, drained=numbers, overdue=overdue, idle=unused)

    def _idle(self, found: Iterable[Rollout], leaving: Iterable[JobName]) -> frozenset[JobName]:
        """Those of `leaving` that need not wait for last requests: their revision sleeps, and has none."""
        asleep = (each for each in _revisions(found) if not each.wanted and self._watching.quiet(each.name))
        return frozenset(leaving) & {replica.job for each in asleep for replica in each.replicas}

    async def _judge(self, found: Iterable[Rollout]) -> None:
        """Take trials to their next step, or back."""
        now = self._clock.now()
        for each in found:
            candidate = each.trial
            if candidate is None or candidate.stage_time is None:
                continue
            trial = self._watching.trial(each, (now - candidate.stage_time).total_seconds())
            assert trial is not None
            decision = gates.decide(trial, candidate.spec.rollout.gates, now, paused=each.deployment.paused)
            if decision.step is not gates.Step.WAIT:
                _log.info("%s: %s, %s", candidate.name, decision.step.name, decision.reason)
                await self._settle(each, decision=decision)

    async def _scale(self, found: Iterable[Rollout]) -> None:
        """Have as many replicas as the load asks for."""
        for each in found:
            wanted = {
                revision.number: count
                for revision in each.revisions
                if revision.state in (State.LIVE, State.TRIAL)
                and (count := self._watching.wanted(revision, each.deployment.spec.scaling))
                != revision.wanted
            }
            if wanted:
                _log.info("%s: replicas by revision %s", each.deployment.name, wanted)
                name = each.deployment.name
                await self._db.write(partial(store.scale, name=name, wanted=wanted))

    async def _make_room(self, found: Sequence[Rollout]) -> None:
        """Where a replica waits for resources and nobody answers in its place, the longest idle deployment sleeps."""
        waiting = [replica.job for _, replica in room.waiting(found)]
        cramped = self._cramped.lasting(waiting, self._clock.monotonic(), CRAMPED_SECONDS)
        self._made = {job: self._made.get(job, []) for job in waiting}
        choice = room.make(found, cramped, self._watching.idle, self._made)
        if choice is None:
            return
        name, number = choice.asleep.deployment.name, choice.revision.number
        _log.info("%s %s", name, choice.reason)
        self._made[choice.makes_room_for].append(choice.revision.spec.resources)
        await self._db.write(partial(store.scale, name=name, wanted={number: 0}, reason=choice.reason))

    async def _settle(self, seen: Rollout, **facts: Any) -> None:
        def write(tx: Tx) -> None:
            before = store.rollout(tx, seen.deployment.name)
            store.settle(tx, before, before, **facts)

        with telemetry.within(seen.latest.traceparent):
            await self._db.write(write)

    def _trace_starts(self, found: Iterable[Rollout]) -> None:
        """Put the way of a revision from its creation to its first request into the trace of who made it."""
        for each in _revisions(found):
            if each.name in self._starting and each.state in (State.LIVE, State.FAILED):
                telemetry.record_span(
                    "revision start",
                    traceparent=each.traceparent,
                    start=each.create_time,
                    end=each.live_time or self._clock.now(),
                    attributes={"revision": str(each.name), "model_version": each.spec.model_version},
                    error=each.message,
                )
        self._starting = frozenset(each.name for each in _revisions(found) if each.state is State.STARTING)

    async def _look_after(self, revision: Revision) -> None:
        for replica in revision.replicas:
            try:
                await self._look_after_job(revision, replica)
            except AiosError as error:
                _log.warning("%s is not settled yet: %s", replica.job, error.message)
        if not revision.recorded:
            try:
                await self._record(revision)
            except AiosError as error:
                _log.warning("%s is not in the lineage yet: %s", revision.name, error.message)

    async def _look_after_job(self, revision: Revision, replica: Replica) -> None:
        if replica.state is replicas.State.READY:
            return  # its own word is fresher than the scheduler's
        if replica.state is replicas.State.PLANNED:
            await self._create_job(revision, replica)
            return
        name = str(replica.job)
        try:
            if replica.state is replicas.State.STOPPING:
                job = await self._scheduler.CancelJob(scheduler_service_pb2.CancelJobRequest(name=name))
            else:
                job = await self._scheduler.GetJob(scheduler_service_pb2.GetJobRequest(name=name))
        except NotFound:
            await self._change(replica.job, lambda each: replicas.lose(each))
        else:
            await self._follow(replica.job, job)

    async def _create_job(self, revision: Revision, replica: Replica) -> None:
        """Hand a replica to the scheduler. May repeat: the same name and the same request make the same job."""
        parent, job = f"projects/{revision.name.project}", mapping.job_of(revision)
        request = scheduler_service_pb2.CreateJobRequest(parent=parent, job_id=replica.job.job, job=job)
        request.request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{replica.job} of {revision.name}"))
        with telemetry.span(
            "start replica", traceparent=revision.traceparent, attributes={"revision": str(revision.name)}
        ):
            try:
                made = await self._scheduler.CreateJob(request)
            except AlreadyExists:
                made = await self._scheduler.GetJob(
                    scheduler_service_pb2.GetJobRequest(name=str(replica.job))
                )
                if made.spec.owner != job.spec.owner:  # somebody else's: the next index will be free
                    await self._change(replica.job, lambda each: replicas.lose(each))
                    return
            except AiosError as error:
                if error.code not in _REFUSALS:
                    raise
                message = error.message
                await self._change(replica.job, lambda each: replicas.refuse(each, message))
                return
        await self._follow(replica.job, made)

    async def _follow(self, name: JobName, job: job_pb2.Job) -> None:
        news = mapping.news_from_proto(job)
        await self._change(name, lambda replica: replicas.follow(replica, news))

    async def _change(self, job: JobName, change: Callable[[Replica], Replica]) -> None:
        try:
            await self._db.write(lambda tx: store.change_replica(tx, job, change))
        except NotFound:
            return  # an event told of its end meanwhile

    async def _record(self, revision: Revision) -> None:
        """Tell the lineage what the revision serves."""
        name = revision.name
        edges = [
            data_service_pb2.LineageEdge(source=source, target=target, relation="deployed")
            for source, target in (
                (revision.spec.model_version, str(name)),
                (str(name), name.parent),
            )
        ]
        parent = f"projects/{name.project}"
        await self._data.RecordLineage(data_service_pb2.RecordLineageRequest(parent=parent, edges=edges))
        await self._db.write(lambda tx: store.mark_recorded(tx, name))


def _fallen_silent(replica: Replica) -> Replica:
    if replica.state is not replicas.State.READY:
        return replica
    return replicas.fall_silent(replica, SILENCE_SECONDS)


def _revisions(found: Iterable[Rollout]) -> list[Revision]:
    return [revision for each in found for revision in each.revisions]

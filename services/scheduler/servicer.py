"""The public face: convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from aios.errors import InvalidArgument
from aios.names import JobName, NodeName, ProjectName, check_id, new_id
from aios.records import Database, Event, Feed, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.runtime.context import principal, require_job
from aios.runtime.watch import serve_watch
from aios.scheduler.v1 import (
    explanation_pb2,
    job_pb2,
    node_pb2,
    policy_pb2,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from services.scheduler import history as past
from services.scheduler import jobs, mapping, policies, progress, specs, store
from services.scheduler.explain import explain
from services.scheduler.explain_mapping import explanation_to_proto
from services.scheduler.logs import Logs
from services.scheduler.nodes import Node, edit
from services.scheduler.plan import check_placeable
from services.scheduler.predictions import Predictions
from services.scheduler.queues import check_limit, require_use
from services.scheduler.reconciler import Reconciler
from services.scheduler.resources import Resources

EXPLAIN_SECONDS = 1.0
"""For drawing futures: what is known by then is told."""
Context = Any


class SchedulerServicer(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Jobs and nodes, for people and services."""

    def __init__(self, db: Database, reconciler: Reconciler, logs: Logs, clock: Clock) -> None:
        self._db = db
        self._feed = Feed(db)
        self._reconciler = reconciler
        self._logs = logs
        self._clock = clock
        self._explaining = asyncio.Lock()
        self._predictions = Predictions()

    async def CreateJob(
        self, request: scheduler_service_pb2.CreateJobRequest, context: Context
    ) -> job_pb2.Job:
        project = check_id(ProjectName.parse(request.parent, "parent").project, "parent")
        name = JobName(project, check_id(request.job_id, "job_id") if request.job_id else new_id("job"))
        by_service = principal().role == "service"
        spec = specs.check(mapping.spec_from_proto(request.job.spec), by_service=by_service)
        asked = jobs.create(name, spec, self._clock.now(), telemetry.current_traceparent())

        stored: list[jobs.Job] = []

        def check(tx: Tx) -> None:
            around = self._reconciler.surroundings(tx)
            queue = require_use(spec.queue, project, around.queues)
            check_limit(spec.total.named(), queue, around.queues)
            check_placeable(spec.resources, around.nodes, spec.scheduling, spec.replicas)

        def write(tx: Tx) -> job_pb2.Job:
            check(tx)
            stored.append(store.add(tx, asked))
            return mapping.job_to_proto(stored[0])

        if request.validate_only:
            await self._db.read(check)
            return mapping.job_to_proto(asked)
        made = await self._db.once(request, write, job_pb2.Job)
        for job in stored:
            self._reconciler.stored(job)
        return made

    async def GetJob(self, request: scheduler_service_pb2.GetJobRequest, context: Context) -> job_pb2.Job:
        name = JobName.parse(request.name)
        return self._shown(await self._db.read(lambda tx: store.get(tx, name)))

    async def ListJobs(
        self, request: scheduler_service_pb2.ListJobsRequest, context: Context
    ) -> scheduler_service_pb2.ListJobsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        states = mapping.states_from_proto(request.states)
        (found, token), revision = await self._db.read(
            lambda tx: (store.page(tx, request, project, states), tx.revision())
        )
        return scheduler_service_pb2.ListJobsResponse(
            jobs=[self._shown(job) for job in found], next_page_token=token, revision=revision
        )

    async def ExplainJob(
        self, request: scheduler_service_pb2.ExplainJobRequest, context: Context
    ) -> explanation_pb2.Explanation:
        name, caller = JobName.parse(request.name), principal()
        job, attempts, history = await self._db.read(
            lambda tx: (store.get(tx, name), past.attempts(tx, name), past.durations(tx))
        )
        # One at a time: each is a second of work, in a thread beside the loop that plans.
        async with self._explaining:
            snapshot, now = await self._reconciler.snapshot(), self._clock.now()
            job = next((each for each in (*snapshot.queue, *snapshot.holding) if each.name == name), job)
            until = self._clock.monotonic() + EXPLAIN_SECONDS
            found = await asyncio.to_thread(
                explain,
                job,
                snapshot,
                attempts,
                history,
                now,
                may_see=lambda other: caller.everywhere or other.project == caller.project,
                enough=lambda: self._clock.monotonic() > until,
            )
            policy = snapshot.policy.algorithm
            told = self._predictions.open(policy)
            self._predictions.started(policy, await self._db.read(lambda tx: past.starts(tx, told)))
            found = self._predictions.widened(policy, found, now)
        return explanation_to_proto(found)

    async def ListJobHistory(
        self, request: scheduler_service_pb2.ListJobHistoryRequest, context: Context
    ) -> scheduler_service_pb2.ListJobHistoryResponse:
        project = ProjectName.parse(request.parent, "parent").project
        since = mapping.moment(request, "start_time")
        found, token = await self._db.read(lambda tx: past.page(tx, request, project, since))
        return scheduler_service_pb2.ListJobHistoryResponse(
            jobs=[mapping.history_to_proto(job, attempts) for job, attempts in found], next_page_token=token
        )

    async def CancelJob(
        self, request: scheduler_service_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.Job:
        name = JobName.parse(request.name)

        def write(tx: Tx) -> jobs.Job:
            job = store.get(tx, name)
            return store.save(tx, job, jobs.cancel(job, self._clock.now()))

        job = await self._db.write(write)
        self._reconciler.wake()
        return self._shown(job)

    async def ReportJobProgress(
        self, request: scheduler_service_pb2.ReportJobProgressRequest, context: Context
    ) -> scheduler_service_pb2.ReportJobProgressResponse:
        name = JobName.parse(request.name)
        require_job(str(name), request.epoch)
        said = mapping.said_from_proto(request.progress, request.epoch)
        await self._reconciler.progressed(name, progress.check(said))
        return scheduler_service_pb2.ReportJobProgressResponse()

    async def WatchJobs(
        self, request: scheduler_service_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[scheduler_service_pb2.WatchJobsResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        async for response in serve_watch(self._feed, "job", project, request.start_revision, _changes):
            yield response

    async def ReadJobLogs(
        self, request: scheduler_service_pb2.ReadJobLogsRequest, context: Context
    ) -> AsyncIterator[scheduler_service_pb2.ReadJobLogsResponse]:
        name = JobName.parse(request.name)
        pieces = self._logs.read(
            name,
            request.epoch,
            request.offset,
            rank=request.rank,
            follow=request.follow,
            current=lambda: self._db.read(lambda tx: store.get(tx, name)),
            changed=lambda: self._db.wait(self._db.revision),
        )
        async for piece in pieces:
            yield scheduler_service_pb2.ReadJobLogsResponse(
                epoch=piece.epoch, offset=piece.offset, data=piece.data
            )

    async def GetNode(self, request: scheduler_service_pb2.GetNodeRequest, context: Context) -> node_pb2.Node:
        name = NodeName.parse(request.name).node
        node, held = await self._db.read(lambda tx: (store.get_node(tx, name), store.held(tx)))
        return mapping.node_to_proto(node, held.get(name, Resources()), self._reconciler.heartbeat_time(name))

    async def UpdateNode(
        self, request: scheduler_service_pb2.UpdateNodeRequest, context: Context
    ) -> node_pb2.Node:
        said = mapping.operation_from_proto(request.node)

        def write(tx: Tx) -> tuple[Node, dict[str, Resources]]:
            edited = edit(store.get_node(tx, said.name), said, request.update_mask.paths)
            store.put_operation(tx, edited)
            return store.get_node(tx, said.name), store.held(tx)

        node, held = await self._db.write(write)
        self._reconciler.wake()
        heard = self._reconciler.heartbeat_time(said.name)
        return mapping.node_to_proto(node, held.get(said.name, Resources()), heard)

    async def ListNodes(
        self, request: scheduler_service_pb2.ListNodesRequest, context: Context
    ) -> scheduler_service_pb2.ListNodesResponse:
        (found, token), held = await self._db.read(lambda tx: (store.node_page(tx, request), store.held(tx)))
        heard = self._reconciler.heartbeat_time
        return scheduler_service_pb2.ListNodesResponse(
            nodes=[
                mapping.node_to_proto(node, held.get(node.name, Resources()), heard(node.name))
                for node in found
            ],
            next_page_token=token,
        )

    async def GetPolicy(
        self, request: scheduler_service_pb2.GetPolicyRequest, context: Context
    ) -> policy_pb2.Policy:
        _require_policy(request.name, "name")
        return mapping.policy_to_proto(*await self._db.read(store.policy))

    async def UpdatePolicy(
        self, request: scheduler_service_pb2.UpdatePolicyRequest, context: Context
    ) -> policy_pb2.Policy:
        chosen = _policy(request.policy)

        def write(tx: Tx) -> policy_pb2.Policy:
            store.put_policy(tx, chosen, self._clock.now())
            return mapping.policy_to_proto(*store.policy(tx))

        made = await self._db.write(write)
        self._reconciler.wake()
        return made

    async def PreviewPolicy(
        self, request: scheduler_service_pb2.PreviewPolicyRequest, context: Context
    ) -> scheduler_service_pb2.PreviewPolicyResponse:
        found = await self._reconciler.preview(_policy(request.policy))
        return scheduler_service_pb2.PreviewPolicyResponse(
            starts=[str(start.job) for start in found.starts], stops=[str(name) for name in found.stops]
        )

    def _shown(self, job: jobs.Job) -> job_pb2.Job:
        return mapping.job_to_proto(self._reconciler.current(job), self._reconciler.waits.get(job.name))


def _policy(proto: policy_pb2.Policy) -> policies.Policy:
    _require_policy(proto.name, "policy.name")
    return policies.check(mapping.policy_from_proto(proto))


def _require_policy(name: str, field: str) -> None:
    if name != mapping.POLICY:
        raise InvalidArgument.of(field, f"must be `{mapping.POLICY}`: the pool has one")


def _changes(events: Sequence[Event], revision: int) -> scheduler_service_pb2.WatchJobsResponse:
    return scheduler_service_pb2.WatchJobsResponse(
        events=[
            scheduler_service_pb2.JobEvent(
                type=event.type,
                job=ParseDict(dict(event.payload), job_pb2.Job(), ignore_unknown_fields=True),
                revision=event.revision,
            )
            for event in events
        ],
        revision=revision,
    )

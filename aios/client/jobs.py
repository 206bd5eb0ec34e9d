"""Jobs and the machines that run them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from aios.client.connection import Connection, pages, request_id
from aios.errors import Unavailable
from aios.names import JobName, NodeName
from aios.scheduler.v1 import (
    explanation_pb2,
    history_pb2,
    job_pb2,
    node_pb2,
    policy_pb2,
    scheduler_service_pb2_grpc,
)
from aios.scheduler.v1 import scheduler_service_pb2 as pb

RECONNECTS_MAX = 10
RECONNECT_SECONDS = 1.0
"""A service that was killed is back in three seconds; a follower outlasts that three times."""

POLL_SECONDS = 0.5
FINAL = frozenset({job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED})


class Jobs:
    """`client.jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = scheduler_service_pb2_grpc.SchedulerServiceStub(connection.channel)

    async def create(self, spec: Mapping[str, Any], *, dry_run: bool = False) -> job_pb2.Job:
        """Put a command on the pool: what a job.yaml says, as a mapping.

        Args:
            dry_run: Ask whether it would be accepted, with the same errors, and make nothing.
        """
        from aios.client import jobspec

        read = jobspec.parse(spec)
        return await self._stub.CreateJob(
            pb.CreateJobRequest(
                parent=self._connection.project,
                job_id=read.job_id,
                job=job_pb2.Job(spec=read.spec),
                request_id=request_id(),
                validate_only=dry_run,
            )
        )

    async def get(self, name: str) -> job_pb2.Job:
        """One job."""
        return await self._stub.GetJob(pb.GetJobRequest(name=self._name(name)))

    async def list(
        self, limit: int | None = None, states: Iterable[job_pb2.Job.State.ValueType] = ()
    ) -> AsyncIterator[job_pb2.Job]:
        """The project's jobs, newest first; only those in one of these states, where any are named."""
        request = pb.ListJobsRequest(parent=self._connection.project, states=states)
        async for each in pages(self._stub.ListJobs, request, "jobs", limit):
            yield each

    async def explain(self, name: str) -> explanation_pb2.Explanation:
        """Why a job is where it is, until when, and what would change that."""
        return await self._stub.ExplainJob(pb.ExplainJobRequest(name=self._name(name)))

    async def history(
        self, *, since: datetime | None = None, everywhere: bool = False
    ) -> AsyncIterator[history_pb2.JobHistory]:
        """What became of the project's jobs, oldest first; of all projects' for an operator who asks for that."""
        request = pb.ListJobHistoryRequest(parent="projects/-" if everywhere else self._connection.project)
        if since is not None:
            request.start_time.FromDatetime(since)
        async for each in pages(self._stub.ListJobHistory, request, "jobs"):
            yield each

    async def cancel(self, name: str) -> job_pb2.Job:
        """Ask a job to stop. One that has ended stays as it is."""
        return await self._stub.CancelJob(pb.CancelJobRequest(name=self._name(name)))

    async def logs(
        self, name: str, *, follow: bool = False, epoch: int = 0, rank: int = 0
    ) -> AsyncIterator[bytes]:
        """What a job wrote, in pieces; of a gang, what one of its processes wrote. With `follow`, until it has ended,
        over restarts of the services too."""
        request = pb.ReadJobLogsRequest(name=self._name(name), epoch=epoch, follow=follow, rank=rank)
        failures = 0
        while True:
            try:
                async for piece in self._stub.ReadJobLogs(request):
                    failures = 0
                    # Go on behind the last byte seen when the connection breaks.
                    request.epoch, request.offset = piece.epoch, piece.offset + len(piece.data)
                    if piece.data:
                        yield piece.data
            except Unavailable:
                failures += 1
                if not follow or failures > RECONNECTS_MAX:
                    raise
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    async def follow(self, name: str) -> AsyncIterator[job_pb2.Job]:
        """The job as it changes, until it has ended, over restarts of the services too."""
        failures, last = 0, None
        while last is None or last.state not in FINAL:
            try:
                found = await self.get(name)
            except Unavailable:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            failures = 0
            if found != last:
                yield found
            last = found
            if last.state not in FINAL:
                await asyncio.sleep(POLL_SECONDS)

    async def nodes(self, limit: int | None = None) -> AsyncIterator[node_pb2.Node]:
        """The machines of the pool, by name."""
        async for each in pages(self._stub.ListNodes, pb.ListNodesRequest(), "nodes", limit):
            yield each

    async def node(self, name: str) -> node_pb2.Node:
        """One machine."""
        full = self._connection.name(NodeName, name)
        return await self._stub.GetNode(pb.GetNodeRequest(name=str(full)))

    async def operate(self, node: node_pb2.Node, *fields: str) -> node_pb2.Node:
        """Cordon, drain or taint a machine: take over these fields of it."""
        mask = FieldMask(paths=fields)
        return await self._stub.UpdateNode(pb.UpdateNodeRequest(node=node, update_mask=mask))

    async def policy(self) -> policy_pb2.Policy:
        """How the pool is shared now."""
        return await self._stub.GetPolicy(pb.GetPolicyRequest(name="policy"))

    async def set_policy(self, policy: policy_pb2.Policy) -> policy_pb2.Policy:
        """Share the pool in another way from now on. Operators only."""
        return await self._stub.UpdatePolicy(pb.UpdatePolicyRequest(policy=_named(policy)))

    async def preview_policy(self, policy: policy_pb2.Policy) -> pb.PreviewPolicyResponse:
        """What another policy would do now. Operators only."""
        return await self._stub.PreviewPolicy(pb.PreviewPolicyRequest(policy=_named(policy)))

    def _name(self, name: str) -> str:
        return str(self._connection.name(JobName, name))


def _named(policy: policy_pb2.Policy) -> policy_pb2.Policy:
    named = policy_pb2.Policy(name="policy")
    named.MergeFrom(policy)
    return named

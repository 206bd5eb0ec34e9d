"""The trainer's RPCs: convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from aios.names import ProjectName, RunName
from aios.records import Event
from aios.runtime.context import require_job
from aios.runtime.watch import serve_watch
from aios.trainer.v1 import run_pb2, trainer_service_pb2, trainer_service_pb2_grpc
from services.trainer import mapping
from services.trainer.service import Trainer


class TrainerServicer(trainer_service_pb2_grpc.TrainerServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def CreateRun(self, request: trainer_service_pb2.CreateRunRequest, context: Any) -> run_pb2.Run:
        return await self._trainer.create(request)

    async def GetRun(self, request: trainer_service_pb2.GetRunRequest, context: Any) -> run_pb2.Run:
        return mapping.run_to_proto(await self._trainer.get(RunName.parse(request.name)))

    async def ListRuns(
        self, request: trainer_service_pb2.ListRunsRequest, context: Any
    ) -> trainer_service_pb2.ListRunsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        runs, token, revision = await self._trainer.list_runs(project, request)
        return trainer_service_pb2.ListRunsResponse(
            runs=map(mapping.run_to_proto, runs), next_page_token=token, revision=revision
        )

    async def CancelRun(self, request: trainer_service_pb2.CancelRunRequest, context: Any) -> run_pb2.Run:
        return mapping.run_to_proto(await self._trainer.cancel(RunName.parse(request.name)))

    async def WatchRuns(
        self, request: trainer_service_pb2.WatchRunsRequest, context: Any
    ) -> AsyncIterator[trainer_service_pb2.WatchRunsResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        async for response in serve_watch(
            self._trainer.feed, "run", project, request.start_revision, _watch_response
        ):
            yield response

    async def ListMetrics(
        self, request: trainer_service_pb2.ListMetricsRequest, context: Any
    ) -> trainer_service_pb2.ListMetricsResponse:
        points, token = await self._trainer.list_metrics(RunName.parse(request.parent, "parent"), request)
        return trainer_service_pb2.ListMetricsResponse(
            points=map(mapping.point_to_proto, points), next_page_token=token
        )

    async def WatchMetrics(
        self, request: trainer_service_pb2.WatchMetricsRequest, context: Any
    ) -> AsyncIterator[trainer_service_pb2.WatchMetricsResponse]:
        async for run, points in self._trainer.watch_metrics(RunName.parse(request.parent, "parent")):
            yield trainer_service_pb2.WatchMetricsResponse(
                run=mapping.run_to_proto(run), points=map(mapping.point_to_proto, points)
            )

    async def BeginAttempt(
        self, request: trainer_service_pb2.BeginAttemptRequest, context: Any
    ) -> run_pb2.Run:
        name = _own_run(request.name, request.epoch)
        return mapping.run_to_proto(await self._trainer.begin(name, request.epoch, request.restored_step))

    async def ReportMetrics(
        self, request: trainer_service_pb2.ReportMetricsRequest, context: Any
    ) -> trainer_service_pb2.ReportMetricsResponse:
        name = _own_run(request.name, request.epoch)
        progress = mapping.progress_from_proto(request.progress) if request.HasField("progress") else None
        points = mapping.points_from_proto(request.points, request.epoch)
        should_stop = await self._trainer.report(name, request.epoch, points, progress)
        return trainer_service_pb2.ReportMetricsResponse(should_stop=should_stop)

    async def CompleteRun(self, request: trainer_service_pb2.CompleteRunRequest, context: Any) -> run_pb2.Run:
        name = _own_run(request.name, request.epoch)
        output = request.model if request.HasField("model") else None
        # A caller that hangs up must not leave the registration half-done for the reconciler to find.
        run = await asyncio.shield(self._trainer.complete(name, request.epoch, output, request.outputs))
        return mapping.run_to_proto(run)


def _own_run(text: str, epoch: int) -> RunName:
    name = RunName.parse(text)
    require_job(f"projects/{name.project}/jobs/{name.run}", epoch)
    return name


def _watch_response(events: Sequence[Event], revision: int) -> trainer_service_pb2.WatchRunsResponse:
    return trainer_service_pb2.WatchRunsResponse(
        events=[
            trainer_service_pb2.RunEvent(
                type=event.type,
                run=ParseDict(dict(event.payload), run_pb2.Run(), ignore_unknown_fields=True),
                revision=event.revision,
            )
            for event in events
        ],
        revision=revision,
    )

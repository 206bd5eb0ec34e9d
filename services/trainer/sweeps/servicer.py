"""The RPCs of sweeps: convert, call, convert."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from aios.names import ProjectName, SweepName
from aios.records import Event
from aios.runtime.watch import serve_watch
from aios.trainer.v1 import sweep_pb2, sweep_service_pb2_grpc
from aios.trainer.v1 import sweep_service_pb2 as pb
from services.trainer.sweeps import mapping
from services.trainer.sweeps.service import Sweeps


class SweepServicer(sweep_service_pb2_grpc.SweepServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, sweeps: Sweeps) -> None:
        self._sweeps = sweeps

    async def CreateSweep(self, request: pb.CreateSweepRequest, context: Any) -> sweep_pb2.Sweep:
        return await self._sweeps.create(request)

    async def GetSweep(self, request: pb.GetSweepRequest, context: Any) -> sweep_pb2.Sweep:
        return mapping.sweep_to_proto(*await self._sweeps.get(SweepName.parse(request.name)))

    async def ListSweeps(self, request: pb.ListSweepsRequest, context: Any) -> pb.ListSweepsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        sweeps, token, revision = await self._sweeps.list_sweeps(project, request)
        return pb.ListSweepsResponse(sweeps=sweeps, next_page_token=token, revision=revision)

    async def CancelSweep(self, request: pb.CancelSweepRequest, context: Any) -> sweep_pb2.Sweep:
        return await self._sweeps.cancel(SweepName.parse(request.name))

    async def WatchSweeps(
        self, request: pb.WatchSweepsRequest, context: Any
    ) -> AsyncIterator[pb.WatchSweepsResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        async for response in serve_watch(
            self._sweeps.feed, "sweep", project, request.start_revision, _watch_response
        ):
            yield response

    async def ListTrials(self, request: pb.ListTrialsRequest, context: Any) -> pb.ListTrialsResponse:
        trials, token = await self._sweeps.list_trials(SweepName.parse(request.parent, "parent"), request)
        return pb.ListTrialsResponse(trials=trials, next_page_token=token)

    async def GetSweepReport(self, request: pb.GetSweepReportRequest, context: Any) -> pb.SweepReport:
        return pb.SweepReport(html=await self._sweeps.report(SweepName.parse(request.name)))


def _watch_response(events: Sequence[Event], revision: int) -> pb.WatchSweepsResponse:
    return pb.WatchSweepsResponse(
        events=[
            pb.SweepEvent(
                type=event.type,
                sweep=ParseDict(dict(event.payload), sweep_pb2.Sweep(), ignore_unknown_fields=True),
                revision=event.revision,
            )
            for event in events
        ],
        revision=revision,
    )

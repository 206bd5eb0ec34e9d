"""The RPCs of tracking: convert, call, convert."""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from aios.errors import InvalidArgument
from aios.trainer.v1 import tracking_service_pb2 as pb
from aios.trainer.v1 import tracking_service_pb2_grpc
from services.trainer.metrics import Point
from services.trainer.tracking import experiments, filters
from services.trainer.tracking.experiments import STATUS, Experiment, moment
from services.trainer.tracking.logged_store import DATASET, GIVEN, MADE
from services.trainer.tracking.service import Beside, Tracking
from services.trainer.tracking.store import Tracked

EXPERIMENTS_MAX = 1_000
KEY_MAX = 600


class TrackingServicer(tracking_service_pb2_grpc.TrackingServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Any
    ) -> pb.CreateExperimentResponse:
        made = await self._tracking.create_experiment(request.name, _pairs(request.tags))
        return pb.CreateExperimentResponse(experiment_id=made)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Any) -> pb.GetExperimentResponse:
        found = await self._tracking.experiment(request.experiment_id)
        return pb.GetExperimentResponse(experiment=_experiment(found))

    async def GetExperimentByName(
        self, request: pb.GetExperimentByNameRequest, context: Any
    ) -> pb.GetExperimentByNameResponse:
        found = await self._tracking.experiment_named(request.experiment_name)
        return pb.GetExperimentByNameResponse(experiment=_experiment(found))

    async def SearchExperiments(
        self, request: pb.SearchExperimentsRequest, context: Any
    ) -> pb.SearchExperimentsResponse:
        view = experiments.check_view(request.view_type, "view_type")
        asked = filters.conditions(request.filter, experiments.TIMES)
        order = filters.orders(request.order_by)
        if not 0 <= request.max_results <= 2**31:
            raise InvalidArgument.of("max_results", "must not be negative")
        found = experiments.matching(await self._tracking.experiments(), asked, order, view)
        # There are few of them: one page holds all.
        return pb.SearchExperimentsResponse(
            experiments=map(_experiment, found[: request.max_results or EXPERIMENTS_MAX])
        )

    async def UpdateExperiment(
        self, request: pb.UpdateExperimentRequest, context: Any
    ) -> pb.UpdateExperimentResponse:
        name = experiments.check_name(request.new_name, "new_name")
        await self._tracking.change_experiment(request.experiment_id, lambda each: replace(each, name=name))
        return pb.UpdateExperimentResponse()

    async def DeleteExperiment(
        self, request: pb.DeleteExperimentRequest, context: Any
    ) -> pb.DeleteExperimentResponse:
        if request.experiment_id == experiments.DEFAULT:
            raise InvalidArgument.of("experiment_id", "the experiment that is there always cannot be deleted")
        await self._tracking.change_experiment(
            request.experiment_id, lambda each: replace(each, deleted=True)
        )
        return pb.DeleteExperimentResponse()

    async def RestoreExperiment(
        self, request: pb.RestoreExperimentRequest, context: Any
    ) -> pb.RestoreExperimentResponse:
        await self._tracking.change_experiment(
            request.experiment_id, lambda each: replace(each, deleted=False)
        )
        return pb.RestoreExperimentResponse()

    async def SetExperimentTag(
        self, request: pb.SetExperimentTagRequest, context: Any
    ) -> pb.SetExperimentTagResponse:
        tag = experiments.said(tags=[(request.key, request.value)]).tags
        await self._tracking.change_experiment(
            request.experiment_id, lambda each: replace(each, tags=MappingProxyType({**each.tags, **tag}))
        )
        return pb.SetExperimentTagResponse()

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        made = await self._tracking.start(
            request.experiment_id,
            request.run_name,
            request.user_id,
            request.start_time,
            _pairs(request.tags),
        )
        return pb.StartRunResponse(run=_run(made, Beside({}, {})))

    async def GetTrackedRun(self, request: pb.GetTrackedRunRequest, context: Any) -> pb.GetTrackedRunResponse:
        found = await self._tracking.get(_id(request))
        return pb.GetTrackedRunResponse(run=_run(found, await self._tracking.beside(found)))

    async def UpdateTrackedRun(
        self, request: pb.UpdateTrackedRunRequest, context: Any
    ) -> pb.UpdateTrackedRunResponse:
        after = await self._tracking.update(_id(request), request.status, request.end_time, request.run_name)
        return pb.UpdateTrackedRunResponse(run_info=_info(after))

    async def DeleteTrackedRun(
        self, request: pb.DeleteTrackedRunRequest, context: Any
    ) -> pb.DeleteTrackedRunResponse:
        await self._tracking.hide(request.run_id, hidden=True)
        return pb.DeleteTrackedRunResponse()

    async def RestoreTrackedRun(
        self, request: pb.RestoreTrackedRunRequest, context: Any
    ) -> pb.RestoreTrackedRunResponse:
        await self._tracking.hide(request.run_id, hidden=False)
        return pb.RestoreTrackedRunResponse()

    async def SearchTrackedRuns(
        self, request: pb.SearchTrackedRunsRequest, context: Any
    ) -> pb.SearchTrackedRunsResponse:
        found, beside, token = await self._tracking.search(
            request.experiment_ids,
            request.filter,
            request.run_view_type,
            request.max_results,
            request.order_by,
            request.page_token,
        )
        return pb.SearchTrackedRunsResponse(
            runs=[_run(tracked, beside) for tracked in found], next_page_token=token
        )

    async def LogMetric(self, request: pb.LogMetricRequest, context: Any) -> pb.LogMetricResponse:
        point = Point(request.key, request.value, request.step, _time(request.timestamp))
        await self._tracking.log(
            _id(request), experiments.said([point]), _of_models(request.run_id, [request])
        )
        return pb.LogMetricResponse()

    async def LogParam(self, request: pb.LogParamRequest, context: Any) -> pb.LogParamResponse:
        await self._tracking.log(_id(request), experiments.said(params=[(request.key, request.value)]))
        return pb.LogParamResponse()

    async def SetTag(self, request: pb.SetTagRequest, context: Any) -> pb.SetTagResponse:
        await self._tracking.log(_id(request), experiments.said(tags=[(request.key, request.value)]))
        return pb.SetTagResponse()

    async def DeleteTag(self, request: pb.DeleteTagRequest, context: Any) -> pb.DeleteTagResponse:
        await self._tracking.remove_tag(request.run_id, request.key)
        return pb.DeleteTagResponse()

    async def LogBatch(self, request: pb.LogBatchRequest, context: Any) -> pb.LogBatchResponse:
        points = [Point(each.key, each.value, each.step, _time(each.timestamp)) for each in request.metrics]
        said = experiments.said(points, _pairs(request.params), _pairs(request.tags))
        await self._tracking.log(request.run_id, said, _of_models(request.run_id, request.metrics))
        return pb.LogBatchResponse()

    async def LogInputs(self, request: pb.LogInputsRequest, context: Any) -> pb.LogInputsResponse:
        datasets = {
            f"{each.dataset.name}|{each.dataset.digest}"[:KEY_MAX]: MessageToDict(each)
            for each in request.datasets
        }
        models = {each.model_id: MessageToDict(each) for each in request.models}
        await self._tracking.link(request.run_id, **{DATASET: datasets, GIVEN: models})
        return pb.LogInputsResponse()

    async def LogOutputs(self, request: pb.LogOutputsRequest, context: Any) -> pb.LogOutputsResponse:
        models = {each.model_id: MessageToDict(each) for each in request.models}
        await self._tracking.link(request.run_id, **{MADE: models})
        return pb.LogOutputsResponse()

    async def GetMetricHistory(
        self, request: pb.GetMetricHistoryRequest, context: Any
    ) -> pb.GetMetricHistoryResponse:
        points, token = await self._tracking.history(
            _id(request), request.metric_key, request.max_results, request.page_token
        )
        return pb.GetMetricHistoryResponse(
            metrics=[
                pb.Metric(
                    key=point.key,
                    value=point.value,
                    timestamp=experiments.millis(point.time),
                    step=point.step,
                )
                for point in points
            ],
            next_page_token=token,
        )


def _id(request: Any) -> str:
    """Old clients know a run by `run_uuid`."""
    return str(request.run_id or request.run_uuid)


def _pairs(words: Iterable[Any]) -> list[tuple[str, str]]:
    return [(word.key, word.value) for word in words]


def _time(millis: int) -> datetime:
    if not millis:
        raise InvalidArgument.of("timestamp", "must be milliseconds since 1970")
    return moment(millis)


def _experiment(each: Experiment) -> pb.Experiment:
    return pb.Experiment(
        experiment_id=each.id,
        name=each.name,
        lifecycle_stage=_stage(each.deleted),
        creation_time=experiments.millis(each.create_time),
        last_update_time=experiments.millis(each.update_time),
        tags=[pb.Tag(key=key, value=value) for key, value in sorted(each.tags.items())],
        artifact_location=f"mlflow-artifacts:/{each.id}",
    )


def _run(tracked: Tracked, beside: Beside) -> pb.TrackedRun:
    name = tracked.run.name
    measured = []
    for key, value in sorted(tracked.run.metrics.items()):
        step, time = beside.steps.get((name, key), (0, tracked.run.update_time))
        measured.append(pb.Metric(key=key, value=value, step=step, timestamp=experiments.millis(time)))
    tags = {"mlflow.runName": tracked.title, **tracked.tags}
    return pb.TrackedRun(
        info=_info(tracked),
        data=pb.TrackedRunData(
            metrics=measured,
            params=[pb.Param(key=key, value=value) for key, value in sorted(tracked.params.items())],
            tags=[pb.Tag(key=key, value=value) for key, value in sorted(tags.items())],
        ),
        inputs=pb.TrackedRunInputs(
            dataset_inputs=[
                ParseDict(dict(each), pb.DatasetInput()) for each in beside.links.get((name, DATASET), ())
            ],
            model_inputs=[
                ParseDict(dict(each), pb.LoggedModelInput()) for each in beside.links.get((name, GIVEN), ())
            ],
        ),
        outputs=pb.TrackedRunOutputs(
            model_outputs=[
                ParseDict(dict(each), pb.LoggedModelOutput()) for each in beside.links.get((name, MADE), ())
            ]
        ),
    )


def _of_models(run_id: str, metrics: Iterable[Any]) -> list[dict[str, Any]]:
    """What of some metrics is of logged models."""
    return [
        {
            "key": each.key,
            "value": each.value,
            "timestamp": each.timestamp,
            "step": each.step,
            "dataset_name": each.dataset_name,
            "dataset_digest": each.dataset_digest,
            "model_id": each.model_id,
            "run_id": run_id,
        }
        for each in metrics
        if each.model_id and math.isfinite(each.value)
    ]


def _info(tracked: Tracked) -> pb.TrackedRunInfo:
    run = tracked.run
    return pb.TrackedRunInfo(
        run_id=run.name.run,
        run_uuid=run.name.run,
        run_name=tracked.title,
        experiment_id=tracked.experiment,
        user_id=tracked.user,
        status=STATUS[run.state],
        start_time=experiments.millis(run.create_time),
        end_time=None if run.end_time is None else experiments.millis(run.end_time),
        artifact_uri=f"mlflow-artifacts:/{tracked.experiment}/{run.name.run}/artifacts",
        lifecycle_stage=_stage(tracked.deleted),
    )


def _stage(deleted: bool) -> str:
    return "deleted" if deleted else "active"

"""The RPCs of logged and registered models: convert, call, convert."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from aios.errors import InvalidArgument
from aios.trainer.v1 import tracked_model_service_pb2 as pb
from aios.trainer.v1 import tracked_model_service_pb2_grpc, tracking_service_pb2
from services.trainer.tracking import experiments, filters, registered, store
from services.trainer.tracking.experiments import TagNotFound, millis
from services.trainer.tracking.logged import Logged
from services.trainer.tracking.logged_service import LoggedModels, Registrations
from services.trainer.tracking.registered import Model, Version, Words
from services.trainer.tracking.registry import Registry

MODELS_SIZE, VERSIONS_SIZE, SIZE_MAX = 100, 1_000, 1_000
T = TypeVar("T")


class TrackedModelServicer(tracked_model_service_pb2_grpc.TrackedModelServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, logged: LoggedModels, registry: Registry) -> None:
        self._logged = logged
        self._registry = registry

    async def CreateLoggedModel(
        self, request: pb.CreateLoggedModelRequest, context: Any
    ) -> pb.CreateLoggedModelResponse:
        made = await self._logged.create(
            request.experiment_id,
            request.name,
            request.model_type,
            request.source_run_id,
            _pairs(request.params),
            _pairs(request.tags),
        )
        return pb.CreateLoggedModelResponse(model=_logged(made, {}))

    async def GetLoggedModel(
        self, request: pb.GetLoggedModelRequest, context: Any
    ) -> pb.GetLoggedModelResponse:
        found = await self._logged.get(request.model_id)
        known = await self._logged.registrations([found])
        return pb.GetLoggedModelResponse(model=_logged(found, known))

    async def FinalizeLoggedModel(
        self, request: pb.FinalizeLoggedModelRequest, context: Any
    ) -> pb.FinalizeLoggedModelResponse:
        after = await self._logged.finish(request.model_id, request.status)
        return pb.FinalizeLoggedModelResponse(model=_logged(after, {}))

    async def DeleteLoggedModel(
        self, request: pb.DeleteLoggedModelRequest, context: Any
    ) -> pb.DeleteLoggedModelResponse:
        await self._logged.hide(request.model_id)
        return pb.DeleteLoggedModelResponse()

    async def SearchLoggedModels(
        self, request: pb.SearchLoggedModelsRequest, context: Any
    ) -> pb.SearchLoggedModelsResponse:
        named = filters.orders([each.field_name for each in request.order_by])
        order = [
            replace(one, descending=each.HasField("ascending") and not each.ascending)
            for one, each in zip(named, request.order_by, strict=True)
        ]
        found, token = await self._logged.search(
            request.experiment_ids, request.filter, request.max_results, order, request.page_token
        )
        known = await self._logged.registrations(found)
        return pb.SearchLoggedModelsResponse(
            models=[_logged(each, known) for each in found], next_page_token=token
        )

    async def SetLoggedModelTags(
        self, request: pb.SetLoggedModelTagsRequest, context: Any
    ) -> pb.SetLoggedModelTagsResponse:
        after = await self._logged.tag(request.model_id, _pairs(request.tags))
        return pb.SetLoggedModelTagsResponse(model=_logged(after, {}))

    async def DeleteLoggedModelTag(
        self, request: pb.DeleteLoggedModelTagRequest, context: Any
    ) -> pb.DeleteLoggedModelTagResponse:
        await self._logged.untag(request.model_id, request.tag_key)
        return pb.DeleteLoggedModelTagResponse()

    async def LogLoggedModelParams(
        self, request: pb.LogLoggedModelParamsRequest, context: Any
    ) -> pb.LogLoggedModelParamsResponse:
        await self._logged.give(request.model_id, _pairs(request.params))
        return pb.LogLoggedModelParamsResponse()

    async def CreateRegisteredModel(
        self, request: pb.CreateRegisteredModelRequest, context: Any
    ) -> pb.CreateRegisteredModelResponse:
        made = await self._registry.create(request.name, request.description, _pairs(request.tags))
        return pb.CreateRegisteredModelResponse(registered_model=_model(made))

    async def GetRegisteredModel(
        self, request: pb.GetRegisteredModelRequest, context: Any
    ) -> pb.GetRegisteredModelResponse:
        found = await self._registry.get(request.name)
        return pb.GetRegisteredModelResponse(registered_model=_model(found))

    async def UpdateRegisteredModel(
        self, request: pb.UpdateRegisteredModelRequest, context: Any
    ) -> pb.UpdateRegisteredModelResponse:
        await self._registry.say(
            request.name, "", lambda known: replace(known, description=request.description)
        )
        found = await self._registry.get(request.name)
        return pb.UpdateRegisteredModelResponse(registered_model=_model(found))

    async def RenameRegisteredModel(
        self, request: pb.RenameRegisteredModelRequest, context: Any
    ) -> pb.RenameRegisteredModelResponse:
        found = await self._registry.rename(request.name, request.new_name)
        return pb.RenameRegisteredModelResponse(registered_model=_model(found))

    async def DeleteRegisteredModel(
        self, request: pb.DeleteRegisteredModelRequest, context: Any
    ) -> pb.DeleteRegisteredModelResponse:
        await self._registry.delete(request.name)
        return pb.DeleteRegisteredModelResponse()

    async def SearchRegisteredModels(
        self, request: pb.SearchRegisteredModelsRequest, context: Any
    ) -> pb.SearchRegisteredModelsResponse:
        asked = filters.conditions(request.filter, registered.MODEL_TIMES)
        order = filters.orders(request.order_by)
        found = filters.matching(await self._registry.all(), asked, order, registered.value_of_model)
        page, token = _page(found, request, MODELS_SIZE)
        return pb.SearchRegisteredModelsResponse(registered_models=map(_model, page), next_page_token=token)

    async def GetLatestVersions(
        self, request: pb.GetLatestVersionsRequest, context: Any
    ) -> pb.GetLatestVersionsResponse:
        found = await self._registry.get(request.name)
        wanted = not request.stages or "none" in {stage.lower() for stage in request.stages}
        newest = [found.latest] if found.latest and wanted else []
        return pb.GetLatestVersionsResponse(model_versions=map(_version, newest))

    async def SetRegisteredModelTag(
        self, request: pb.SetRegisteredModelTagRequest, context: Any
    ) -> pb.SetRegisteredModelTagResponse:
        await self._registry.say(request.name, "", lambda known: _tagged(known, request.key, request.value))
        return pb.SetRegisteredModelTagResponse()

    async def DeleteRegisteredModelTag(
        self, request: pb.DeleteRegisteredModelTagRequest, context: Any
    ) -> pb.DeleteRegisteredModelTagResponse:
        await self._registry.say(request.name, "", lambda known: _untagged(known, request.key))
        return pb.DeleteRegisteredModelTagResponse()

    async def SetRegisteredModelAlias(
        self, request: pb.SetRegisteredModelAliasRequest, context: Any
    ) -> pb.SetRegisteredModelAliasResponse:
        await self._registry.point(request.name, request.alias, request.version)
        return pb.SetRegisteredModelAliasResponse()

    async def DeleteRegisteredModelAlias(
        self, request: pb.DeleteRegisteredModelAliasRequest, context: Any
    ) -> pb.DeleteRegisteredModelAliasResponse:
        await self._registry.unpoint(request.name, request.alias)
        return pb.DeleteRegisteredModelAliasResponse()

    async def GetModelVersionByAlias(
        self, request: pb.GetModelVersionByAliasRequest, context: Any
    ) -> pb.GetModelVersionByAliasResponse:
        found = await self._registry.named(request.name, request.alias)
        return pb.GetModelVersionByAliasResponse(model_version=_version(found))

    async def CreateTrackedModelVersion(
        self, request: pb.CreateTrackedModelVersionRequest, context: Any
    ) -> pb.CreateTrackedModelVersionResponse:
        made = await self._registry.register(
            request.name,
            request.source,
            request.run_id,
            request.model_id,
            request.description,
            _pairs(request.tags),
        )
        return pb.CreateTrackedModelVersionResponse(model_version=_version(made))

    async def GetTrackedModelVersion(
        self, request: pb.GetTrackedModelVersionRequest, context: Any
    ) -> pb.GetTrackedModelVersionResponse:
        found = await self._registry.version(request.name, request.version)
        return pb.GetTrackedModelVersionResponse(model_version=_version(found))

    async def UpdateTrackedModelVersion(
        self, request: pb.UpdateTrackedModelVersionRequest, context: Any
    ) -> pb.UpdateTrackedModelVersionResponse:
        await self._registry.say(
            request.name, request.version, lambda known: replace(known, description=request.description)
        )
        found = await self._registry.version(request.name, request.version)
        return pb.UpdateTrackedModelVersionResponse(model_version=_version(found))

    async def DeleteTrackedModelVersion(
        self, request: pb.DeleteTrackedModelVersionRequest, context: Any
    ) -> pb.DeleteTrackedModelVersionResponse:
        await self._registry.remove(request.name, request.version)
        return pb.DeleteTrackedModelVersionResponse()

    async def SearchTrackedModelVersions(
        self, request: pb.SearchTrackedModelVersionsRequest, context: Any
    ) -> pb.SearchTrackedModelVersionsResponse:
        asked = filters.conditions(request.filter, registered.VERSION_NUMBERS)
        order = filters.orders(request.order_by)
        names = [each.values[0] for each in asked if (each.key, each.operator) == ("name", "=")]
        known = [each.title for each in await self._registry.all() if not names or each.title in names]
        found = [version for title in known for version in await self._registry.versions(title)]
        found.sort(key=lambda each: each.create_time, reverse=True)
        page, token = _page(
            filters.matching(found, asked, order, registered.value_of_version), request, VERSIONS_SIZE
        )
        return pb.SearchTrackedModelVersionsResponse(
            model_versions=map(_version, page), next_page_token=token
        )

    async def GetModelVersionDownloadUri(
        self, request: pb.GetModelVersionDownloadUriRequest, context: Any
    ) -> pb.GetModelVersionDownloadUriResponse:
        found = await self._registry.version(request.name, request.version)
        uri = registered.place(found.model, found.number).uri
        return pb.GetModelVersionDownloadUriResponse(artifact_uri=uri)

    async def SetModelVersionTag(
        self, request: pb.SetModelVersionTagRequest, context: Any
    ) -> pb.SetModelVersionTagResponse:
        registered.number(request.version)
        await self._registry.say(
            request.name, request.version, lambda known: _tagged(known, request.key, request.value)
        )
        return pb.SetModelVersionTagResponse()

    async def DeleteModelVersionTag(
        self, request: pb.DeleteModelVersionTagRequest, context: Any
    ) -> pb.DeleteModelVersionTagResponse:
        registered.number(request.version)
        await self._registry.say(request.name, request.version, lambda known: _untagged(known, request.key))
        return pb.DeleteModelVersionTagResponse()


def _pairs(words: Iterable[Any]) -> list[tuple[str, str]]:
    return [(word.key, word.value) for word in words]


def _tags(tags: Any) -> list[tracking_service_pb2.Tag]:
    return [tracking_service_pb2.Tag(key=key, value=value) for key, value in sorted(tags.items())]


def _tagged(known: Words, key: str, value: str) -> Words:
    tag = experiments.said(tags=[(key, value)]).tags
    return replace(known, tags=MappingProxyType({**known.tags, **tag}))


def _untagged(known: Words, key: str) -> Words:
    if key not in known.tags:
        raise TagNotFound(f"There is no tag {key[:100]!r}.")
    return replace(
        known, tags=MappingProxyType({name: value for name, value in known.tags.items() if name != key})
    )


def _page(found: Sequence[T], request: Any, size: int) -> tuple[Sequence[T], str]:
    if request.max_results < 0:
        raise InvalidArgument.of("max_results", "must not be negative")
    start, limit = store.page_start(request.page_token), min(request.max_results or size, SIZE_MAX)
    more = store.page_token(start + limit) if len(found) > start + limit else ""
    return found[start : start + limit], more


def _logged(each: Logged, known: Registrations) -> pb.LoggedModel:
    return pb.LoggedModel(
        info=pb.LoggedModelInfo(
            model_id=each.id,
            experiment_id=each.experiment,
            name=each.name,
            creation_timestamp_ms=millis(each.create_time),
            last_updated_timestamp_ms=millis(each.update_time),
            artifact_uri=each.place.uri,
            status=each.status,
            model_type=each.model_type,
            source_run_id=each.run,
            tags=_tags(each.tags),
            registrations=[
                pb.LoggedModelRegistration(name=name, version=str(version))
                for name, version in known.get(each.id, [])
            ],
        ),
        data=pb.LoggedModelData(
            params=[
                tracking_service_pb2.Param(key=key, value=value) for key, value in sorted(each.params.items())
            ],
            metrics=[tracking_service_pb2.Metric(**metric) for _, metric in sorted(each.metrics.items())],
        ),
    )


def _model(each: Model) -> pb.RegisteredModel:
    return pb.RegisteredModel(
        name=each.title,
        creation_timestamp=millis(each.create_time),
        last_updated_timestamp=millis(each.update_time),
        description=each.description,
        latest_versions=[_version(each.latest)] if each.latest else [],
        tags=_tags(each.tags),
        aliases=[
            pb.RegisteredModelAlias(alias=alias, version=version)
            for alias, version in sorted(each.aliases.items())
        ],
    )


def _version(each: Version) -> pb.TrackedModelVersion:
    return pb.TrackedModelVersion(
        name=each.title,
        version=str(each.number),
        creation_timestamp=millis(each.create_time),
        last_updated_timestamp=millis(each.create_time),
        user_id=each.creator,
        current_stage="None",
        description=each.description,
        source=each.source,
        run_id=each.run,
        status="READY",
        tags=_tags(each.tags),
        aliases=each.aliases,
        model_id=each.logged_model,
    )

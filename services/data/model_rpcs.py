"""Methods of the model registry."""

from google.protobuf.json_format import MessageToDict

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import model_pb2
from aios.names import ModelName, ModelVersionName, check_id
from aios.records import Tx
from aios.runtime.context import principal
from services.data import blob_store, datasets, entry_store, mapping, model_store, models
from services.data.ledger import Draft
from services.data.logs import Change, Log
from services.data.manifests import Kind, Manifest
from services.data.models import AliasNotFound, ModelVersionInUse, ModelVersionRejected, RunRegistered
from services.data.rpcs import Context, Rpcs, project_of, run_of


class ModelRpcs(Rpcs):
    """Models, their versions and aliases."""

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> model_pb2.Model:
        name = ModelName(project_of(request.parent), check_id(request.model_id, "model_id"))
        description = datasets.check_text(request.model.description, "model.description")

        def decide(tx: Tx) -> Draft:
            model_store.require_no_model(tx, name)
            return Draft(Change.CREATED, {"description": description})

        return await self._ledger.change(
            Log.of(name), decide, lambda tx: _model(tx, name), model_pb2.Model, request
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        name = ModelName.parse(request.name)
        return await self._db.read(lambda tx: _model(tx, name))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        project = project_of(request.parent)
        found, token = await self._db.read(lambda tx: model_store.models_page(tx, request, project))
        return pb.ListModelsResponse(models=map(mapping.model_to_proto, found), next_page_token=token)

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        name = ModelName.parse(request.parent, "parent")
        # The call may make the model, so both must be names that a caller may give.
        check_id(name.project, "parent")
        check_id(name.model, "parent")
        asked, at = request.model_version, "model_version"
        manifest = Manifest.of(Kind.MODEL, mapping.files_from_proto(asked.files), f"{at}.files")
        run = run_of(asked.run, f"{at}.run") if asked.run else None
        models.check_claim(run, name, by_service=principal().role == "service")
        signature = mapping.signature_from_proto(asked.signature)
        # What MLflow's clients register may be for them alone: it says no tensors, and is never deployed.
        if signature.inputs or signature.outputs or principal().role != "service":
            signature = models.check_signature(signature, f"{at}.signature")
        body = {
            "manifest": manifest.sha256,
            "signature": MessageToDict(mapping.signature_to_proto(signature)),
            "metrics": dict(models.check_metrics(dict(asked.metrics), f"{at}.metrics")),
            "run": run.run if run else "",
            "card": models.check_card(asked.card, f"{at}.card"),
            "rejected": models.check_rejected(asked.rejected, f"{at}.rejected"),
        }
        content = await self._contents.publish(name.project, manifest)
        number = 0

        def decide(tx: Tx) -> Draft | model_pb2.ModelVersion:
            nonlocal number
            earlier = model_store.registered_by(tx, name, run) if run else None
            if earlier is not None:
                if earlier.manifest_sha256 != manifest.sha256:
                    raise RunRegistered(
                        f"{run} has registered {earlier.name}.", run=str(run), name=str(earlier.name)
                    )
                return mapping.model_version_to_proto(earlier)
            number = model_store.next_number(tx, name)
            return Draft(Change.REGISTERED, {**body, "number": number}, content)

        def answer(tx: Tx) -> model_pb2.ModelVersion:
            made = ModelVersionName(name.project, name.model, str(number))
            return mapping.model_version_to_proto(model_store.get_version(tx, made))

        return await self._ledger.change(Log.of(name), decide, answer, model_pb2.ModelVersion, request)

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        name = ModelVersionName.parse(request.name)
        version = await self._db.read(lambda tx: model_store.get_version(tx, name))
        manifest = await self._contents.manifest(name.project, version.manifest_sha256)
        return mapping.model_version_to_proto(version, manifest.files)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        name = ModelName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: model_store.versions_page(tx, request, name))
        return pb.ListModelVersionsResponse(
            model_versions=map(mapping.model_version_to_proto, found), next_page_token=token
        )

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> model_pb2.Model:
        name = ModelName.parse(request.model, "model")
        alias = models.check_alias(request.alias, "alias")
        wanted = ModelVersionName.parse(f"{name}/versions/{request.version}", "version")

        def decide(tx: Tx) -> Draft | model_pb2.Model:
            version = model_store.get_version(tx, wanted)
            if version.rejected:
                raise ModelVersionRejected(
                    f"{version.name} must not be promoted: {version.rejected}", name=str(version.name)
                )
            number = int(version.name.version)
            before = model_store.get_model(tx, name).aliases.get(alias, 0)
            if before == number:
                return _model(tx, name)
            return Draft(Change.ALIAS_SET, {"alias": alias, "number": number, "before": before})

        return await self._ledger.change(Log.of(name), decide, lambda tx: _model(tx, name), model_pb2.Model)

    async def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Context
    ) -> model_pb2.Model:
        name = ModelName.parse(request.model, "model")

        def decide(tx: Tx) -> Draft:
            if request.alias not in model_store.get_model(tx, name).aliases:
                raise AliasNotFound(f"{name} has no alias {request.alias!r}.", alias=request.alias)
            return Draft(Change.ALIAS_DELETED, {"alias": request.alias})

        return await self._ledger.change(Log.of(name), decide, lambda tx: _model(tx, name), model_pb2.Model)

    async def ListModelLog(
        self, request: pb.ListModelLogRequest, context: Context
    ) -> pb.ListModelLogResponse:
        name = ModelName.parse(request.parent, "parent")

        def read(tx: Tx) -> pb.ListModelLogResponse:
            model_store.get_model(tx, name)
            found, token = entry_store.entries_page(tx, request, Log.of(name))
            entries = [mapping.entry_to_proto(entry, name) for entry in found]
            return pb.ListModelLogResponse(entries=entries, next_page_token=token)

        return await self._db.read(read)

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Context
    ) -> pb.Deletion:
        asked = ModelVersionName.parse(request.name)
        # Deployments name versions by number: settle what `latest` or an alias means first.
        name = (await self._db.read(lambda tx: model_store.get_version(tx, asked))).name
        model = ModelName(name.project, name.model)
        if serving := sorted(await self._parts.deployments(name)):
            named = ", ".join(serving)
            raise ModelVersionInUse(f"{name} is served by {named}: delete or update that first.", users=named)
        told = pb.Deletion()

        def decide(tx: Tx) -> Draft | pb.Deletion:
            version = model_store.get_version(tx, name)
            number = int(name.version)
            aliases = [
                alias for alias, each in model_store.get_model(tx, model).aliases.items() if each == number
            ]
            if aliases:
                named = ", ".join(f"@{alias}" for alias in sorted(aliases))
                raise ModelVersionInUse(f"{name} is {named}: move that first.", users=named)
            told.CopyFrom(self._deletion(blob_store.freed_by(tx, name.project, [version.manifest_sha256])))
            return told if request.validate_only else Draft(Change.VERSION_DELETED, {"number": number})

        return await self._ledger.change(Log.of(model), decide, lambda tx: told, pb.Deletion)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.Deletion:
        name = ModelName.parse(request.name)
        serving = set[str]()
        for version in await self._db.read(lambda tx: model_store.version_names(tx, name)):
            serving |= set(await self._parts.deployments(version))
        if serving:
            named = ", ".join(sorted(serving))
            raise ModelVersionInUse(f"{name} is served by {named}: delete or update that first.", users=named)
        told = pb.Deletion()

        def decide(tx: Tx) -> Draft | pb.Deletion:
            numbered = model_store.next_number(tx, name) - 1
            going = model_store.manifests_of(tx, name)
            told.CopyFrom(self._deletion(blob_store.freed_by(tx, name.project, going)))
            return told if request.validate_only else Draft(Change.DELETED, {"numbered": numbered})

        return await self._ledger.change(Log.of(name), decide, lambda tx: told, pb.Deletion)


def _model(tx: Tx, name: ModelName) -> model_pb2.Model:
    return mapping.model_to_proto(model_store.get_model(tx, name))

"""The registry of the data service, as MLflow's clients use it: models, versions and aliases are the same ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from aios import transfer
from aios.common.v1 import file_pb2, tensor_pb2
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2
from aios.errors import AiosError, AlreadyExists, InvalidArgument, NotFound
from aios.names import ModelVersionName, RunName
from aios.records import Database, Tx
from aios.runtime.context import principal
from services.trainer import store as run_store
from services.trainer.runs import RunNotFound
from services.trainer.tracking import experiments, logged_store, mlmodel, paths, registered_store
from services.trainer.tracking.artifacts import Artifacts
from services.trainer.tracking.logged import Logged
from services.trainer.tracking.paths import Kind, Place
from services.trainer.tracking.registered import (
    Model,
    RegisteredModelExists,
    RegisteredModelNotFound,
    Version,
    Words,
    model_id,
    number,
    place,
)

PAGE = 500
CARD = "A model that was logged with MLflow{flavors}. `mlflow.pyfunc.load_model` opens it; the platform does not."


class Registry:
    """Models and versions of the caller's project."""

    def __init__(
        self, db: Database, data: data_service_pb2_grpc.DataServiceStub, artifacts: Artifacts
    ) -> None:
        self._db = db
        self._data = data
        self._artifacts = artifacts

    async def create(self, title: str, description: str, tags: Sequence[tuple[str, str]]) -> Model:
        """Make a model without versions."""
        project, made = principal().project, model_id(title)
        words = Words(title, tags=experiments.said(tags=tags).tags)
        if known := await self._db.read(lambda tx: registered_store.titled(tx, project, title)):
            if await self._is_there(known):
                raise RegisteredModelExists(f"A model is named {title!r} already.", model=made)
            await self._db.write(lambda tx: registered_store.forget_model(tx, project, known))
        request = data_service_pb2.CreateModelRequest(
            parent=f"projects/{project}", model_id=made, model=model_pb2.Model(description=description)
        )
        try:
            await self._data.CreateModel(request)
        except AlreadyExists:
            await self._change(made, 0, lambda known: known if known.title else replace(known, title=title))
            raise RegisteredModelExists(
                f"The model {made!r} is there already: {title!r} would be the same one.", model=made
            ) from None
        await self._change(made, 0, lambda known: words)
        return await self.get(title)

    async def get(self, title: str) -> Model:
        """One model, by the name that it was made with or by its id."""
        return await self._model(await self._found(title))

    async def all(self) -> list[Model]:
        """Every model of the project, by id."""
        request = data_service_pb2.ListModelsRequest(parent=f"projects/{principal().project}", page_size=PAGE)
        found: list[Model] = []
        while True:
            page = await self._data.ListModels(request)
            found += [await self._model(model) for model in page.models]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def version(self, title: str, version: str) -> Version:
        """One version."""
        model = await self._found(title)
        name = f"{model.name}/versions/{number(version)}"
        found = await self._data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=name))
        return _version(found, model, await self._words(model))

    async def versions(self, title: str) -> list[Version]:
        """Every version of a model, newest first."""
        model = await self._found(title)
        words = await self._words(model)
        request = data_service_pb2.ListModelVersionsRequest(parent=model.name, page_size=PAGE)
        found: list[Version] = []
        while True:
            page = await self._data.ListModelVersions(request)
            found += [_version(each, model, words) for each in page.model_versions]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def named(self, title: str, alias: str) -> Version:
        """The version that an alias names."""
        model = await self._found(title)
        if alias != "latest" and alias not in model.aliases:
            raise NotFound(f"{model.name} has no alias {alias[:63]!r}.", reason="ALIAS_NOT_FOUND")
        name = model.latest_version if alias == "latest" else f"{model.name}/versions/{model.aliases[alias]}"
        return await self.version(title, name.rpartition("/")[2])

    async def point(self, title: str, alias: str, version: str) -> None:
        """Let an alias name a version."""
        model = await self._found(title)
        request = data_service_pb2.SetModelAliasRequest(
            model=model.name, alias=alias, version=str(number(version))
        )
        await self._data.SetModelAlias(request)

    async def unpoint(self, title: str, alias: str) -> None:
        """Remove an alias."""
        model = await self._found(title)
        await self._data.DeleteModelAlias(
            data_service_pb2.DeleteModelAliasRequest(model=model.name, alias=alias)
        )

    async def register(
        self,
        title: str,
        source: str,
        run_id: str,
        logged_model: str,
        description: str,
        tags: Sequence[tuple[str, str]],
    ) -> Version:
        """Make artifacts the next version of a model."""
        model = await self._found(title)
        said = experiments.said(tags=tags).tags
        origin, logged_model = await self._origin(source, logged_model)
        held = await self._artifacts.files(principal().project, origin)
        start = f"{origin.path}/" if origin.path else ""
        files = [each for each in held if each.path.startswith(start)]
        if not files:
            raise InvalidArgument.of("source", f"nothing lies at {origin.uri}: log the model first")
        if logged_model and not run_id:
            run_id = (await self._logged(logged_model)).run
        stated = await self._stated(origin, {each.path for each in files}, f"{start}{mlmodel.FILE}")
        flavors = ", ".join(mlmodel.flavors(stated))
        made = model_pb2.ModelVersion(
            files=[
                file_pb2.File(
                    path=each.path.removeprefix(start), sha256=each.sha256, size_bytes=each.size_bytes
                )
                for each in files
            ],
            signature=mlmodel.signature(stated) or tensor_pb2.Signature(),
            metrics=await self._metrics(logged_model),
            card=description or CARD.format(flavors=f" ({flavors})" if flavors else ""),
        )
        version = await self._create(model.name, made, await self._run(run_id))
        name = ModelVersionName.parse(version.name)
        words = Words(title, description or None, source, run_id, logged_model, principal().subject, said)
        await self._change(name.model, int(name.version), lambda known: words)
        return await self.version(title, name.version)

    async def remove(self, title: str, version: str) -> None:
        """Delete a version."""
        model, at = await self._found(title), number(version)
        request = data_service_pb2.DeleteModelVersionRequest(name=f"{model.name}/versions/{at}")
        await self._data.DeleteModelVersion(request)
        project, made = principal().project, model.name.rpartition("/")[2]
        await self._db.write(lambda tx: registered_store.forget(tx, project, made, at))

    async def delete(self, title: str) -> None:
        """Delete a model with all of its versions."""
        model = await self._found(title)
        await self._data.DeleteModel(data_service_pb2.DeleteModelRequest(name=model.name))
        project, made = principal().project, model.name.rpartition("/")[2]
        await self._db.write(lambda tx: registered_store.forget_model(tx, project, made))

    async def rename(self, title: str, new: str) -> Model:
        """Give a model another title. Its id stays: it is in the names of its versions, in lineage and in deployments.

        Raises:
            RegisteredModelExists: another model has that title, or would be found by it.
        """
        model = await self._found(title)
        project, made, wanted = principal().project, model.name.rpartition("/")[2], model_id(new)
        taken = await self._db.read(lambda tx: registered_store.titled(tx, project, new))
        for other in {taken, wanted} - {made, ""}:
            if await self._is_there(other):
                raise RegisteredModelExists(f"The model {other!r} has the name {new!r} already.", model=other)

        def write(tx: Tx) -> None:
            if taken and taken != made:
                registered_store.forget_model(tx, project, taken)  # it was deleted
            known = registered_store.words(tx, project, made)
            registered_store.save(tx, project, made, 0, replace(known, title=new))
            registered_store.retitle(tx, project, made, new)

        await self._db.write(write)
        return await self.get(new)

    async def say(self, title: str, version: str, change: Callable[[Words], Words]) -> None:
        """Change what MLflow says of a model, or of a version of it."""
        if version:
            found = await self.version(title, version)
            await self._change(found.model, found.number, change)
        else:
            model = await self._found(title)
            await self._change(model.name.rpartition("/")[2], 0, change)

    async def _origin(self, source: str, logged_model: str) -> tuple[Place, str]:
        """Where a source lies, and the logged model that it is, if it is one."""
        match source.removeprefix("models:/").split("/") if source.startswith("models:/") else []:
            case [model] if model:
                logged = await self._logged(model)
                return logged.place, logged.id
            case [title, version]:
                found = await self.version(title, version)
                return place(found.model, found.number), found.logged_model
        origin = paths.of_uri(source)
        return origin, origin.id if origin.kind is Kind.MODEL else logged_model

    async def _stated(self, origin: Place, held: set[str], path: str) -> Mapping[str, object]:
        """What the text file of a model says; nothing where there is none, or a large one."""
        if path not in held:
            return {}
        found = await self._artifacts.download(f"{origin.root}/{path}")
        size = found.file.size_bytes
        if not 0 < size <= mlmodel.BYTES_MAX:
            return {}
        async with transfer.client() as http:
            return mlmodel.read(await transfer.read_range(http, found.url, 0, size, mlmodel.FILE))

    async def _metrics(self, logged_model: str) -> dict[str, float]:
        if not logged_model:
            return {}
        logged = await self._logged(logged_model)
        newest = sorted(logged.metrics.values(), key=lambda metric: int(metric["timestamp"]))
        return {each["key"]: each["value"] for each in newest if math.isfinite(each["value"])}

    async def _logged(self, model: str) -> Logged:
        project = principal().project
        return await self._db.read(lambda tx: logged_store.get(tx, project, model))

    async def _run(self, run_id: str) -> str:
        name = RunName(principal().project, run_id)
        with suppress(RunNotFound):
            return str((await self._db.read(lambda tx: run_store.get(tx, name))).name) if run_id else ""
        return ""

    async def _create(self, parent: str, made: model_pb2.ModelVersion, run: str) -> model_pb2.ModelVersion:
        """Register. Where the run has registered another version of the model, lineage alone names the run."""
        made.run = run
        request = data_service_pb2.CreateModelVersionRequest(parent=parent, model_version=made)
        try:
            return await self._data.CreateModelVersion(request)
        except AiosError as error:
            if error.reason != "RUN_REGISTERED":
                raise
        request.model_version.run = ""
        version = await self._data.CreateModelVersion(request)
        edge = data_service_pb2.LineageEdge(source=run, target=version.name, relation="produced")
        project = f"projects/{principal().project}"
        await self._data.RecordLineage(data_service_pb2.RecordLineageRequest(parent=project, edges=[edge]))
        return version

    async def _is_there(self, model: str) -> bool:
        """Whether the data service has a model of this id."""
        name = f"projects/{principal().project}/models/{model}"
        try:
            await self._data.GetModel(data_service_pb2.GetModelRequest(name=name))
        except NotFound:
            return False
        return True

    async def _found(self, title: str) -> model_pb2.Model:
        project = principal().project
        made = await self._db.read(lambda tx: registered_store.titled(tx, project, title)) or title
        try:
            return await self._data.GetModel(
                data_service_pb2.GetModelRequest(name=f"projects/{project}/models/{made}")
            )
        except (NotFound, InvalidArgument):
            raise RegisteredModelNotFound(f"No model is named {title[:255]!r} in this project.") from None

    async def _model(self, model: model_pb2.Model) -> Model:
        words = await self._words(model)
        latest = None
        if model.latest_version:
            request = data_service_pb2.GetModelVersionRequest(name=model.latest_version)
            with suppress(NotFound):
                latest = _version(await self._data.GetModelVersion(request), model, words)
        mine, made = words.get(0, Words()), model.name.rpartition("/")[2]
        created = model.create_time.ToDatetime(UTC)
        return Model(
            model=made,
            title=mine.title or made,
            description=model.description if mine.description is None else mine.description,
            create_time=created,
            update_time=latest.create_time if latest else created,
            aliases=dict(model.aliases),
            tags=mine.tags,
            latest=latest,
        )

    async def _words(self, model: model_pb2.Model) -> dict[int, Words]:
        project, made = principal().project, model.name.rpartition("/")[2]
        return await self._db.read(lambda tx: registered_store.of_model(tx, project, made))

    async def _change(self, model: str, version: int, change: Callable[[Words], Words]) -> None:
        project = principal().project

        def write(tx: Tx) -> None:
            known = registered_store.words(tx, project, model, version)
            registered_store.save(tx, project, model, version, change(known))

        await self._db.write(write)


def _version(found: model_pb2.ModelVersion, model: model_pb2.Model, words: Mapping[int, Words]) -> Version:
    name = ModelVersionName.parse(found.name)
    at = int(name.version)
    said = words.get(at, Words())
    made: Timestamp = found.create_time
    return Version(
        model=name.model,
        number=at,
        title=words.get(0, Words()).title or name.model,
        description=found.card if said.description is None else said.description,
        source=said.source or place(name.model, at).uri,
        run=said.run or found.run.rpartition("/")[2],
        logged_model=said.logged_model,
        creator=said.user or found.creator,
        create_time=made.ToDatetime(UTC),
        aliases=tuple(sorted(alias for alias, version in model.aliases.items() if version == name.version)),
        tags=said.tags,
    )

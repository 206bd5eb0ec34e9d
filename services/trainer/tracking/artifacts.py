"""Artifacts of tracked runs and logged models, as content of the data service.

A path is a row here at once. What a root holds becomes a version of a dataset (`run-outputs`, as of every run) with the
first look at it and a while after the last change: until then the content is kept by the data service's time of grace.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.errors import AiosError, InvalidArgument
from aios.names import RunName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from services.trainer import run_outputs
from services.trainer import store as run_store
from services.trainer.tracking import artifact_store, logged_store, store
from services.trainer.tracking.artifact_store import File, Root
from services.trainer.tracking.paths import ArtifactNotFound, ArtifactReadOnly, Kind, Place, place
from services.trainer.tracking.reach import own_run, reach, reach_model

QUIET = timedelta(seconds=60)
"""Without a change: then a root's files become a version by themselves. Far below the grace of loose content."""
EVERY_SECONDS = 15.0
PAGE = 1_000
SEALS_MAX = 5  # of a root that changes meanwhile

_log = logging.getLogger(__name__)


class Artifacts:
    """Artifacts of the caller's project, and the loop that keeps them."""

    def __init__(self, db: Database, data: data_service_pb2_grpc.DataServiceStub, clock: Clock) -> None:
        self._db = db
        self._data = data
        self._clock = clock

    async def put(self, text: str, sha256: str, size: int, *, validate_only: bool) -> None:
        """Let a path mean content that the data service has."""
        project, wanted, now = principal().project, place(text), self._clock.now()
        if not wanted.path:
            raise InvalidArgument.of("path", "must name a file below the run's artifacts")

        def write(tx: Tx) -> None:
            _require_writable(tx, project, wanted)
            if not validate_only:
                artifact_store.put(tx, project, wanted, sha256, size, now)

        if not validate_only and (len(sha256) != 64 or size < 0):
            raise InvalidArgument.of("sha256", "must be 64 hexadecimal digits, with the size in bytes")
        await (self._db.read if validate_only else self._db.write)(write)

    async def remove(self, text: str) -> None:
        """Forget a file or a folder."""
        project, wanted, now = principal().project, place(text), self._clock.now()

        def write(tx: Tx) -> None:
            _require_writable(tx, project, wanted)
            artifact_store.remove(tx, project, wanted, now)

        await self._db.write(write)

    async def files(self, project: str, found: Place) -> list[File]:
        """Every file of the root of a place, by its path below it."""
        if found.kind is Kind.REGISTRY:
            return await self._of_version(_registered(project, found))
        listed, outputs = await self._db.read(
            lambda tx: (artifact_store.files(tx, project, found.root), _outputs(tx, project, found))
        )
        return listed if listed or not outputs else await self._of_version(outputs)

    async def download(self, text: str) -> data_service_pb2.Download:
        """Where one file's bytes are."""
        project, found = principal().project, place(text)
        version = await self._version(project, found)
        request = data_service_pb2.ListDownloadsRequest(parent=version, paths=[found.path])
        answer = await self._data.ListDownloads(request)
        if not found.path or not answer.downloads or not answer.downloads[0].url:
            raise ArtifactNotFound(f"No file lies at {found.uri}.")
        return answer.downloads[0]

    async def run(self) -> None:
        """Make versions of what has come to rest, until cancelled."""
        while True:
            before = self._clock.now() - QUIET
            for found in await self._db.read(lambda tx, before=before: artifact_store.unsealed(tx, before)):  # type: ignore[misc]
                try:
                    await self._seal(found)
                except AiosError as error:
                    _log.warning("the artifacts of %s are no version yet: %s", found.root, error.message)
            await asyncio.sleep(EVERY_SECONDS)

    async def _version(self, project: str, found: Place) -> str:
        if found.kind is Kind.REGISTRY:
            return _registered(project, found)
        known, outputs = await self._db.read(
            lambda tx: (artifact_store.root(tx, project, found.root), _outputs(tx, project, found))
        )
        if known is not None:
            return known.version if known.sealed else await self._seal(known)
        if not outputs:
            raise ArtifactNotFound(f"Nothing lies at {found.uri}.")
        return outputs

    async def _seal(self, found: Root) -> str:
        """Make a version of what a root holds now. May repeat."""
        version = ""
        for _ in range(SEALS_MAX):
            held = await self._db.read(lambda tx: artifact_store.files(tx, found.project, found.root))
            version = await self._commit(found, held) if held else ""
            if await self._db.write(lambda tx, held=held, version=version: _sealed(tx, found, held, version)):  # type: ignore[misc]
                break
        if not version:
            raise ArtifactNotFound(f"Nothing lies at mlflow-artifacts:/{found.root}.")
        return version

    async def _commit(self, found: Root, held: list[File]) -> str:
        listed = run_outputs.listed(held)
        return await run_outputs.commit(self._data, found.project, listed, found.root, _run_of(found))

    async def _of_version(self, version: str) -> list[File]:
        request = data_service_pb2.ListDownloadsRequest(parent=version, page_size=PAGE)
        found: list[File] = []
        while True:
            page = await self._data.ListDownloads(request)
            found += [File(each.file.path, each.file.sha256, each.file.size_bytes) for each in page.downloads]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def _registered(project: str, found: Place) -> str:
    return f"projects/{project}/models/{found.holder}/versions/{found.id}"


def _run_of(found: Root) -> RunName | None:
    kind = place(found.root)
    return RunName(found.project, kind.id) if kind.kind is Kind.RUN else None


def _outputs(tx: Tx, project: str, found: Place) -> str:
    """The version that a run of the platform left by itself.

    Raises:
        RunNotFound, LoggedModelNotFound: there is none of this name in the project.
    """
    if found.kind is Kind.MODEL:
        logged_store.get(tx, project, found.id)
        return ""
    return run_store.get(tx, RunName(project, found.id)).outputs_version


def _require_writable(tx: Tx, project: str, wanted: Place) -> None:
    if wanted.kind is Kind.MODEL:
        holder = reach_model(tx, project, wanted.id).experiment
    elif wanted.kind is Kind.RUN:
        name = RunName(project, wanted.id)
        reach(tx, name)
        tracked = store.get(tx, name)
        holder = tracked.experiment
        if tracked.ours and (name != own_run() or tracked.run.completed):
            raise ArtifactReadOnly(f"{tracked.run.name} is run by the platform and keeps its outputs itself.")
    else:
        raise ArtifactReadOnly("A registered version stays as it is: register another one.")
    if holder != wanted.holder:
        raise ArtifactNotFound(f"{wanted.id[:63]} is not in experiment {wanted.holder[:63]!r}.")


def _sealed(tx: Tx, found: Root, held: list[File], version: str) -> bool:
    same = artifact_store.seal(tx, found, held, version)
    if run := _run_of(found):
        before = run_store.get(tx, run)
        if before.outputs_version != version and not (before.completed and before.outputs_version):
            run_store.save(tx, before, replace(before, outputs_version=version))
    return same

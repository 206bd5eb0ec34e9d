"""What the methods of every noun need, and how they read a request."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aios.blobs import Blobs
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import dataset_pb2
from aios.errors import InvalidArgument, NotFound
from aios.names import DatasetName, ModelVersionName, ProjectName, RunName, check_id
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.data import dataset_store, mapping
from services.data.audit import Audit
from services.data.blob_store import Freed
from services.data.commits import Commits
from services.data.contents import Contents
from services.data.ingest import GRACE, Ingest
from services.data.ledger import Draft, Ledger
from services.data.logs import Change, Log
from services.data.manifests import Kind, Manifest, Origin

Context = Any

Deployments = Callable[[ModelVersionName], Awaitable[Collection[str]]]
"""Names of the deployments that serve a model version now."""


@dataclass(frozen=True)
class Parts:
    """The data service, wired."""

    db: Database
    blobs: Blobs
    contents: Contents
    ingest: Ingest
    ledger: Ledger
    clock: Clock
    deployments: Deployments
    audit: Audit
    grace: timedelta = GRACE

    @classmethod
    def of(
        cls,
        db: Database,
        blobs: Blobs,
        clock: Clock,
        deployments: Deployments,
        grace: timedelta = GRACE,
        audit_kept: timedelta = timedelta(days=365),
    ) -> "Parts":
        """Wire what the service owns."""
        contents = Contents(db, blobs)
        ingest = Ingest(db, blobs, clock, grace=grace)
        audit = Audit(db, blobs, clock, audit_kept)
        ledger = Ledger(db, blobs, contents, clock)
        return cls(db, blobs, contents, ingest, ledger, clock, deployments, audit, grace)

    async def close(self) -> None:
        """Finish changes; stop reading uploads, which can be completed later."""
        await self.ledger.close()
        await self.ingest.close()
        await self.audit.close()


class Rpcs:
    """Base of the methods of a noun."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._db, self._blobs, self._clock = parts.db, parts.blobs, parts.clock
        self._contents, self._ingest, self._ledger = parts.contents, parts.ingest, parts.ledger
        self._commits = Commits(parts.db, parts.ledger, parts.contents)

    async def _manifest(self, asked: dataset_pb2.DatasetVersion, origin: Origin, project: str) -> Manifest:
        """The manifest of the files that a caller names, one by one or by an index."""
        if asked.index_sha256:
            if asked.files:
                raise InvalidArgument.of("dataset_version.files", "must be empty where there is an index")
            field = "dataset_version.index_sha256"
            return await self._contents.indexed(project, Kind.DATASET, asked.index_sha256, origin, field)
        files = mapping.files_from_proto(asked.files)
        return Manifest.of(Kind.DATASET, files, "dataset_version.files", origin)

    async def _make_dataset(self, name: DatasetName) -> None:
        """Make a dataset that its first version needs. One that is there stays as it is."""

        def decide(tx: Tx) -> Draft | dataset_pb2.Dataset:
            try:
                return mapping.dataset_to_proto(dataset_store.get_dataset(tx, name))
            except NotFound:
                return Draft(Change.CREATED, {"description": ""})

        await self._ledger.change(Log.of(name), decide, lambda tx: dataset_pb2.Dataset(), dataset_pb2.Dataset)

    def _deletion(self, freed: Freed) -> pb.Deletion:
        return pb.Deletion(
            freed_bytes=freed.freed_bytes,
            freed_blobs=freed.freed_blobs,
            shared_bytes=freed.shared_bytes,
            purge_time=mapping.stamp(self._now() + self._parts.grace),
        )

    def _now(self) -> datetime:
        return self._clock.now()


def project_of(parent: str) -> str:
    """The project that a request is about."""
    return check_id(ProjectName.parse(parent, "parent").project, "parent")


def run_of(text: str, field: str) -> RunName:
    """A run's name whose ids a caller may give."""
    run = RunName.parse(text, field)
    check_id(run.project, field)
    check_id(run.run, field)
    return run

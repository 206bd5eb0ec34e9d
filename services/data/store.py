"""The index of what the bucket holds, in SQL: manifests here, each noun in a file of its own beside this one.

Plain functions of a transaction. What changes the index is a fold: it applies an entry that is in a log already.
"""

from dataclasses import dataclass

from sqlalchemy import insert, select

from aios.records import Tx
from services.data import blob_store
from services.data.edge.tables import metadata as metadata
from services.data.manifests import Manifest
from services.data.tables import manifests


@dataclass(frozen=True)
class Content:
    """A manifest and the blobs that it needs, its index among them."""

    manifest: Manifest
    pins: frozenset[str]


def add_manifest(tx: Tx, project: str, content: Content) -> None:
    """Index a manifest that the bucket has, and keep its blobs. One that is indexed already is left alone."""
    manifest = content.manifest
    key = {"project": project, "sha256": manifest.sha256}
    if tx.execute(select(manifests.c.sha256).filter_by(**key)).one_or_none():
        return
    row = {
        "meaning": manifest.meaning,
        "index_sha256": manifest.index.sha256 if manifest.index else "",
        "file_count": manifest.file_count,
        "size_bytes": manifest.size_bytes,
    }
    tx.execute(insert(manifests).values(key | row))
    blob_store.pin(tx, project, manifest.sha256, content.pins)

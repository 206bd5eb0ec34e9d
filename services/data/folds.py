"""What an entry of a log does to the index: the one way by which anything becomes visible, live and when the index is
made again from the bucket.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from aios.common.v1 import tensor_pb2
from aios.errors import NotFound
from aios.names import CheckpointName, DatasetName, DatasetVersionName, ModelName, ModelVersionName, RunName
from aios.records import Tx
from services.data import (
    blob_store,
    checkpoint_store,
    dataset_store,
    entry_store,
    lineage_store,
    mapping,
    model_store,
)
from services.data.checkpoints import Checkpoint
from services.data.datasets import Dataset
from services.data.lineage import Edge, Relation
from services.data.logs import Change, Entry, Log
from services.data.manifests import VERSION_ID_CHARS
from services.data.models import Candidate, Model
from services.data.store import Content


@dataclass(frozen=True)
class Event:
    """What is to be announced of a change."""

    noun: str
    resource: str
    type: str
    payload: Message | Mapping[str, Any]


def fold(tx: Tx, log: Log, entry: Entry, content: Content | None) -> list[Event]:
    """Apply one entry, the next of its log.

    Args:
        content: Of the version that the entry makes; None where it makes none, or one that a later entry deletes: then
            only what came from what is remembered.
    """
    entry_store.add_entry(tx, log, entry)
    match log.kind:
        case "datasets":
            return list(_dataset(tx, DatasetName(log.project, log.id), entry, content))
        case "models":
            return list(_model(tx, ModelName(log.project, log.id), entry, content))
        case "runs":
            return list(_run(tx, RunName(log.project, log.id), entry, content))
        case _:
            lineage_store.add_edges(tx, log.project, edges_of(entry))
            return []


def announce(tx: Tx, log: Log, events: list[Event]) -> None:
    """Emit what a fold has changed."""
    for event in events:
        tx.emit(event.noun, log.project, event.resource, event.type, event.payload)


def edges_of(entry: Entry) -> list[Edge]:
    """The edges that an entry records."""
    return [Edge(source, target, Relation(relation)) for source, target, relation in entry.body["edges"]]


def _dataset(tx: Tx, name: DatasetName, entry: Entry, content: Content | None) -> Iterator[Event]:
    body = entry.body
    match entry.change:
        case Change.CREATED:
            dataset_store.add_dataset(tx, Dataset(name, body["description"], "", entry.time))
        case Change.COMMITTED if content is None:
            version_id = entry.manifest[:VERSION_ID_CHARS]
            dataset_store.set_ref(tx, name, body["branch"], version_id, tag=False)
            _record_origin(tx, name, entry)
            return
        case Change.COMMITTED:
            assert content is not None
            branch, message = body["branch"], body["message"]
            version, new = dataset_store.commit(tx, name, content, branch, message, entry.creator, entry.time)
            if new:
                _record_origin(tx, name, entry)
                made = mapping.dataset_version_to_proto(version)
                yield Event("dataset_version", f"{name.dataset}/{version.name.version}", "created", made)
            return
        case Change.REF_SET:
            dataset_store.set_ref(tx, name, body["ref"], body["version"], tag=body["tag"])
        case Change.REF_DELETED:
            dataset_store.delete_ref(tx, name, body["ref"])
        case Change.VERSION_DELETED:
            version_name = DatasetVersionName(name.project, name.dataset, body["version"])
            try:
                gone = dataset_store.get_version(tx, version_name)
            except NotFound:  # made again from the bucket, where it is no more
                return
            dataset_store.delete_version(tx, version_name)
            blob_store.release(tx, name.project, gone.manifest_sha256, entry.time)
            yield Event(
                "dataset_version", f"{name.dataset}/{body['version']}", "deleted", {"name": str(version_name)}
            )
            return
        case Change.ERASED:
            yield from _erased(tx, name, entry)
            return
        case Change.DELETED:
            held = dataset_store.manifests_of(tx, name)
            dataset_store.delete_dataset(tx, name)
            for manifest in dict.fromkeys(held):
                blob_store.release(tx, name.project, manifest, entry.time)
            yield Event("dataset", name.dataset, "deleted", {"name": str(name)})
            return
    dataset = mapping.dataset_to_proto(dataset_store.get_dataset(tx, name))
    yield Event("dataset", name.dataset, entry.change.value, dataset)


def _erased(tx: Tx, name: DatasetName, entry: Entry) -> Iterator[Event]:
    body = entry.body
    tags = dataset_store.get_dataset(tx, name).tags
    for ref, version in body["refs"].items():
        dataset_store.set_ref(tx, name, ref, version, tag=ref in tags)
    if body["branch"]:
        dataset_store.delete_ref(tx, name, body["branch"])
    for version in body["versions"]:
        version_name = DatasetVersionName(name.project, name.dataset, version)
        try:
            gone = dataset_store.get_version(tx, version_name)
        except NotFound:  # made again from the bucket, where it is no more
            continue
        dataset_store.delete_version(tx, version_name)
        blob_store.release(tx, name.project, gone.manifest_sha256, entry.time)
        yield Event("dataset_version", f"{name.dataset}/{version}", "deleted", {"name": str(version_name)})
    dataset = mapping.dataset_to_proto(dataset_store.get_dataset(tx, name))
    yield Event("dataset", name.dataset, "erased", dataset)


def _model(tx: Tx, name: ModelName, entry: Entry, content: Content | None) -> Iterator[Event]:
    body = entry.body
    if entry.change is Change.CREATED or (
        entry.change is Change.REGISTERED and not model_store.has_model(tx, name)
    ):
        model_store.add_model(tx, Model(name, body.get("description", ""), 0, entry.time))
        made = mapping.model_to_proto(model_store.get_model(tx, name))
        yield Event("model", name.model, "created", made)
    match entry.change:
        case Change.CREATED:
            pass
        case Change.REGISTERED if content is None:
            model_store.skip_number(tx, name, body["number"])
            _record_run(tx, name, entry)
        case Change.REGISTERED:
            assert content is not None
            version = model_store.register(tx, name, body["number"], content, _candidate(name, entry))
            _record_run(tx, name, entry)
            registered = mapping.model_version_to_proto(version)
            yield Event("model_version", f"{name.model}/{body['number']}", "registered", registered)
        case Change.VERSION_DELETED:
            version_name = ModelVersionName(name.project, name.model, str(body["number"]))
            try:
                gone = model_store.get_version(tx, version_name)
            except NotFound:  # made again from the bucket, where it is no more
                return
            model_store.delete_version(tx, name, body["number"])
            blob_store.release(tx, name.project, gone.manifest_sha256, entry.time)
            resource = f"{name.model}/{body['number']}"
            yield Event("model_version", resource, "deleted", {"name": str(version_name)})
        case Change.DELETED:
            held = model_store.manifests_of(tx, name)
            model_store.delete_model(tx, name)
            for manifest in held:
                blob_store.release(tx, name.project, manifest, entry.time)
            yield Event("model", name.model, "deleted", {"name": str(name)})
        case _:
            if entry.change is Change.ALIAS_SET:
                model_store.set_alias(tx, name, body["alias"], body["number"])
            else:
                model_store.delete_alias(tx, name, body["alias"])
            changed = mapping.model_to_proto(model_store.get_model(tx, name))
            yield Event("model", name.model, entry.change.value, changed)


def _run(tx: Tx, run: RunName, entry: Entry, content: Content | None) -> Iterator[Event]:
    if entry.change is Change.PRUNED:
        for checkpoint_id in entry.body["checkpoints"]:
            name = CheckpointName(run.project, run.run, checkpoint_id)
            if manifest := checkpoint_store.remove(tx, name):
                blob_store.release(tx, run.project, manifest, entry.time)
                yield Event("checkpoint", f"{run.run}/{name.id}", "deleted", {"name": str(name)})
        return
    body = entry.body
    checkpoint = Checkpoint(run, body["epoch"], body["step"], entry.manifest, body["metrics"], entry.time)
    edge = Edge(str(run), str(checkpoint.name), Relation.PRODUCED)
    lineage_store.add_edges(tx, run.project, [edge])
    if content is None:
        return
    checkpoint_store.add(tx, checkpoint, content)
    made = mapping.checkpoint_to_proto(checkpoint)
    yield Event("checkpoint", f"{run.run}/{checkpoint.name.id}", "created", made)


def _candidate(name: ModelName, entry: Entry) -> Candidate:
    body = entry.body
    return Candidate(
        mapping.signature_from_proto(ParseDict(body["signature"], tensor_pb2.Signature())),
        body["metrics"],
        RunName(name.project, body["run"]) if body["run"] else None,
        entry.creator,
        entry.time,
        body["card"],
        body.get("rejected", ""),  # entries of earlier releases do not say it
    )


def _record_run(tx: Tx, name: ModelName, entry: Entry) -> None:
    if run := entry.body["run"]:
        version = ModelVersionName(name.project, name.model, str(entry.body["number"]))
        edge = Edge(str(RunName(name.project, run)), str(version), Relation.PRODUCED)
        lineage_store.add_edges(tx, name.project, [edge])


def _record_origin(tx: Tx, name: DatasetName, entry: Entry) -> None:
    version = f"{name}/versions/{entry.manifest[:VERSION_ID_CHARS]}"
    edges = [Edge(source, version, Relation.INPUT) for source in entry.body.get("inputs", ())]
    if run := entry.body.get("run"):
        edges.append(Edge(run, version, Relation.PRODUCED))
    if label_project := entry.body.get("label_project"):
        edges += [Edge(source, label_project, Relation.INPUT) for source in entry.body.get("inputs", ())]
        edges.append(Edge(label_project, version, Relation.PRODUCED))
    lineage_store.add_edges(tx, name.project, edges)

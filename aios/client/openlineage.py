"""Lineage as OpenLineage events: what ran as runs of jobs, what they read and made as datasets.

Pure. Source: OpenLineage specification 2-0-2, object `RunEvent`; facets `DatasetVersionDatasetFacet` 1-0-1 and
`ParentRunFacet` 1-1-0.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

PRODUCER = "urn:aios:lineage"
_SPEC = "https://openlineage.io/spec"
SCHEMA = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_VERSION_FACET = f"{_SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
_PARENT_FACET = f"{_SPEC}/facets/1-1-0/ParentRunFacet.json#/$defs/ParentRunFacet"
_DATA = ("datasets", "models")
"""Collections whose versions are data; checkpoints are too. Everything else is something that ran."""

Edge = tuple[str, str]
"""Full names of source and target."""


def events(edges: Iterable[Edge], address: str, now: datetime) -> Sequence[Mapping[str, Any]]:
    """One event for everything that ran, by name.

    Args:
        address: Of the platform, `https://aios.example.org`: names are told apart by it.
        now: UTC. The graph does not say when something ran, so this is the time of every event.
    """
    found = sorted(set(edges))
    makers: dict[str, list[str]] = {}
    for source, target in found:
        if is_data(target) and not is_data(source):
            makers.setdefault(target, []).append(source)
    inputs: dict[str, set[str]] = {}
    outputs: dict[str, set[str]] = {}
    parents: dict[str, str] = {}
    for source, target in found:
        if is_data(source) and is_data(target):
            # Nobody says what made it: then a job that is named like it did.
            for maker in makers.get(target) or [f"{target}/derivation"]:
                inputs.setdefault(maker, set()).add(source)
                outputs.setdefault(maker, set()).add(target)
        elif is_data(source):
            inputs.setdefault(target, set()).add(source)
        elif is_data(target):
            outputs.setdefault(source, set()).add(target)
        else:
            parents.setdefault(target, source)
    ran = sorted({*inputs, *outputs, *parents})
    return [
        {
            "eventType": "COMPLETE",
            "eventTime": now.isoformat(),
            "run": {"runId": run_id(each, address), "facets": _parent(parents.get(each), address)},
            "job": _job(each, address),
            "inputs": [_dataset(one, address) for one in sorted(inputs.get(each, ()))],
            "outputs": [_dataset(one, address) for one in sorted(outputs.get(each, ()))],
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
        }
        for each in ran
    ]


def is_data(name: str) -> bool:
    """Whether a name is of something that is read and made; the other names are of what reads and makes."""
    parts = name.split("/")
    return (parts[2] in _DATA and parts[-2] == "versions") or "checkpoints" in parts


def run_id(name: str, address: str) -> str:
    """Always the same for the same resource of the same platform."""
    return str(uuid5(NAMESPACE_URL, f"{address}/v1/{name}"))


def _job(name: str, address: str) -> Mapping[str, Any]:
    return {"namespace": _namespace(name, address), "name": name.split("/", 2)[2], "facets": {}}


def _parent(name: str | None, address: str) -> Mapping[str, Any]:
    if name is None:
        return {}
    job = {"namespace": _namespace(name, address), "name": name.split("/", 2)[2]}
    facet = {"run": {"runId": run_id(name, address)}, "job": job}
    return {"parent": {**facet, "_producer": PRODUCER, "_schemaURL": _PARENT_FACET}}


def _dataset(name: str, address: str) -> Mapping[str, Any]:
    body, _, version = name.split("/", 2)[2].rpartition("/")
    facet = {"datasetVersion": version, "_producer": PRODUCER, "_schemaURL": _VERSION_FACET}
    return {
        "namespace": _namespace(name, address),
        "name": body.removesuffix("/versions"),
        "facets": {"version": facet},
    }


def _namespace(name: str, address: str) -> str:
    return f"{address}/{'/'.join(name.split('/', 2)[:2])}"

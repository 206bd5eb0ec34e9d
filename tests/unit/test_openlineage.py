"""Lineage as OpenLineage says it, held against the classes of its own client."""

from datetime import UTC, datetime
from typing import Any

import pytest

from aios.client.openlineage import events, run_id

P = "projects/demo"
RAW, CLEAN = f"{P}/datasets/raw/versions/0a", f"{P}/datasets/clean/versions/0b"
RUN, MODEL = f"{P}/runs/r1", f"{P}/models/m/versions/3"
DEPLOYED, REVISION = f"{P}/deployments/d", f"{P}/deployments/d/revisions/1"
EDGES = [
    (RAW, CLEAN),
    (CLEAN, RUN),
    (RUN, MODEL),
    (RUN, f"{RUN}/checkpoints/1-2"),
    (MODEL, REVISION),
    (DEPLOYED, REVISION),
]
AT = "https://aios.example.org"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_what_ran_has_what_it_read_and_made() -> None:
    said = {each["job"]["name"]: each for each in events(EDGES, AT, NOW)}

    assert set(said) == {"datasets/clean/versions/0b/derivation", "runs/r1", "deployments/d/revisions/1"}
    run = said["runs/r1"]
    assert [(each["name"], each["facets"]["version"]["datasetVersion"]) for each in run["inputs"]] == [
        ("datasets/clean", "0b")
    ]
    assert [each["name"] for each in run["outputs"]] == ["models/m", "runs/r1/checkpoints"]
    assert run["run"]["runId"] == run_id(RUN, AT) != run_id(RUN, "https://other.example.org")
    revision = said["deployments/d/revisions/1"]
    assert revision["run"]["facets"]["parent"]["job"]["name"] == "deployments/d"
    assert [each["name"] for each in said["datasets/clean/versions/0b/derivation"]["inputs"]] == [
        "datasets/raw"
    ]


def test_what_made_a_version_is_not_made_up_where_it_is_known() -> None:
    said = events([(RAW, CLEAN), (RUN, CLEAN)], AT, NOW)
    assert [(each["job"]["name"], len(each["inputs"]), len(each["outputs"])) for each in said] == [
        ("runs/r1", 1, 1)
    ]


def test_the_classes_of_the_specification_take_every_event() -> None:
    client = pytest.importorskip("openlineage.client.event_v2")
    version = pytest.importorskip("openlineage.client.generated.dataset_version_dataset")
    parent = pytest.importorskip("openlineage.client.generated.parent_run")
    serde = pytest.importorskip("openlineage.client.serde").Serde

    def dataset(kind: Any, said: Any) -> Any:
        facet = version.DatasetVersionDatasetFacet(said["facets"]["version"]["datasetVersion"])
        return kind(said["namespace"], said["name"], facets={"version": facet})

    for each in events(EDGES, AT, NOW):
        facets = {}
        if said := each["run"]["facets"].get("parent"):
            facets["parent"] = parent.ParentRunFacet(parent.Run(**said["run"]), parent.Job(**said["job"]))
        made = client.RunEvent(
            eventTime=each["eventTime"],
            producer=each["producer"],
            eventType=client.RunState[each["eventType"]],
            run=client.Run(each["run"]["runId"], facets),
            job=client.Job(each["job"]["namespace"], each["job"]["name"]),
            inputs=[dataset(client.InputDataset, one) for one in each["inputs"]],
            outputs=[dataset(client.OutputDataset, one) for one in each["outputs"]],
        )
        assert _bare(serde.to_dict(made)) == _bare(each)


def _bare(said: Any) -> Any:
    """Without what each producer says in its own way, and without what is empty."""
    if isinstance(said, dict):
        named = ("_producer", "_schemaURL", "schemaURL")
        kept = {key: _bare(value) for key, value in said.items() if key not in named}
        return {key: value for key, value in kept.items() if value not in ({}, [], None)}
    return [_bare(each) for each in said] if isinstance(said, list) else said

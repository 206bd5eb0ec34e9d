"""Data prepared by commands: a table put under pseudonyms and divided, each a job that leaves a version and a trace."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aios.client import Client
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(300)
ROWS = 100


def test_a_table_is_prepared_step_by_step_and_each_step_is_told(
    aios: Stack, client: Client, tmp_path: Path
) -> None:
    with (tmp_path / "people.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["mail", "age", "label"])
        table.writerows(
            [f"p{n % 50}@example.org", 20 + n % 40, "yes" if n % 4 else "no"] for n in range(ROWS)
        )
    pushed = aios.json("dataset", "push", "people", tmp_path / "people.csv")

    hidden = aios.json(
        *("transform", "submit", "pseudonymise", "people", "people-hidden", "--set", "columns=mail", "--wait")
    )
    parted = aios.json(
        *("transform", "submit", "split", "people-hidden", "people-parted", "--wait"),
        *("--set", "by=stratified", "--set", "column=label", "--set", "seed=3"),
    )

    assert (hidden["state"], parted["state"]) == ("STATE_SUCCEEDED", "STATE_SUCCEEDED")
    version = client.datasets.version(parted["outputVersion"])
    assert (version.origin.transform, list(version.origin.inputs)) == ("split/1", [hidden["outputVersion"]])
    assert list(version.origin.privacy) == ["pseudonymised"]

    client.datasets.pull(version.name, tmp_path / "parted")
    made = {name: pq.read_table(tmp_path / "parted" / f"{name}.parquet") for name in ("train", "test")}
    assert {name: each.num_rows for name, each in made.items()} == {"train": 80, "test": 20}
    assert len({each for part in made.values() for each in part["mail"].to_pylist()}) == 50
    held = b"".join(path.read_bytes() for path in (tmp_path / "parted").rglob("*") if path.is_file())
    assert b"example.org" not in held
    assert client.transforms.report(version.name)["rows"] == {"train": 80, "test": 20}

    upwards = json.dumps(aios.json("lineage", version.name, "--direction", "up"))
    assert pushed["name"] in upwards
    spans = {span.name for span in client.traces.get(hidden["traceId"]).spans}
    assert {"transform process", "pseudonymise"} <= spans

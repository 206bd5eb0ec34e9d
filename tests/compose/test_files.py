"""The compose files as they are written: what needs no engine to be seen."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios import scheduling_proto
from aios.config import Settings
from aios.names import JobName, RevisionName
from aios.scheduling import Scheduling
from aios.stack.distribute import NEEDS
from services.inference import deployments
from services.inference.deployments import Spec
from services.inference.mapping import job_of
from services.inference.revisions import Artifact, Revision
from services.scheduler import jobs
from services.scheduler.agent import capacity
from services.scheduler.nodes import Node, NodeState
from services.scheduler.plan import Snapshot, plan
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
FILES = sorted(FOLDER.glob("compose*.yaml"))
BASE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SETTING = re.compile(r"\$\{([A-Z0-9_]+)(:-)?")
KNOWN = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
SECRETS = "-secrets"
LABELS = "AIOS_NODE_LABELS"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_setting_is_in_the_example(file: Path) -> None:
    asked = SETTING.findall(file.read_text())
    assert {name for name, _ in asked} <= KNOWN.keys()
    given = {line.partition("=")[0] for line in (FOLDER / ".env.example").read_text().splitlines()}
    assert {name for name, default in asked if not default} <= given


def test_every_image_from_elsewhere_is_named_by_digest() -> None:
    images = {name: value for name, value in KNOWN.items() if name.endswith("_IMAGE") and value}
    assert images
    assert [name for name, value in images.items() if not re.search(r"@sha256:[0-9a-f]{64}$", value)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_container_is_confined_and_comes_back(file: Path) -> None:
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        if "image" not in service:
            continue  # more of one that another file has
        assert name == "secrets" or service["restart"] == "unless-stopped", name
        # PostgreSQL's image begins as root, to own its volume.
        assert name == "postgres" or (service["read_only"] and service["cap_drop"] == ["ALL"]), name
        assert "no-new-privileges:true" in service.get("security_opt", []) or name == "postgres", name


def test_every_container_reads_the_secrets_that_are_its_own() -> None:
    """A mistyped volume would be an empty one."""
    names = {volume for file in FILES for volume in yaml.safe_load(file.read_text()).get("volumes", {})}
    assert {name.removesuffix(SECRETS) for name in names if name.endswith(SECRETS)} == set(NEEDS)
    for name, service in BASE["services"].items():
        held = {volume for volume in _mounted(service) if volume.endswith(SECRETS)}
        assert name == "secrets" or held <= {f"{name.removeprefix('serving-')}{SECRETS}"}, name


def test_replicas_go_to_the_serving_worker_and_training_stays_away_from_it() -> None:
    labels = capacity.labels(Settings(node_labels=BASE["services"]["serving-worker"]["environment"][LABELS]))
    worker = Node("worker", NodeState.READY, Resources(2000))

    def goes_to(said: Scheduling, room: int) -> list[str]:
        serving = Node("serving", NodeState.READY, Resources(room), labels=labels)
        spec = JobSpec(("true",), Resources(1000), scheduling=said)
        job = replace(jobs.create(JobName("p", "j"), spec, NOW), number=1)
        return [start.nodes[0] for start in plan(Snapshot([job], [worker, serving]), NOW).starts]

    spec = Spec("projects/p/models/m/versions/1", 1, deployments.Resources(1000, 1))
    revision = Revision(RevisionName("p", "digits", "1"), spec, Artifact("", b""), NOW)
    replica = job_of(revision).spec.scheduling
    assert goes_to(scheduling_proto.from_proto(replica, "scheduling"), 4000) == ["serving"]
    assert goes_to(scheduling_proto.from_proto(replica, "scheduling"), 500) == ["worker"], "the other is full"
    assert goes_to(Scheduling(), 4000) == ["worker"]


def _mounted(service: Mapping[str, Any]) -> list[str]:
    return [volume.partition(":")[0] for volume in service.get("volumes", [])]

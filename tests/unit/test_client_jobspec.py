"""job.yaml: what it says, and what is refused."""

from typing import Any

import pytest

from aios.client import jobspec
from aios.errors import InvalidArgument
from aios.scheduler.v1 import job_pb2


def test_a_job_says_what_a_run_says_and_what_only_jobs_have() -> None:
    read = jobspec.parse(
        {
            "name": "index",
            "command": "python work.py --all",
            "kind": "service",
            "ports": ["http"],
            "resources": {"cpu": 0.5, "memory": "2Gi", "accelerators": {"gpu": 1}},
            "environment": {"LEVEL": 3},
            "priority": 5,
            "queue": "lab",
            "stop_grace": 2,
            "scheduling": {"node_selector": {"zone": "a"}},
            "requirements": "packages/3",
        }
    )
    spec = read.spec
    assert read.job_id == "index"
    assert (spec.kind, list(spec.ports)) == (job_pb2.JobSpec.KIND_SERVICE, ["http"])
    assert list(spec.command) == ["python", "work.py", "--all"]
    assert (spec.resources.cpu_millis, spec.resources.memory_bytes) == (500, 2 << 30)
    assert dict(spec.resources.accelerators) == {"gpu": 1}
    assert dict(spec.environment) == {"LEVEL": "3"}
    assert (spec.priority, spec.queue, spec.stop_grace.seconds) == (5, "queues/lab", 2)
    assert dict(spec.scheduling.node_selector) == {"zone": "a"}
    assert spec.requirements == "datasets/packages/versions/3"


def test_a_command_alone_is_a_job_of_one_core() -> None:
    spec = jobspec.parse({"command": ["true"]}).spec
    assert (spec.kind, spec.resources.cpu_millis) == (job_pb2.JobSpec.KIND_BATCH, 1000)
    assert not spec.HasField("stop_grace")


@pytest.mark.parametrize(
    ("said", "cpu_millis", "memory_bytes"),
    [
        ({"cpu": 2}, 2000, 1 << 30),
        ({"memory": "2Gi"}, 1000, 2 << 30),
        ({"accelerators": {"gpu": 1}}, 1000, 1 << 30),
    ],
)
def test_what_a_job_does_not_name_of_its_resources_it_gets_as_if_it_named_none(
    said: dict[str, Any], cpu_millis: int, memory_bytes: int
) -> None:
    resources = jobspec.parse({"command": ["true"], "resources": said}).spec.resources
    assert (resources.cpu_millis, resources.memory_bytes) == (cpu_millis, memory_bytes)
    assert dict(resources.accelerators) == said.get("accelerators", {})


@pytest.mark.parametrize(("key", "value"), [("kind", ["batch"]), ("resources", [1]), ("resources", "2")])
def test_a_value_of_another_kind_is_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        jobspec.parse({"command": ["true"], key: value})
    assert refused.value.fields.keys() == {key}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        jobspec.parse(
            {"comand": "true", "kind": "cron", "ports": "http", "priority": "high", "requirements": 3}
        )
    assert refused.value.fields.keys() == {"comand", "command", "kind", "ports", "priority", "requirements"}
    assert "did you mean command" in refused.value.fields["comand"]

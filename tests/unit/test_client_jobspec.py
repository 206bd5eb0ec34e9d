"""job.yaml: what it says, and what is refused."""

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


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        jobspec.parse(
            {"comand": "true", "kind": "cron", "ports": "http", "priority": "high", "requirements": 3}
        )
    assert refused.value.fields.keys() == {"comand", "command", "kind", "ports", "priority", "requirements"}
    assert "did you mean command" in refused.value.fields["comand"]
